"""``llamafactory-cli export``: what cannot come out right is refused first, and what was merged is written down."""

from typing import Any

from ...core.base_record import fingerprint, merged_lineage, read_record, write_record
from ...core.errors import ChatTSError
from ...recipe.inputs.export import export_fault
from ..compat import patch
from .base_fingerprint import adapter_folders, base_folder, name_of_base
from .recognising import chatts_config


def export_whole(tuner: Any, name: str) -> None:
    """``export_model`` refuses quantised exports of ChatTS, and writes which adapters a folder holds.

    The host finds some of them after loading, and others not at all: a file of 4-bit weights that is read as a 16-bit
    base, GPTQ that quantises the encoder and is calibrated without series.
    """

    def build(original: Any) -> Any:
        def export_model(args: dict[str, Any] | list[str] | None = None) -> None:
            from llamafactory.model import loader

            args = tuner.read_args(args)
            model_args = tuner.get_infer_args(args)[0]
            config = chatts_config(loader, model_args)
            if config is None:
                return original(args)

            stored = getattr(config, "quantization_config", None) is not None
            fault = export_fault(
                model_args.quantization_bit,
                model_args.export_quantization_bit,
                stored,
                bool(model_args.adapter_name_or_path),
            )
            if fault is not None:
                raise ChatTSError(fault[1], where=fault[0], fix=fault[2])

            original(args)
            _write_lineage(model_args)

        return export_model

    patch(tuner, name, build)


def _write_lineage(model_args: Any) -> None:
    """Write into the export which base it is and what was merged into it, if anything was."""
    base, adapters = base_folder(model_args), adapter_folders(model_args)
    if base is None or fingerprint(base) is None or not (adapters or read_record(base)):
        return

    record = merged_lineage(base, adapters)
    if read_record(base) is None:
        record["base"]["name"] = name_of_base(model_args)

    write_record(model_args.export_dir, record)
