"""Weights whose shapes or names do not fit the model: vocabularies, ranks, ZeRO-3, other bases, other settings."""

import re

from ..cause import rule


_VOCABULARY = re.compile(r"embed_tokens|lm_head|wte|word_embeddings|embed_out|shared\.weight|output_layer")
_SIZE = re.compile(r"\d+")


def _sizes(match: re.Match[str]) -> tuple[list[int], list[int]]:
    has, wants = (list(map(int, _SIZE.findall(match[key]))) for key in ("has", "wants"))
    return has, wants


def _mismatch(match: re.Match[str]) -> str:
    has, wants = _sizes(match)
    name, shapes = match["name"] or "a weight", f"{match['has']} there and {match['wants']} here"
    if has == [0]:
        return f"the checkpoint holds empty weights ({shapes}): it was saved under ZeRO-3 without gathering them"
    if wants == [0]:
        return (
            f"under ZeRO-3 this process holds no part of {name} ({shapes}): weights were loaded without gathering them"
        )
    if _is_vocabulary(name, has, wants):
        return f"the vocabularies differ: {name} has {has[0]} rows in the checkpoint and {wants[0]} in the model"
    if "lora_" in name and len(has) == len(wants) == 2:
        other = 1 if "lora_A" in name else 0
        if has[other] == wants[other]:
            return f"the adapter has another lora_rank: {has[1 - other]} there and {wants[1 - other]} here ({name})"
    if _half(has, wants):
        return f"quantised and plain weights were mixed: {name} is {shapes}"
    return f"adapter or checkpoint belong to another base: {name} is {shapes}"


def _is_vocabulary(name: str, has: list[int], wants: list[int]) -> bool:
    """Tell whether two shapes differ in the rows of a vocabulary: by the weight's name, or by how many there are."""
    return has[1:] == wants[1:] and bool(_VOCABULARY.search(name) or min(has[0], wants[0]) > 20000)


def _shapes_of_a_product(match: re.Match[str]) -> str:
    if match["b"].startswith("1x"):
        return "4-bit weights were used as if they were plain ones"

    shapes = f"{match['a']} and {match['b']}"
    return f"a layer and its input do not fit ({shapes}): config.json or adapter belong to other weights"


def _half(has: list[int], wants: list[int]) -> bool:
    """Tell whether one of two shapes is that of packed 4-bit weights."""
    return any(
        len(a) == len(b) == 2 and a[1] == 1 and a[0] * 2 == b[0] * b[1] for a, b in ((has, wants), (wants, has))
    )


def _mend_mismatch(match: re.Match[str]) -> str:
    has, wants = _sizes(match)
    name = match["name"] or ""
    if has == [0]:
        return (
            "Make whole weights of it: `python zero_to_fp32.py . OUT` in its folder; for the next run "
            "stage3_gather_16bit_weights_on_model_save: true in the DeepSpeed file"
        )
    if wants == [0]:
        return (
            "Load the checkpoint in one process without DeepSpeed (merge it with `llamafactory-cli export` first), or "
            "use ZeRO-2; weights resized or added before loading do the same: no resize_vocab with ZeRO-3"
        )
    if _is_vocabulary(name, has, wants):
        return (
            "Give the tokenizer and the base that the checkpoint was trained with: tokens were added to one of the "
            "two (resize_vocab, add_tokens, new_special_tokens, the template); set the same keys as in that training"
        )
    if _half(has, wants):
        return "Load the same kind on both sides: remove quantization_bit, or merge and save without it"
    return (
        "Give the base that the adapter was trained on (base_model_name_or_path in its adapter_config.json) and the "
        "same lora_rank"
    )


CAUSES = (
    rule(
        r"(?:size mismatch for (?P<name>[\w.]+): copying a param with shape (?P<has>torch\.Size\(\[[^\]]*\]\)) "
        r"from\s+checkpoint, the shape in current model is (?P<wants>torch\.Size\(\[[^\]]*\]\)))",
        _mismatch,
        _mend_mismatch,
    ),
    rule(
        r"(?P<name>[\w.]*weight)?[^\n]*Reinit due to size mismatch[^\n]*?(?P<has>torch\.Size\(\[[^\]]*\]\))[^\n]*?(?"
        r"P<wants>torch\.Size\(\[[^\]]*\]\))",
        _mismatch,
        _mend_mismatch,
        needles=("size mismatch",),
    ),
    rule(
        r"Trying to set a tensor of shape (?P<has>(?:torch\.Size\()?\[[^\]]*\]\)?) in \"(?P<name>[\w.]+)\" \(which "
        r"has shape (?P<wants>(?:torch\.Size\()?\[[^\]]*\]\)?)\)",
        _mismatch,
        _mend_mismatch,
    ),
    rule(
        r"ignore_mismatched_sizes",
        "weights of the checkpoint and of the model have different shapes",
        "The report above the error names them: give the config.json that belongs to the weights, the same "
        "vocabulary, and no checkpoint that ZeRO-3 saved without gathering",
        "likely",
    ),
    rule(
        r"'weight' must be 2-D|weight tensor should be at least 2D|tensor\.shape\[0\] \(0\)|mat2 must be a matrix, "
        r"got 1-D tensor|shape '\[[^\]]*\]' is invalid for input of size 0",
        "a weight is empty here: ZeRO-3 holds it in parts, and it was used outside of the forward pass that gathers "
        "it",
        "Use ZeRO-2, or take out what touches single weights (resize_vocab, a second model, generation) under ZeRO-3",
        "likely",
    ),
    rule(
        r"(?:Missing|Unexpected) key\(s\) in state_dict: (?P<keys>[^\n]{0,200})",
        "the checkpoint's weights have other names than the model's: {keys}",
        "Give the base and the settings (finetuning_type, lora_target, timeseries_tuning) that the checkpoint was "
        "trained with",
    ),
    rule(
        r"zero_pp_rank_\d+|can't find checkpoint|(?:trainer_state\.json|optimizer\.pt|scheduler\.pt)'?[^\n]*(?:not "
        r"found|does not exist)|No such file or directory: '?[^'\n]*(?:trainer_state\.json|optimizer\.pt|"
        r"scheduler\.pt)",
        "the checkpoint is not whole: the state of optimizer and trainer is not in it (save_only_model: true, a "
        "write that broke off, or another launcher wrote it)",
        "Resume from another checkpoint-N with the launcher that wrote it; or start anew from its weights: "
        "adapter_name_or_path (LoRA) or model_name_or_path in place of resume_from_checkpoint",
    ),
    rule(
        r"size of tensor a \((?P<a>\d{5,7})\) must match the size of tensor b \((?P<b>\d{5,7})\) at non-singleton "
        r"dimension 0",
        "the vocabularies differ: {a} rows on one side, {b} on the other",
        "Give the tokenizer and the base that belong together; set resize_vocab, add_tokens and the template as in "
        "the training before",
    ),
    rule(
        r"mat1 and mat2 shapes cannot be multiplied \((?P<a>\d+x\d+) and (?P<b>\d+x\d+)\)",
        _shapes_of_a_product,
        "Give base, config.json and adapter that belong together; load quantised bases with quantization_bit and "
        "bitsandbytes only, under ZeRO-3 none",
        "likely",
    ),
    rule(
        r"loaded state dict (?:contains a parameter group|has a different number of parameter groups)|doesn't match "
        r"the size of optimizer's group",
        "the checkpoint's optimizer belongs to other trained weights than this recipe's",
        "Resume with the settings of the first run (lora_target, timeseries_tuning, timeseries_sft_lr, freeze keys, "
        "optim); else start anew from its weights: adapter_name_or_path in place of resume_from_checkpoint",
    ),
)
