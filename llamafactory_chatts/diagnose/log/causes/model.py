"""Bases, tokenizers, adapters and checkpoints: what does not fit the libraries, the recipe or each other."""

import re

from ..row import Row


_VOCABULARY = re.compile(r"embed_tokens|lm_head|wte|word_embeddings|embed_out|shared\.weight|output_layer")
_NEWER_TOKENIZER = (
    "tokenizer_config.json was written by another transformers than the one installed here (a newer one writes lists "
    "and classes that an older one does not know)"
)
_OTHER_TOKENIZER = "{pip transformers}; or take the tokenizer's files from the base's page again"


def _mismatch(match: re.Match[str]) -> tuple[str, str]:
    """Say what two different shapes of a weight come from, and what to change."""
    has, wants = (list(map(int, re.findall(r"\d+", match[key]))) for key in ("has", "wants"))
    name, shapes = match["name"] or "", f"{match['has']} there and {match['wants']} here"
    weight = name or "a weight"
    if has == [0]:
        return (
            f"the checkpoint holds empty weights ({shapes}): it was saved under ZeRO-3 without gathering them",
            "Make whole weights of it: `python zero_to_fp32.py . OUT` in its folder; for the next run "
            "stage3_gather_16bit_weights_on_model_save: true in the DeepSpeed file",
        )

    if wants == [0]:
        return (
            f"under ZeRO-3 this process holds no part of {weight} ({shapes}): weights were loaded without gathering "
            "them",
            "Load the checkpoint in one process without DeepSpeed (merge it with `llamafactory-cli export` first), or "
            "use ZeRO-2; weights resized or added before loading do the same: no resize_vocab with ZeRO-3",
        )

    if has[1:] == wants[1:] and (_VOCABULARY.search(name) or min(has[0], wants[0]) > 20000):
        return (
            f"the vocabularies differ: {weight} has {has[0]} rows in the checkpoint and {wants[0]} in the model",
            "Give the tokenizer and the base that the checkpoint was trained with: tokens were added to one of the "
            "two (resize_vocab, add_tokens, new_special_tokens, the template); set the same keys as in that training",
        )

    fix = "Give the base that the adapter was trained on (base_model_name_or_path in its adapter_config.json) and the "
    fix += "same lora_rank"
    at = 0 if "lora_A" in name else 1  # where the rank stands in the shape
    if "lora_" in name and len(has) == len(wants) == 2 and has[1 - at] == wants[1 - at]:
        return f"the adapter has another lora_rank: {has[at]} there and {wants[at]} here ({name})", fix

    if any(
        len(a) == len(b) == 2 and a[1] == 1 and a[0] * 2 == b[0] * b[1] for a, b in ((has, wants), (wants, has))
    ):  # packed 4-bit weights on one side
        return (
            f"quantised and plain weights were mixed: {weight} is {shapes}",
            "Load the same kind on both sides: remove quantization_bit, or merge and save without it",
        )

    return f"adapter or checkpoint belong to another base: {weight} is {shapes}", fix


def _product(match: re.Match[str]) -> str:
    if match["b"].startswith("1x"):
        return "4-bit weights were used as if they were plain ones"

    shapes = f"{match['a']} and {match['b']}"
    return f"a layer and its input do not fit ({shapes}): config.json or adapter belong to other weights"


# fmt: off
ROWS = (
    Row(r"(?:size mismatch for (?P<name>[\w.]+): copying a param with shape (?P<has>torch\.Size\(\[[^\]]*\]\)) "
        r"from\s+checkpoint, the shape in current model is (?P<wants>torch\.Size\(\[[^\]]*\]\)))",
        _mismatch),
    Row(r"(?P<name>[\w.]*weight)?[^\n]*Reinit due to size "
        r"mismatch[^\n]*?(?P<has>torch\.Size\(\[[^\]]*\]\))[^\n]*?(?P<wants>torch\.Size\(\[[^\]]*\]\))",
        _mismatch, lines=("size mismatch",)),
    Row(r"Trying to set a tensor of shape (?P<has>(?:torch\.Size\()?\[[^\]]*\]\)?) in \"(?P<name>[\w.]+)\" \(which "
        r"has shape (?P<wants>(?:torch\.Size\()?\[[^\]]*\]\)?)\)",
        _mismatch),
    Row(r"ignore_mismatched_sizes",
        "weights of the checkpoint and of the model have different shapes",
        "The report above the error names them: give the config.json that belongs to the weights, the same "
        "vocabulary, and no checkpoint that ZeRO-3 saved without gathering", likely=True),
    Row(r"'weight' must be 2-D|weight tensor should be at least 2D|tensor\.shape\[0\] \(0\)|mat2 must be a matrix, "
        r"got 1-D tensor|shape '\[[^\]]*\]' is invalid for input of size 0",
        "a weight is empty here: ZeRO-3 holds it in parts, and it was used outside of the forward pass that gathers "
        "it",
        "Use ZeRO-2, or take out what touches single weights (resize_vocab, a second model, generation) under ZeRO-3",
        likely=True),
    Row(r"(?:Missing|Unexpected) key\(s\) in state_dict: (?P<keys>[^\n]{0,200})",
        "the checkpoint's weights have other names than the model's: {keys}",
        "Give the base and the settings (finetuning_type, lora_target, timeseries_tuning) that the checkpoint was "
        "trained with"),
    Row(r"zero_pp_rank_\d+|can't find checkpoint|(?:trainer_state\.json|optimizer\.pt|scheduler\.pt)'?[^\n]*(?:not "
        r"found|does not exist)|No such file or directory: '?[^'\n]*(?:trainer_state\.json|optimizer\.pt|"
        r"scheduler\.pt)",
        "the checkpoint is not whole: the state of optimizer and trainer is not in it (save_only_model: true, a write "
        "that broke off, or another launcher wrote it)",
        "Resume from another checkpoint-N with the launcher that wrote it; or start anew from its weights: "
        "adapter_name_or_path (LoRA) or model_name_or_path in place of resume_from_checkpoint"),
    Row(r"size of tensor a \((?P<a>\d{5,7})\) must match the size of tensor b \((?P<b>\d{5,7})\) at non-singleton "
        r"dimension 0",
        "the vocabularies differ: {a} rows on one side, {b} on the other",
        "Give the tokenizer and the base that belong together; set resize_vocab, add_tokens and the template as in "
        "the training before"),
    Row(r"mat1 and mat2 shapes cannot be multiplied \((?P<a>\d+x\d+) and (?P<b>\d+x\d+)\)",
        _product,
        "Give base, config.json and adapter that belong together; load quantised bases with quantization_bit and "
        "bitsandbytes only, under ZeRO-3 none", likely=True),
    Row(r"loaded state dict (?:contains a parameter group|has a different number of parameter groups)|doesn't match "
        r"the size of optimizer's group",
        "the checkpoint's optimizer belongs to other trained weights than this recipe's",
        "Resume with the settings of the first run (lora_target, timeseries_tuning, timeseries_sft_lr, freeze keys, "
        "optim); else start anew from its weights: adapter_name_or_path in place of resume_from_checkpoint"),
    Row(r"model type [`'\"](?P<kind>chatts\w*|\w*ts)[`'\"] but Transformers does not recognize|KeyError: "
        r"'(?P<key>chatts\w*)'",
        "this program does not know ChatTS: the plug-in is not active in the environment that runs (or the program is "
        "not LLaMA-Factory)",
        "Run `lmf-chatts doctor` with the same Python; unset LLAMAFACTORY_CHATTS=0; in scripts load with "
        "llamafactory_chatts.model.from_pretrained; serve with a vLLM that has ChatTS"),
    Row(r"model type [`'\"](?P<kind>[\w.-]+)[`'\"] but Transformers does not recognize",
        "this transformers does not know the model type {kind}: it is older than the model, or the plug-in that "
        "brings it is not active in this environment",
        "{pip transformers}; `lmf-chatts doctor` shows whether the plug-in is active"),
    Row(r"Unrecognized (?:configuration class|processing class|model in) (?P<what>\S+)|Should have a `model_type` key|"
        r"(?:requires you to execute|contains custom code which must be executed)|`?trust_remote_code=True`? to|"
        r"(?:KeyError|ModuleNotFoundError)[^\n]*transformers_modules",
        "transformers does not know this kind of model and would run the checkpoint's own code: for ChatTS the "
        "plug-in is not active in this environment, else config.json lacks its model_type",
        "Run `lmf-chatts doctor` with the same Python; check that model_name_or_path is the folder of a whole model "
        "(config.json)", likely=True),
    Row(r"does not match any variant|did not match any variant of untagged enum (?P<what>\w+)|(?:missing|unknown) "
        r"field [`'\"]\w+[`'\"] at line|PreTokenizerTypeWrapper|invalid type: [^\n]*, expected [^\n]* at line \d+ "
        r"column",
        "tokenizer.json was written by a newer tokenizers than the one installed here (or is damaged)",
        "{pip transformers}, which brings the tokenizers that belongs to it; or take tokenizer.json from the base's "
        "page again"),
    Row(r"Tokenizer class (?P<name>\w+) does not exist|argument '(?:vocab|merges)': |extra_special_tokens",
        _NEWER_TOKENIZER,
        _OTHER_TOKENIZER),
    Row(r"'list' object has no attribute '(?:keys|items)'",
        _NEWER_TOKENIZER,
        _OTHER_TOKENIZER, frame=r"token|^$|auto|processing|(?:site|dist)-packages"),
    Row(r"tokenizer does not have a padding token",
        "the tokenizer has no padding token: its files are not those of a ChatTS or Qwen base",
        "Take the tokenizer's files from the base's page; model_name_or_path must hold them beside the weights"),
    Row(r"Couldn't instantiate the backend tokenizer|Converting from SentencePiece and Tiktoken failed|TypeError: not "
        r"a string|expected value at line 1 column 1|Failed to load tokenizer|EOF while parsing a value at line",
        "the tokenizer's files are missing, damaged, or a Git LFS pointer stands in their place",
        "`ls -l` of the model's folder: tokenizer.json has megabytes; download it again (`git lfs pull`), and check "
        "the installed transformers: {pip transformers}", likely=True, frame=r"token|^$|processing|llamafactory",
        general=True),
    Row(r"tokenizer\.chat_template is not set|no template argument was passed",
        "the tokenizer has no chat template",
        "Write `template:` in the recipe, or take tokenizer_config.json and chat_template.jinja from the base's page"),
    Row(r"Tensor\.item\(\) cannot be called on meta|[Mm]eta tensors? (?:is|are) not supported|with Meta tensors|"
        r"(?:aten::\S+|'\w+')[^\n]*'Meta' backend|fake or meta tensor|meta[^\n]*data-dependent",
        "the model's code computes with values while it is built without content (meta device), as newer transformers "
        "build models: the modelling code is older than the library, most often code from the checkpoint's folder",
        "For ChatTS use the plug-in's classes (`lmf-chatts doctor` shows whether it is active; trust_remote_code has "
        "no effect then); other bases: newer modeling_*.py from the model's page, or the transformers it was written "
        "for"),
    Row(r"is on the meta device|device meta is not on the expected device|on the expected device meta|and meta!|on "
        r"device meta|doesn't have any device set|offload the whole model to (?:the )?disk|need an `offload_(?:dir|"
        r"folder)`|weights offloaded to the disk|meta tensors?\b",
        "weights stand on the meta device, without content: they were offloaded because the model does not fit the "
        "memory, or the checkpoint does not hold them",
        "Make room: quantization_bit: 4, a smaller base, ZeRO-3 in place of device_map: auto; set low_cpu_mem_usage: "
        "false; look for 'newly initialized' above; `lmf-chatts plan RECIPE.yaml` predicts the need",
        lines=("are on the meta device because",), benign=True, explains=r"meta|NoneType|device|offload"),
    Row(r"\"(?P<op>(?!_amp)\w+?)\" not implemented for '(?P<kind>Half|BFloat16)'",
        "half precision on a device that does not compute it: {op} has no {kind}, most often because the model runs "
        "on the CPU",
        "See why no GPU is used (`nvidia-smi`, `lmf-chatts doctor`: driver, CUDA_VISIBLE_DEVICES, a CPU-only torch); "
        "on the CPU set fp16: false and bf16: false (pure_bf16: false, infer_dtype: float32)"),
    Row(r"\"_amp_\w+\" not implemented for 'BFloat16'",
        "fp16: true with weights that are kept in bf16: their gradients cannot be unscaled",
        "Set bf16: true and remove fp16; on a card without bf16 train with fp16: true from weights in fp32 or fp16"),
    Row(r"fp16 mixed precision[^\n]*(?:CUDA|GPU|device)|FP16 [Mm]ixed precision training|(?:fp16|half "
        r"precision)[^\n]*can only be used on",
        "fp16: true, but there is no GPU that PyTorch can use: half precision on the CPU is not supported",
        "See why no GPU is used (`nvidia-smi`, `lmf-chatts doctor`: driver, CUDA_VISIBLE_DEVICES, a CPU-only torch); "
        "on the CPU set fp16: false"),
    Row(r"expected (?:scalar type|m1 and m2 to have the same dtype|mat1 and mat2 to have the same dtype)|Input type "
        r"\([^)]*\) and (?:weight|bias) type[^\n]*should be the same|must have the same dtype|expected all tensors to "
        r"have the same dtype|requires uniform dtype|must flatten tensors with (?:uniform|same) dtype",
        "weights and inputs are of different precision (16 and 32 bits are mixed)",
        "Set one of bf16: true and fp16: true, and none of pure_bf16, upcast_layernorm and infer_dtype against it; "
        "under FSDP all weights need one dtype (bnb_4bit_quant_storage)", likely=True),
    Row(r"[Ff]lash[- ]?[Aa]ttention[^\n]*only support(?:s|ed)? (?:for )?(?:fp16|torch\.float16|the|Ampere)",
        "FlashAttention needs fp16 or bf16 and a card from Ampere on",
        "Set flash_attn: sdpa, or bf16: true (fp16: true) for the model"),
    Row(r"KeyError: ['\"](?P<kind>[a-z][\w.-]*)['\"]",
        "this transformers does not know the model type {kind}: it is older than the model, or the plug-in that "
        "brings it is not active in this environment",
        "{pip transformers}; `lmf-chatts doctor` shows whether the plug-in is active",
        frame=r"configuration_auto|auto_factory|modeling_auto|tokenization_auto|processing_auto"),
    Row(r"cutlassF: no kernel found|No available kernel\. Aborting|Attention using SDPA",
        "PyTorch's attention has no kernel for this card, precision and mask together",
        "Set flash_attn: disabled (plain attention), or bf16: true (fp16: true) where the model runs in fp32",
        likely=True),
    Row(r"rope_scaling`? must be a dictionary|KeyError: '(?:rope_type|rope_theta|type)'",
        "config.json describes the rotary positions as another transformers writes them",
        "{pip transformers}, or take config.json from the base's page again", frame=r"rope|config|^$|modeling"),
    Row(r"(?:HeaderTooLarge|header too large|HeaderTooSmall)|invalid load key, '(?P<key>[^']+)'|version "
        r"https://git-lfs",
        "a weight file is damaged or none at all: a Git LFS pointer, a page of text or a broken download stands in "
        "its place",
        "`ls -l` shows files of a few hundred bytes: `git lfs pull`, or download them again"),
    Row(r"[`']?(?:Can't|Cannot) merge (?:LoRA )?adapters? (?:to|into) a quantized model|merge adapters before "
        r"quantizing",
        "an adapter cannot be merged into quantised weights",
        "Remove quantization_bit and quantization_method from the export recipe: merge into the 16-bit base"),
    Row(r"Processor was not found, please check|feature extractor was not found|Image processor was not found",
        "the template wants a processor that this base does not bring",
        "Use the template of the base (template: chatts for ChatTS); if it is, the plug-in is not active: `lmf-chatts "
        "doctor`"),
    Row(r"pop from an empty deque|INFLIGHT",
        "ZeRO-3: the modules ran in another order than in the pass before, so its prefetching lost track",
        "Set stage3_prefetch_bucket_size: 0 in the DeepSpeed file, or use ZeRO-2; no generation or evaluation between "
        "the steps of ZeRO-3", likely=True),
    Row(r"[`']?\.(?:to|cuda|half|float)\(?\)?[`']? is not supported for [`']?(?:4|8)-bit|Calling `?cuda\(\)`? is not "
        r"supported for",
        "a quantised model was moved or converted, which bitsandbytes refuses",
        "Load it where it shall run (device_map) and leave out .to(), .cuda() and .half()"),
    Row(r"[Oo]nly Tensors of floating point (?:and complex )?dtype can require gradients",
        "quantised (integer) weights are to be trained",
        "Set finetuning_type: lora with quantization_bit, or take the 16-bit base without it"),
    Row(r"Cannot resize embedding layers of a quantized model",
        "resize_vocab with quantised weights",
        "Remove resize_vocab, or quantization_bit"),
)
# fmt: on
