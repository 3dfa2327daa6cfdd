"""A training that goes on from a checkpoint: it must hold all that a training needs, and be of the same training."""

from collections.abc import Iterator
from pathlib import Path

from ...core.errors import shorten
from ..checkpoints import KEPT, STORED, Checkpoint, last_checkpoint, settle
from ..context import ADAPTERS, Context
from ..finding import Finding


KEY = "resume_from_checkpoint"
ENCODER = "ts_encoder"
BEFORE = "Delete this folder, so that the checkpoint before it is taken"
_ADAPTER_WEIGHTS = ("adapter_model.safetensors", "adapter_model.bin", "*/adapter_model.safetensors")
_MODEL_WEIGHTS = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)


def resumed_checkpoint(context: Context) -> Path | None:
    """Return the checkpoint folder that a training would go on from, as the host chooses it; None: it begins anew."""
    value = context.recipe.get(KEY)
    whole = context.stage in ("rm", "ppo") and context.method in ("full", "freeze")  # cannot be resumed, the host says
    if not context.on("do_train") or whole or value is False:
        return None

    if isinstance(value, str) and value.strip():
        return Path(value)

    folder = Path(str(context.get("output_dir", "trainer_output")))
    if not folder.is_dir() or (value is None and context.on("overwrite_output_dir")):
        return None

    return last_checkpoint(folder)


def checkpoint_to_resume(context: Context) -> Iterator[Finding]:
    """The checkpoint is there, is whole, holds the optimizer's state, and was written by the same training."""
    value, where = context.recipe.get(KEY), context.recipe.where(KEY) or context.recipe.where("output_dir")
    folder = resumed_checkpoint(context)
    if isinstance(value, str) and value.strip().lower() in ("true", "false") and not Path(value).is_dir():
        what = f"{value} is taken for a folder here, and there is none"
        yield Finding("error", KEY, what, where, "Name the checkpoint-N folder, or remove it: the last one is taken")
    elif folder is None and value is True and context.on("do_train"):
        what = f"there is no checkpoint in {context.get('output_dir')}"
        yield Finding("error", KEY, what, where, "Remove it to begin anew, or name a checkpoint-N folder")
    elif folder is not None and not folder.is_dir():
        what = f"there is no folder {shorten(str(folder))}"
        yield Finding("error", KEY, what, where, "Name a checkpoint-N folder, or remove it")
    elif folder is not None:
        found = list(_state(context, Checkpoint(folder))) or list(_same_training(context, Checkpoint(folder)))
        for level, what, fix in found:
            yield Finding(level, KEY, f"{folder}: {what}", where, fix)


Said = Iterator[tuple[str, str, str]]


def _begin_anew(context: Context, folder: Path) -> str:
    """Return how to train on from the weights of a checkpoint with a new optimizer."""
    key = "adapter_name_or_path" if context.method in ADAPTERS else "model_name_or_path"
    return (
        f"To train on from its weights with a new optimizer and warm-up, write {key}: {folder} and another output_dir"
    )


def _state(context: Context, checkpoint: Checkpoint) -> Said:
    """Yield level, what and fix for what is missing of the state of a training."""
    folder, engine = checkpoint.folder, context.deepspeed is not None
    anew = _begin_anew(context, folder)
    if checkpoint.state is None:
        yield (
            "error",
            "there is no readable trainer_state.json in it, so it is no checkpoint to resume",
            f"Name another checkpoint-N folder, or delete this one. {anew}",
        )
        return

    torn = checkpoint.torn_files()
    if torn:
        names = ", ".join(str(path.relative_to(folder)) for path in torn[:3])
        yield (
            "error",
            f"{names} {'is' if len(torn) == 1 else 'are'} cut off: the run ended while it was saving",
            BEFORE,
        )
        return

    sharded = checkpoint.has("pytorch_model_fsdp*") or checkpoint.has("optimizer_*/")
    if engine:
        yield from _deepspeed_state(context, checkpoint, anew)
    elif context.fsdp or sharded:
        if context.fsdp != sharded:
            yield "error", f"it was saved {'with' if sharded else 'without'} FSDP", f"Start it as then. {anew}"
    else:
        yield from _plain_state(context, checkpoint, anew)


def _deepspeed_state(context: Context, checkpoint: Checkpoint, anew: str) -> Said:
    if not checkpoint.has("global_step*"):
        plain = (checkpoint.folder / "optimizer.pt").is_file()
        why = "it was saved without DeepSpeed" if plain else "it holds no state of DeepSpeed (save_only_model: true?)"
        fix = f"Start it without DeepSpeed, as then. {anew}" if plain else anew
        yield "error", f"{why}, so optimizer and schedule cannot go on", fix
        return

    inside = checkpoint.deepspeed_folder
    if inside is None or not inside.is_dir():
        named = f"names {inside.name}, which is not there" if inside else "is missing"
        yield "error", f"its file `latest` {named}", BEFORE
        return

    if not (checkpoint.folder / "scheduler.pt").is_file() and "scheduler" not in (context.deepspeed or {}):
        yield "error", "scheduler.pt is missing, so the schedule cannot go on", anew

    parts = len({path.name.partition("_mp_rank")[0] for path in inside.glob("*zero_pp_rank_*_optim_states.pt")})
    sharded = any(inside.glob("*zero_pp_rank_*_model_states.pt"))
    then = "ZeRO-3" if sharded else "ZeRO-1 or ZeRO-2" if parts else "ZeRO-0"
    now = {0: "ZeRO-0", 3: "ZeRO-3"}.get(context.zero_stage, "ZeRO-1 or ZeRO-2")
    if then != now:
        what = f"it was saved by {then}, the DeepSpeed file says {now}"
        yield "error", what, f"Use the DeepSpeed file of then. {anew}"
    elif parts and parts != context.processes:
        what = f"DeepSpeed wrote it with {parts} process(es), this would be {context.processes}"
        yield "error" if context.at_start else "warning", what, f"Start {parts}. {anew}"


def _plain_state(context: Context, checkpoint: Checkpoint, anew: str) -> Said:
    missing = [name for name in ("optimizer.pt", "scheduler.pt") if not (checkpoint.folder / name).is_file()]
    weights = _ADAPTER_WEIGHTS if context.method in ADAPTERS else _MODEL_WEIGHTS
    if not any(checkpoint.has(name) for name in weights):
        other = _MODEL_WEIGHTS if weights is _ADAPTER_WEIGHTS else _ADAPTER_WEIGHTS
        kind = "an adapter" if weights is _ADAPTER_WEIGHTS else "the whole model"
        if any(checkpoint.has(name) for name in other):
            fix = f"Write the finetuning_type of that training; finetuning_type: {context.method} does not fit it"
        else:
            fix = BEFORE
        yield "error", f"it does not hold the weights of {kind}", fix
    elif missing and checkpoint.has("global_step*"):
        what = "it was saved with DeepSpeed, so optimizer and schedule would begin anew"
        yield "error", what, f"Start it with the same `deepspeed`, as then. {anew}"
    elif missing:
        why = (
            f"{' and '.join(missing)} {'are' if missing[1:] else 'is'} missing (save_only_model: true leaves them out)"
        )
        yield (
            "error",
            f"{why}, so optimizer, schedule and warm-up would begin anew at its step",
            f"Name a checkpoint that was saved without save_only_model. {anew}",
        )


def _same_training(context: Context, checkpoint: Checkpoint) -> Said:
    """Yield level, what and fix for settings that differ from those of the training that wrote the checkpoint."""
    record, anew = checkpoint.record, _begin_anew(context, checkpoint.folder)
    if record.get("values"):
        yield from _recorded(context, record, anew)
    else:
        yield from _by_files(context, checkpoint, anew)

    state, processes = checkpoint.state or {}, record.get("processes") or checkpoint.processes
    accumulated = int(context.number("gradient_accumulation_steps", 1) or 1)
    rows = int(context.number("per_device_train_batch_size", 8) or 8) * accumulated * context.processes
    before = record.get("rows_per_step")
    if before and before != rows and not context.on("ignore_data_skip"):
        what = f"{before} rows per optimizer step then, {rows} now: rows would be left out or repeated"
        exact = context.at_start or processes == context.processes
        fix = f"Choose per_device_train_batch_size x gradient_accumulation_steps x processes = {before}"
        yield "error" if exact else "warning", what, f"{fix}, or write ignore_data_skip: true"
    elif processes is None:
        what = "no rng_state*.pth is in it: dropout and sampling go on with other random numbers"
        yield "warning", what, "Nothing, if that does not matter"
    elif processes != context.processes and not before:
        what = f"{processes} process(es) wrote it, this would be {context.processes}"
        yield "warning", what, "Keep rows per optimizer step the same, or rows are left out or repeated"

    total = context.number("max_steps", -1) or -1
    if total > 0 and state.get("global_step", 0) >= total:
        what = f"it is at step {state['global_step']} of {total:g}: nothing would be trained"
        yield "warning", what, "Write a higher max_steps, or another output_dir to begin anew"


def _recorded(context: Context, record: dict, anew: str) -> Said:
    then, defaults = dict(record["values"]), record.get("defaults") or {}
    now = {key: context.get(key, defaults.get(key)) for key in then}
    for values in (then, now):
        values["lora_alpha"] = values.get("lora_alpha") or 2 * float(values.get("lora_rank") or 0)
        trained = settle("", values.get("train_timeseries_modules")) is not False
        values["timeseries_tuning"] = values.get("timeseries_tuning") or ("lora" if trained else "freeze")

    for key in KEPT:
        old, new = settle(key, then.get(key)), settle(key, now.get(key))
        if old == new or not _matters(key, str(then.get("finetuning_type"))):
            continue

        shown = ",".join(old) if isinstance(old, list) else str(old).lower() if isinstance(old, bool) else then[key]
        fix = f"Remove {key}" if old is None else f"Write {key}: {shown}"
        ignored = "the stored optimizer keeps its own, this one would be ignored"
        why = ignored if key in STORED else "the stored state would not fit"
        yield (
            "error",
            f"its training had {key}: {shown}, the recipe has {shorten(str(now[key]))}: {why}",
            f"{fix}. {anew}",
        )


def _matters(key: str, method: str) -> bool:
    """Tell whether a setting has an effect with a method."""
    if key in ("additional_target", "timeseries_tuning"):
        return method in ADAPTERS

    if key.startswith(("lora_", "loraplus_", "pissa_")) or key in ("use_dora", "use_rslora"):
        return method == "lora"

    if key.startswith(("freeze_trainable", "freeze_extra")):
        return method == "freeze"

    return method == "oft" if key.startswith("oft_") else key != "train_timeseries_modules" or method not in ADAPTERS


def _by_files(context: Context, checkpoint: Checkpoint, anew: str) -> Said:
    """The same for a checkpoint without a record, as far as its files show it."""
    groups = checkpoint.optimizer_groups()
    own = any(group.get("name") == ENCODER for group in groups)
    asked = context.get("timeseries_sft_lr") is not None
    if groups and own != asked:
        what = f"its training had {'a' if own else 'no'} timeseries_sft_lr, the recipe has {'none' if own else 'one'}"
        rate = next(
            (group.get("initial_lr", group.get("lr")) for group in groups if group.get("name") == ENCODER), None
        )
        yield "error", what, (f"Write timeseries_sft_lr: {rate}" if own else "Remove timeseries_sft_lr") + f". {anew}"

    adapter = checkpoint.adapter
    if adapter is None or context.method not in ADAPTERS:
        return

    kind = str(adapter.get("peft_type", "LORA")).lower()
    if kind != context.method:
        yield "error", f"it holds a {kind} adapter, the recipe says {context.method}", f"Write finetuning_type: {kind}"
        return

    rank = int(context.number("lora_rank", 8) or 8)
    for key, then, now in (
        ("lora_rank", adapter.get("r"), rank),
        ("lora_alpha", adapter.get("lora_alpha"), int(context.number("lora_alpha") or 2 * rank)),
        ("use_dora", bool(adapter.get("use_dora")), context.on("use_dora")),
        ("use_rslora", bool(adapter.get("use_rslora")), context.on("use_rslora")),
    ):
        if kind == "lora" and then is not None and then != now:
            yield (
                "error",
                f"its training had {key}: {then}, the recipe says {now}",
                f"Write {key}: {str(then).lower()}. {anew}",
            )

    names = [name for name in checkpoint.tensors() if f"{ENCODER}." in name]
    if checkpoint.tensors() and context.is_chatts:
        tuned = (
            "freeze" if not names else "lora" if any(".lora_" in name or ".oft_" in name for name in names) else "full"
        )
        frozen = not context.on("train_timeseries_modules", True)
        now = context.get("timeseries_tuning") or ("freeze" if frozen else "lora")
        if tuned != now:
            what = f"its training had timeseries_tuning: {tuned}, the recipe says {now}"
            yield "error", what, f"Write timeseries_tuning: {tuned}. {anew}"
