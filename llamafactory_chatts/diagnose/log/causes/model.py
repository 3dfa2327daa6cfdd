"""Bases, tokenizers, adapters and checkpoints: what does not fit the libraries, the recipe or each other."""

from ....core.installs import install
from ..cause import rule


_TRANSFORMERS = install("transformers")
_NEWER_TOKENIZER = (
    "tokenizer_config.json was written by another transformers than the one installed here (a newer one writes lists "
    "and classes that an older one does not know)"
)
_OTHER_TOKENIZER = f"{_TRANSFORMERS}; or take the tokenizer's files from the base's page again"


CAUSES = (
    rule(
        r"model type [`'\"](?P<kind>chatts\w*|\w*ts)[`'\"] but Transformers does not recognize|KeyError: "
        r"'(?P<key>chatts\w*)'",
        "this program does not know ChatTS: the plug-in is not active in the environment that runs (or the program "
        "is not LLaMA-Factory)",
        "Run `lmf-chatts doctor` with the same Python; unset LLAMAFACTORY_CHATTS=0; in scripts load with "
        "llamafactory_chatts.model.from_pretrained; serve with a vLLM that has ChatTS",
    ),
    rule(
        r"model type [`'\"](?P<kind>[\w.-]+)[`'\"] but Transformers does not recognize",
        "this transformers does not know the model type {kind}: it is older than the model, or the plug-in that "
        "brings it is not active in this environment",
        f"{_TRANSFORMERS}; `lmf-chatts doctor` shows whether the plug-in is active",
    ),
    rule(
        r"Unrecognized (?:configuration class|processing class|model in) (?P<what>\S+)|Should have a `model_type` "
        r"key|(?:requires you to execute|contains custom code which must be executed)[^\n]*|"
        r"`?trust_remote_code=True`? to|(?:KeyError|ModuleNotFoundError)[^\n]*transformers_modules",
        "transformers does not know this kind of model and would run the checkpoint's own code: for ChatTS the "
        "plug-in is not active in this environment, else config.json lacks its model_type",
        "Run `lmf-chatts doctor` with the same Python; check that model_name_or_path is the folder of a whole model "
        "(config.json)",
        "likely",
    ),
    rule(
        r"does not match any variant|did not match any variant of untagged enum (?P<what>\w+)|(?:missing|unknown) "
        r"field [`'\"]\w+[`'\"] at line|PreTokenizerTypeWrapper|invalid type: [^\n]*, expected [^\n]* at line \d+ "
        r"column",
        "tokenizer.json was written by a newer tokenizers than the one installed here (or is damaged)",
        f"{_TRANSFORMERS}, which brings the tokenizers that belongs to it; or take tokenizer.json from the base's "
        "page again",
    ),
    rule(
        r"Tokenizer class (?P<name>\w+) does not exist|argument '(?:vocab|merges)': |extra_special_tokens",
        _NEWER_TOKENIZER,
        _OTHER_TOKENIZER,
    ),
    rule(
        r"'list' object has no attribute '(?:keys|items)'",
        _NEWER_TOKENIZER,
        _OTHER_TOKENIZER,
        frame=r"token|^$|auto|processing|(?:site|dist)-packages",
    ),
    rule(
        r"tokenizer does not have a padding token",
        "the tokenizer has no padding token: its files are not those of a ChatTS or Qwen base",
        "Take the tokenizer's files from the base's page; model_name_or_path must hold them beside the weights",
    ),
    rule(
        r"Couldn't instantiate the backend tokenizer|Converting from SentencePiece and Tiktoken failed|TypeError: "
        r"not a string|expected value at line 1 column 1|Failed to load tokenizer|EOF while parsing a value at line",
        "the tokenizer's files are missing, damaged, or a Git LFS pointer stands in their place",
        "`ls -l` of the model's folder: tokenizer.json has megabytes; download it again (`git lfs pull`), and check "
        "the installed "
        f"transformers: {_TRANSFORMERS}",
        "likely",
        frame=r"token|^$|processing|llamafactory",
        general=True,
    ),
    rule(
        r"tokenizer\.chat_template is not set|no template argument was passed",
        "the tokenizer has no chat template",
        "Write `template:` in the recipe, or take tokenizer_config.json and chat_template.jinja from the base's page",
    ),
    rule(
        r"Tensor\.item\(\) cannot be called on meta|[Mm]eta tensors? (?:is|are) not supported|with Meta tensors|"
        r"(?:aten::\S+|'\w+')[^\n]*'Meta' backend|fake or meta tensor|meta[^\n]*data-dependent",
        "the model's code computes with values while it is built without content (meta device), as newer "
        "transformers build models: the modelling code is older than the library, most often code from the "
        "checkpoint's folder",
        "For ChatTS use the plug-in's classes (`lmf-chatts doctor` shows whether it is active; trust_remote_code has "
        "no effect then); other bases: newer modeling_*.py from the model's page, or the transformers it was written "
        "for",
    ),
    rule(
        r"(?:Cannot copy out of|copy out of) meta tensor|is on the meta device|device meta is not on the expected "
        r"device|on the expected device meta|and meta!|on device meta|doesn't have any device set|offload the whole "
        r"model to (?:the )?disk|need an `offload_(?:dir|folder)`|weights offloaded to the disk|meta tensors?\b",
        "weights stand on the meta device, without content: they were offloaded because the model does not fit the "
        "memory, or the checkpoint does not hold them",
        "Make room: quantization_bit: 4, a smaller base, ZeRO-3 in place of device_map: auto; set low_cpu_mem_usage: "
        "false; look for 'newly initialized' above; `lmf-chatts plan RECIPE.yaml` predicts the need",
        needles=("are on the meta device because",),
        benign=True,
        explains=r"meta|NoneType|device|offload",
    ),
    rule(
        r"\"(?P<op>(?!_amp)\w+?)\" not implemented for '(?P<kind>Half|BFloat16)'",
        "half precision on a device that does not compute it: {op} has no {kind}, most often because the model runs "
        "on the CPU",
        "See why no GPU is used (`nvidia-smi`, `lmf-chatts doctor`: driver, CUDA_VISIBLE_DEVICES, a CPU-only torch); "
        "on the CPU set fp16: false and bf16: false (pure_bf16: false, infer_dtype: float32)",
    ),
    rule(
        r"\"_amp_\w+\" not implemented for 'BFloat16'",
        "fp16: true with weights that are kept in bf16: their gradients cannot be unscaled",
        "Set bf16: true and remove fp16; on a card without bf16 train with fp16: true from weights in fp32 or fp16",
    ),
    rule(
        r"fp16 mixed precision[^\n]*(?:CUDA|GPU|device)|FP16 [Mm]ixed precision training|(?:fp16|half "
        r"precision)[^\n]*can only be used on",
        "fp16: true, but there is no GPU that PyTorch can use: half precision on the CPU is not supported",
        "See why no GPU is used (`nvidia-smi`, `lmf-chatts doctor`: driver, CUDA_VISIBLE_DEVICES, a CPU-only torch); "
        "on the CPU set fp16: false",
    ),
    rule(
        r"expected (?:scalar type|m1 and m2 to have the same dtype|mat1 and mat2 to have the same dtype)[^\n]*|mat1 "
        r"and mat2 must have the same dtype[^\n]*|Input type \([^)]*\) and (?:weight|bias) type[^\n]*should be the "
        r"same|must have the same dtype[^\n]*|expected all tensors to have the same dtype|requires uniform dtype|"
        r"must flatten tensors with (?:uniform|same) dtype",
        "weights and inputs are of different precision (16 and 32 bits are mixed)",
        "Set one of bf16: true and fp16: true, and none of pure_bf16, upcast_layernorm and infer_dtype against it; "
        "under FSDP all weights need one dtype (bnb_4bit_quant_storage)",
        "likely",
    ),
    rule(
        r"[Ff]lash[- ]?[Aa]ttention[^\n]*only support(?:s|ed)? (?:for )?(?:fp16|torch\.float16|the|Ampere)[^\n]*|"
        r"FlashAttention only supports Ampere GPUs",
        "FlashAttention needs fp16 or bf16 and a card from Ampere on",
        "Set flash_attn: sdpa, or bf16: true (fp16: true) for the model",
    ),
    rule(
        r"KeyError: ['\"](?P<kind>[a-z][\w.-]*)['\"]",
        "this transformers does not know the model type {kind}: it is older than the model, or the plug-in that "
        "brings it is not active in this environment",
        f"{_TRANSFORMERS}; `lmf-chatts doctor` shows whether the plug-in is active",
        frame=r"configuration_auto|auto_factory|modeling_auto|tokenization_auto|processing_auto",
    ),
    rule(
        r"cutlassF: no kernel found|No available kernel\. Aborting|Attention using SDPA",
        "PyTorch's attention has no kernel for this card, precision and mask together",
        "Set flash_attn: disabled (plain attention), or bf16: true (fp16: true) where the model runs in fp32",
        "likely",
    ),
    rule(
        r"rope_scaling`? must be a dictionary|KeyError: '(?:rope_type|rope_theta|type)'",
        "config.json describes the rotary positions as another transformers writes them",
        f"{_TRANSFORMERS}, or take config.json from the base's page again",
        frame=r"rope|config|^$|modeling",
    ),
    rule(
        r"(?:HeaderTooLarge|header too large|HeaderTooSmall)|invalid load key, '(?P<key>[^']+)'|version "
        r"https://git-lfs",
        "a weight file is damaged or none at all: a Git LFS pointer, a page of text or a broken download stands in "
        "its place",
        "`ls -l` shows files of a few hundred bytes: `git lfs pull`, or download them again",
    ),
    rule(
        r"[`']?(?:Can't|Cannot) merge (?:LoRA )?adapters? (?:to|into) a quantized model|merge adapters before "
        r"quantizing",
        "an adapter cannot be merged into quantised weights",
        "Remove quantization_bit and quantization_method from the export recipe: merge into the 16-bit base",
    ),
    rule(
        r"Processor was not found, please check|feature extractor was not found|Image processor was not found",
        "the template wants a processor that this base does not bring",
        "Use the template of the base (template: chatts for ChatTS); if it is, the plug-in is not active: "
        "`lmf-chatts doctor`",
    ),
    rule(
        r"pop from an empty deque|INFLIGHT",
        "ZeRO-3: the modules ran in another order than in the pass before, so its prefetching lost track",
        "Set stage3_prefetch_bucket_size: 0 in the DeepSpeed file, or use ZeRO-2; no generation or evaluation "
        "between the steps of ZeRO-3",
        "likely",
    ),
    rule(
        r"[`']?\.(?:to|cuda|half|float)\(?\)?[`']? is not supported for [`']?(?:4|8)-bit|Calling `?cuda\(\)`? is not "
        r"supported for",
        "a quantised model was moved or converted, which bitsandbytes refuses",
        "Load it where it shall run (device_map) and leave out .to(), .cuda() and .half()",
    ),
    rule(
        r"[Oo]nly Tensors of floating point (?:and complex )?dtype can require gradients",
        "quantised (integer) weights are to be trained",
        "Set finetuning_type: lora with quantization_bit, or take the 16-bit base without it",
    ),
    rule(
        r"Cannot resize embedding layers of a quantized model",
        "resize_vocab with quantised weights",
        "Remove resize_vocab, or quantization_bit",
    ),
)
