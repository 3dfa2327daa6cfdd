"""The files a recipe names: base, adapters, datasets, DeepSpeed configuration, output folder."""

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ...core.contract import TEMPLATE
from ...core.errors import ChatTSError, shorten
from ...files.text_files import check_files
from ...rows.entries import ELSEWHERE, FILE, find_mistakes, read_entries
from ..context import KNOWN_BASES, Context, read_json
from ..finding import Finding


CHECKPOINT_NAMES = (
    "adapter_model.safetensors",
    "adapter_model.bin",
    "model.safetensors.index.json",
    "model.safetensors",
    "pytorch_model.bin.index.json",
    "pytorch_model.bin",
)
"""Files by which the host sees that an output folder holds a finished model."""

TEXT_ONLY = ("Qwen/", "qwen/", "unsloth/Qwen", "meta-llama/", "deepseek-ai/", "THUDM/", "internlm/", "google/")
"""Publishers of language models without series."""

DATA_SUFFIXES = (".arrow", ".csv", ".json", ".jsonl", ".parquet", ".txt")
LOOKED_AT = 1 << 24
"""Bytes of a data file in which doctor looks for another encoding; a training looks through all of it."""

_HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+").fullmatch


def _is_path(name: str) -> bool:
    """Tell whether a name can only be a folder of this machine, not one of the Hub."""
    return not _HUB_NAME(name) or name.startswith(("./", "../", "~")) or Path(name.split("/")[0]).is_dir()


def _offline() -> bool:
    words = (os.environ.get(key, "") for key in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"))
    return any(word.upper() in ("1", "ON", "YES", "TRUE") for word in words)


def _cached(name: str, cache_dir: Any) -> bool:
    """Tell whether the Hub's cache holds a snapshot with a config.json of a model."""
    home = os.environ.get("HF_HOME") or os.path.join(os.environ.get("XDG_CACHE_HOME", "~/.cache"), "huggingface")
    folder = cache_dir or os.environ.get("HF_HUB_CACHE") or os.path.join(home, "hub")
    snapshots = Path(str(folder)).expanduser() / f"models--{name.replace('/', '--')}" / "snapshots"
    return any(snapshots.glob("*/config.json"))


def kind_of_file(context: Context) -> Iterator[Finding]:
    """LLaMA-Factory 0.9.5 hands a path where an open file is needed, and so stops at every JSON recipe."""
    path = context.recipe.path
    if path is not None and path.suffix == ".json":
        what = "LLaMA-Factory cannot read recipes in JSON ('PosixPath' object has no attribute 'read')"
        yield Finding("error", "recipe", what, str(path), "Write it as YAML; JSON is YAML too: rename it to .yaml")


def base_folder(context: Context) -> Iterator[Finding]:
    """The base is there and is a ChatTS one, if the template says so."""
    key, name = "model_name_or_path", context.base
    where = context.recipe.where(key)
    if not name:
        yield Finding("error", key, "it is missing", where, "Name a folder, or bytedance-research/ChatTS-8B")
        return

    folder = Path(name)
    if folder.is_dir():
        yield from _base_content(context, folder)
    elif name.startswith("~") and folder.expanduser().is_dir():
        yield Finding("error", key, "~ is not expanded here", where, f"Write {folder.expanduser()}")
    elif _is_path(name):
        yield Finding("error", key, f"there is no folder {shorten(name)}", where, "Correct the path")
    elif name.startswith(TEXT_ONLY) and context.get("template") == TEMPLATE:
        fix = "Name bytedance-research/ChatTS-8B, or make a base: lmf-chatts init-base QWEN_DIR OUT"
        yield Finding("error", key, f"{name} is no ChatTS base: it reads no series", where, fix)
    elif not context.elsewhere and _offline() and not _cached(name, context.get("cache_dir")):
        what, fix = f"{name} is not in the cache, and HF_HUB_OFFLINE forbids to fetch it", "Name a folder"
        yield Finding("error", key, what, where, f"{fix}, or unset HF_HUB_OFFLINE")


def _base_content(context: Context, folder: Path) -> Iterator[Finding]:
    key, where = "model_name_or_path", context.recipe.where("model_name_or_path")
    if not (folder / "config.json").is_file():
        adapter = (folder / "adapter_config.json").is_file()
        fix = "Write it into adapter_name_or_path, and the base here" if adapter else "Name a model's folder"
        what = "this is an adapter, not a base" if adapter else "there is no config.json in it"
        yield Finding("error", key, what, where, fix)
        return

    config = read_json(folder / "config.json")
    if config is None:
        yield Finding("error", key, "its config.json is no readable JSON", where, "Copy the model again")
        return

    index = read_json(folder / "model.safetensors.index.json") or {}
    weights = index.get("weight_map")
    shards = set(weights.values()) if isinstance(weights, dict) else set()
    absent = sorted(shard for shard in shards if not (folder / str(shard)).is_file())
    if absent:
        what = f"{len(absent)} of {len(shards)} weight files are missing, as {absent[0]}"
        yield Finding("error", key, what, where, "Copy the model again")
    elif not shards and not any(folder.glob("*.safetensors")) and not any(folder.glob("*.bin")):
        yield Finding("error", key, "there are no weights in it", where, "Copy the model again")

    template, series = context.get("template"), bool(config.get("ts"))
    if template == TEMPLATE and not series:
        yield Finding(
            "error",
            key,
            f"template {TEMPLATE} needs a ChatTS base: there is no `ts` block in its config.json",
            where,
            "Name a ChatTS checkpoint, or make one of a Qwen folder: lmf-chatts init-base QWEN_DIR OUT",
        )

    longest, cutoff = config.get("max_position_embeddings"), context.number("cutoff_len")
    if isinstance(longest, int) and cutoff is not None and cutoff > longest:
        what = f"{cutoff:g} tokens are more than the {longest} positions of the base"
        yield Finding("warning", "cutoff_len", what, context.recipe.where("cutoff_len"), f"Write {longest} or less")


def template_of_base(context: Context) -> Iterator[Finding]:
    """A ChatTS base with another template would be trained without its series."""
    template = context.get("template")
    if not context.is_chatts or template == TEMPLATE:
        return

    base = bool(context.base_config.get("ts")) or context.base in KNOWN_BASES
    what = f"template {template!r} reads no series, and the base is a ChatTS one" if template else "it is missing"
    if base and (context.trains or template):
        yield Finding("error", "template", what, context.recipe.where("template"), f"Write template: {TEMPLATE}")


def adapters_and_checkpoints(context: Context) -> Iterator[Finding]:
    """Adapters to go on from."""
    for name in context.words("adapter_name_or_path"):
        if Path(name).is_dir() and not (Path(name) / "adapter_config.json").is_file():
            what, fix = (
                f"there is no adapter_config.json in {shorten(name)}",
                "Name the folder an adapter was saved in",
            )
        elif not Path(name).is_dir() and _is_path(name):
            what, fix = f"there is no folder {shorten(name)}", "Correct the path"
        else:
            continue

        yield Finding("error", "adapter_name_or_path", what, context.recipe.where("adapter_name_or_path"), fix)


def datasets(context: Context) -> Iterator[Finding]:
    """Each dataset has an entry, its file is there, and it is of the kind that the stage needs."""
    names = [(key, name) for key in ("dataset", "eval_dataset") for name in context.words(key)]
    where = context.recipe.where("dataset_dir") or context.recipe.where("dataset")
    folder = str(context.get("dataset_dir", "data"))
    stored = context.get("tokenized_path")
    if not names or folder == "ONLINE" or folder.startswith("REMOTE:"):
        return

    if stored and Path(str(stored)).is_dir() and any(Path(str(stored)).iterdir()):
        return  # read from there; the files are not needed any more

    if isinstance(context.get("dataset_dir"), dict):
        return

    info_file = context.dataset_dir / "dataset_info.json"
    if context.dataset_info is None:
        what, fix = f"there is no {info_file}", "Name the folder of dataset_info.json"
        try:
            read_entries(info_file)
        except ChatTSError as error:
            what, fix = (f"{error.where}: {error.what}", error.fix) if info_file.is_file() else (what, fix)

        yield Finding("error", "dataset_dir", what, where, fix)
        return

    for key, name in names:
        entry = context.dataset_info.get(name)
        if isinstance(entry, dict):
            yield from _entry(context, key, name, entry)
        else:
            known = [entry for entry in context.dataset_info if not entry.startswith("$")]
            what = f"{info_file} has no entry {shorten(name)!r}"
            fix = f"Entries: {shorten(', '.join(known), 200) or 'none'}"
            yield Finding("error", key, what, context.recipe.where(key), fix)


def _entry(context: Context, key: str, name: str, entry: dict[str, Any]) -> Iterator[Finding]:
    where = context.recipe.where(key)
    file = entry.get("file_name")
    for problem in find_mistakes({name: entry}, context.dataset_dir / FILE):
        yield Finding("error", key, f"{problem.where}: {problem.what}", where, problem.fix)

    if not any(entry.get(other) for other in ELSEWHERE):
        path = context.dataset_dir / str(file)
        if not isinstance(file, str) or not path.exists():
            yield Finding(
                "error", key, f"{name}: there is no file {path}", where, "Put it there, or correct file_name"
            )
        elif path.is_file() and path.suffix not in DATA_SUFFIXES:
            what = f"{name}: files of the kind {path.suffix or path.name} are not read"
            yield Finding("error", key, what, where, f"Use one of {', '.join(DATA_SUFFIXES)}")
        elif path.is_file() and path.stat().st_size == 0:
            yield Finding("error", key, f"{name}: {path} is empty", where, "Write the file again")
        elif path.is_file():
            yield from _encoding(key, path, where)

    pairs = context.stage in ("rm", "dpo")
    if context.trains and pairs != bool(entry.get("ranking", False)):
        what = f"{name}: stage {context.stage} needs " + ("pairs of answers" if pairs else "single answers")
        fix = '"ranking": true in its entry, with chosen and rejected' if pairs else "Another dataset, or stage: dpo"
        yield Finding("error", key, what, where, fix)

    if name in context.series_entries and context.get("template") not in (None, TEMPLATE):
        what = f"{name} has a timeseries column, but template {context.get('template')!r} reads no series"
        yield Finding("error", "template", what, context.recipe.where("template"), f"Write template: {TEMPLATE}")


def _encoding(key: str, path: Path, where: str) -> Iterator[Finding]:
    try:
        check_files(path, LOOKED_AT)
    except ChatTSError as error:
        yield Finding("error", key, f"{error.where}: {error.what}", where, error.fix)


def other_files(context: Context) -> Iterator[Finding]:
    """Files and folders that only some runs name."""
    for key in ("new_special_tokens_config", "media_dir", "hyper_parallel_args"):
        value = context.get(key)
        if isinstance(value, str) and not Path(value).exists():
            level = "warning" if key == "media_dir" else "error"
            yield Finding(level, key, f"there is no {shorten(value)}", context.recipe.where(key), "Correct the path")

    stored = context.get("tokenized_path")
    if isinstance(stored, str) and Path(stored).is_file():
        where = context.recipe.where("tokenized_path")
        yield Finding("error", "tokenized_path", f"{shorten(stored)} is a file", where, "Name a folder")


def output_folder(context: Context) -> Iterator[Finding]:
    """Where the result goes: free, resumed on purpose, and writable."""
    key = "output_dir"
    where = context.recipe.where(key)
    if not context.trains:
        return

    value = context.get(key)
    if value is None:
        what = "it is missing, the result goes to trainer_output"
        yield Finding("warning", key, what, where, "Write output_dir: saves/NAME")
        return

    if not isinstance(value, str):
        yield Finding("error", key, f"{value!r} is no path", where, "Write a path")
        return

    folder = Path(value).expanduser()
    holder = next(place for place in (folder, *folder.absolute().parents) if place.exists())
    if not holder.is_dir():
        yield Finding("error", key, f"{holder} is a file", where, "Name another folder")
    elif not os.access(holder, os.W_OK | os.X_OK):
        yield Finding("error", key, f"{holder} cannot be written to", where, "Name another folder, or mend its rights")

    if not folder.is_dir() or context.on("overwrite_output_dir") or not context.on("do_train"):
        return

    if context.get("resume_from_checkpoint"):
        return

    steps = [int(item.name[11:]) for item in folder.glob("checkpoint-*") if item.is_dir() and item.name[11:].isdigit()]
    used = [name for name in CHECKPOINT_NAMES if (folder / name).is_file()]
    if steps and context.stage not in ("rm", "ppo"):
        what = f"{value} holds checkpoint-{max(steps)}: the training goes on from there"
        fix = "Name another folder or write overwrite_output_dir: true, unless that is meant"
        yield Finding("warning", key, what, where, fix)
    elif used and not steps:
        what = f"{value} holds a finished model ({used[0]})"
        yield Finding("error", key, what, where, "Name another folder, or write overwrite_output_dir: true")
