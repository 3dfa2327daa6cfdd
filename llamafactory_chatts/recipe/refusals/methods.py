"""Adapters, optimizers, preferences: what a method cannot be combined with."""

from ..context import Context
from .refusal import Refusal


OPTIMIZERS = ("use_galore", "use_apollo", "use_badam", "use_adam_mini", "use_muon")
"""Switches that replace the optimizer; the host takes the first that is on and forgets the others."""


def _optimizers(context: Context) -> list[str]:
    return [key for key in OPTIMIZERS if context.on(key)]


METHODS: tuple[Refusal, ...] = (
    *(
        (
            key,
            lambda c, key=key: c.on(key) and c.method != "lora",
            "it belongs to finetuning_type: lora",
            f"Write finetuning_type: lora, or remove {key}",
        )
        for key in ("use_dora", "use_rslora", "pissa_init", "loraplus_lr_ratio")
    ),
    (
        "adapter_name_or_path",
        lambda c: c.get("adapter_name_or_path") and not c.adapters,
        "it belongs to finetuning_type: lora or oft",
        "Write finetuning_type: lora, or remove it",
    ),
    *(
        (
            key,
            lambda c, key=key: c.on(key) and c.method == "lora",
            "it does not work with LoRA",
            f"Write finetuning_type: full, or remove {key}",
        )
        for key in ("use_galore", "use_apollo", "use_badam")
    ),
    (
        "oft_rank",
        lambda c: c.method == "oft" and (c.number("oft_rank", 0) != 0) == (c.number("oft_block_size", 32) != 0),
        "one of oft_rank and oft_block_size is given by the other, so one of them must be 0",
        "Write oft_block_size: 32 and oft_rank: 0",
    ),
    (
        "use_dora",
        lambda c: c.on("use_dora") and c.number("quantization_bit") == 8 and c.on("use_cpu"),
        "bitsandbytes quantises to 8 bits on a GPU only, and DoRA needs the quantised weights from the start",
        "Write quantization_bit: 4, or remove use_cpu",
    ),
    (
        "additional_target",
        lambda c: (
            c.adapters
            and c.zero_stage == 3
            and any(word.split(".")[-1] == "lm_head" for word in c.words("additional_target"))
        ),
        "the copy of lm_head that is trained stops at the first step with DeepSpeed ZeRO-3",
        "Take lm_head out of additional_target, or use ZeRO-2 or no DeepSpeed",
    ),
    (
        "use_llama_pro",
        lambda c: c.on("use_llama_pro") and c.method == "full",
        "it belongs to finetuning_type: freeze or lora",
        "Write finetuning_type: freeze",
    ),
    *(
        (
            key,
            lambda c, key=key: _optimizers(c)[1:] and key in _optimizers(c)[1:],
            "two switches for the optimizer are on",
            "Keep one of them",
        )
        for key in OPTIMIZERS
    ),
    *(
        (
            key,
            lambda c, key=key: c.on(key) and c.deepspeed is not None,
            "it does not work with DeepSpeed",
            f"Remove {key} or deepspeed",
        )
        for key in ("use_galore", "use_apollo")
    ),
    *(
        (
            f"{key}_layerwise",
            lambda c, key=key: (
                c.on(f"use_{key}")
                and c.on(f"{key}_layerwise")
                and (c.processes > 1 or (c.number("gradient_accumulation_steps", 1) or 1) > 1)
            ),
            "layer by layer it takes one process, and no accumulation",
            "Write gradient_accumulation_steps: 1, use one process, or remove it",
        )
        for key in ("galore", "apollo")
    ),
    (
        "use_badam",
        lambda c: (
            c.on("use_badam") and c.processes > 1 and (c.get("badam_mode", "layer") == "ratio" or c.zero_stage != 3)
        ),
        "with several processes BAdam needs badam_mode: layer and ZeRO-3",
        "Use one process, or both",
    ),
    (
        "dpo_label_smoothing",
        lambda c: (
            c.stage == "dpo"
            and (c.number("dpo_label_smoothing", 0.0) or 0.0) > 1e-6
            and str(c.get("pref_loss", "sigmoid")) != "sigmoid"
        ),
        "it belongs to pref_loss: sigmoid",
        "Remove it, or write pref_loss: sigmoid",
    ),
    *(
        (
            key,
            lambda c, key=key: c.get(key) is not None and not c.get("ref_model") and c.compares,
            "it belongs to ref_model, without which it is ignored",
            f"Add ref_model: (the base), or remove {key}",
        )
        for key in ("ref_model_adapters", "ref_model_quantization_bit")
    ),
    (
        "pissa_init",
        lambda c: c.on("pissa_init") and (c.compares or c.stage == "ppo"),
        "PiSSA changes the base, which is the reference of this stage",
        "Remove pissa_init",
    ),
    (
        "pissa_init",
        lambda c: c.on("pissa_init") and (c.quantised or c.stored_quantised or c.sharded),
        "PiSSA needs the whole 16-bit weights",
        "Remove it, or train without quantization_bit, ZeRO-3 and FSDP on a 16-bit base",
    ),
    (
        "pissa_init",
        lambda c: c.on("pissa_init") and c.goes_on and c.is_chatts,
        "the loaded adapter is trained on, it has begun already",
        "Add create_new_adapter: true, or remove pissa_init",
    ),
    (
        "pissa_convert",
        lambda c: c.on("pissa_convert") and not c.on("pissa_init"),
        "no PiSSA adapter is made that could be converted",
        "Add pissa_init: true, or remove pissa_convert",
    ),
)
