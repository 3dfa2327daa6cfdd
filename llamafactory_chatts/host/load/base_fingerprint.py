"""An adapter carries the fingerprint of its base, which is compared before it is loaded, trained on or merged."""

from pathlib import Path
from typing import Any

from ...core.adapter_config import CONFIG, SAME_START, loading_fault
from ...core.base_record import check_adapters, fingerprint, lineage, read_record, write_record
from ...core.errors import ChatTSError


_RECORD, _COMPARED = "_chatts_record", "_chatts_compared"


def _folder(name: str, file: str, model_args: Any, subfolder: str | None = None) -> Path | None:
    """Return the folder on this machine that holds a file of a model or an adapter; None while there is none."""
    from transformers.utils import cached_file

    local = Path(name, subfolder or "")
    if local.is_dir():
        return local

    try:
        found = cached_file(
            name,
            file,
            subfolder=subfolder or "",
            cache_dir=model_args.cache_dir,
            revision=model_args.model_revision,
            token=model_args.hf_hub_token,
            _raise_exceptions_for_missing_entries=False,
            _raise_exceptions_for_gated_repo=False,
            _raise_exceptions_for_connection_errors=False,
        )
    except OSError:
        return None  # the host's own loading reports it

    return Path(found).parent if found else None


def base_folder(model_args: Any) -> Path | None:
    """Return the folder of the base, None while it is not on this machine."""
    return _folder(model_args.model_name_or_path, "config.json", model_args)


def name_of_base(model_args: Any) -> str:
    """Return the base's name without the path of this machine."""
    name = str(model_args.model_name_or_path)
    return Path(name).resolve().name if Path(name).is_dir() else name


def adapter_folders(model_args: Any) -> list[Path]:
    """Return the folders of the adapters, in order, without those that cannot be found."""
    names = model_args.adapter_name_or_path or []
    found = (_folder(name, CONFIG, model_args, model_args.adapter_folder) for name in names)
    return [folder for folder in found if folder is not None]


def is_quantised(model_args: Any, config: Any) -> bool:
    """Tell whether the weights are quantised, as they are stored or while they are loaded."""
    return model_args.quantization_bit is not None or getattr(config, "quantization_config", None) is not None


def goes_on(model_args: Any, finetuning_args: Any, config: Any, is_trainable: bool) -> bool:
    """Tell whether the last adapter stays an adapter (and is trained on), as the host decides it."""
    from transformers.integrations import is_deepspeed_zero3_enabled

    if not model_args.adapter_name_or_path:
        return False

    cannot_merge = is_quantised(model_args, config) or is_deepspeed_zero3_enabled()
    return cannot_merge or (is_trainable and not finetuning_args.create_new_adapter)


def compare_base(model_args: Any, finetuning_args: Any, config: Any, logger: Any) -> None:
    """Compare base and adapters, once, as soon as the base's weights are on this machine.

    Raises:
        ChatTSError: an adapter belongs to another base, would count twice, or cannot be loaded as it was trained.
    """
    base = base_folder(model_args)
    if not model_args.adapter_name_or_path or getattr(model_args, _COMPARED, False) or model_args.train_from_scratch:
        return

    adapters = adapter_folders(model_args)
    for folder in adapters:
        on = folder == adapters[-1] and not finetuning_args.create_new_adapter
        fault = loading_fault(folder, finetuning_args.finetuning_type, is_quantised(model_args, config), on)
        if fault is not None:
            raise ChatTSError(fault[0], where=f"adapter_name_or_path: {folder}", fix=fault[1])

    if base is None or fingerprint(base) is None:
        return  # not downloaded yet; asked again before the adapter is loaded

    for note in check_adapters(base, adapters):
        logger.info_rank0(f"ChatTS: {note}")

    setattr(model_args, _COMPARED, True)


def remember_base(model: Any, model_args: Any, finetuning_args: Any) -> None:
    """Let every save of a model's adapter also write which base it belongs to, and how PiSSA began."""
    from peft import PeftModel

    base = base_folder(model_args)
    if not isinstance(model, PeftModel) or base is None or fingerprint(base) is None or model_args.train_from_scratch:
        return

    kept = goes_on(model_args, finetuning_args, model.config, True)
    record = lineage(base, adapter_folders(model_args), kept)
    record["base"]["name"] = name_of_base(model_args)
    record[SAME_START] = True  # a PiSSA adapter that is gone on with was let in because it had the mark, too

    setattr(model, _RECORD, record)


def write_beside(original: Any) -> Any:
    """Let ``PeftModel.save_pretrained`` write the record of :func:`remember_base`; without one it saves as before."""

    def save_pretrained(self: Any, save_directory: str, *args: Any, **kwargs: Any) -> Any:
        result = original(self, save_directory, *args, **kwargs)
        record = vars(self).get(_RECORD)
        if record is not None and kwargs.get("is_main_process", True):
            write_record(save_directory, record)

        return result

    return save_pretrained


def check_checkpoint(raw: Any, model_args: Any, data_args: Any, training_args: Any, finetuning_args: Any) -> None:
    """Compare the base with that of the checkpoint that a training is resumed from, before anything is loaded.

    Raises:
        ChatTSError: the checkpoint's adapter belongs to another base.
    """
    checkpoint = training_args.resume_from_checkpoint
    record = read_record(checkpoint) if isinstance(checkpoint, str) else None
    base = base_folder(model_args) if record else None
    own = fingerprint(base) if base is not None else None
    if record is not None and own is not None and record["base"]["fingerprint"] != own:
        raise ChatTSError(
            f"it was trained on another base ({record['base'].get('name')}) than {model_args.model_name_or_path}",
            where=f"resume_from_checkpoint: {checkpoint}",
            fix="Name that base in model_name_or_path, or another output_dir",
        )
