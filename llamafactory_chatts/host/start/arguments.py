"""Our settings as fields of subclasses of LLaMA-Factory's own argument classes.

The classes are built from the originals and keep their names, so that pickles and type checks of the host
go on working.
"""

from dataclasses import dataclass, field
from typing import Any, Literal

from ...core.contract import TEMPLATE, TIMESERIES_TUNING
from ...core.errors import ChatTSError
from ..compat import patch
from ..steps.token_budget import read_budget


CHOICES = {"loss_normalization": ("token", "batch"), "timeseries_tuning": (None, *TIMESERIES_TUNING)}


def extend_data_arguments(module: Any, name: str) -> None:
    """Add ``drop_overlong`` and ``tokens_per_batch``; with template ``chatts`` packed samples never meet."""

    def build(original: type) -> type:
        @dataclass
        class DataArguments(original):
            drop_overlong: bool = field(
                default=False,
                metadata={
                    "help": "ChatTS: train without the rows longer than `cutoff_len` even if more than 10 % are lost."
                },
            )
            tokens_per_batch: int | None = field(
                default=None,
                metadata={
                    "help": (
                        "ChatTS, stage sft: take the rows of an optimizer step (per_device_train_batch_size x "
                        "gradient_accumulation_steps) through the model in passes of at most so many tokens."
                    )
                },
            )

            def __post_init__(self):
                self.tokens_per_batch = read_budget(self.tokens_per_batch)
                if self.template == TEMPLATE and self.packing:
                    self.neat_packing = True  # plain packing lets samples attend to each other

                super().__post_init__()

        return DataArguments

    patch(module, name, build)


def extend_finetuning_arguments(module: Any, name: str) -> None:
    """Add ``timeseries_sft_lr``, ``train_timeseries_modules``, ``timeseries_tuning`` and ``loss_normalization``."""

    def build(original: type) -> type:
        @dataclass
        class FinetuningArguments(original):
            timeseries_sft_lr: float | None = field(
                default=None,
                metadata={"help": "ChatTS: learning rate of the time-series encoder (default: learning_rate)."},
            )
            train_timeseries_modules: bool = field(
                default=True,
                metadata={"help": "ChatTS: train the time-series encoder."},
            )
            timeseries_tuning: Literal["lora", "full", "freeze"] | None = field(
                default=None,
                metadata={
                    "help": (
                        "ChatTS, adapter methods: how to tune the encoder. `lora` (default) puts adapters on its MLP, "
                        "`full` trains and saves all of it beside the adapter, `freeze` leaves it alone."
                    )
                },
            )
            loss_normalization: Literal["token", "batch"] = field(
                default="token",
                metadata={
                    "help": (
                        "ChatTS, stages sft and pt: `token` gives each labelled token of an optimizer step the same "
                        "weight, `batch` each batch of per_device_train_batch_size rows (LLaMA-Factory's own way)."
                    )
                },
            )

            def __post_init__(self):
                super().__post_init__()
                for key, known in CHOICES.items():
                    if getattr(self, key) not in known:  # a recipe's values are not checked by the host
                        raise ChatTSError(
                            f"there is no {getattr(self, key)!r}",
                            where=key,
                            fix=f"Use one of: {', '.join(filter(None, known))}",
                        )

                self.timeseries_sft_lr = read_rate(self.timeseries_sft_lr)

        return FinetuningArguments

    patch(module, name, build)


def read_rate(value: Any) -> float | None:
    """Return ``timeseries_sft_lr`` as a number: it is text where a YAML reader does not know 1e-5."""
    try:
        return None if value is None else float(value)
    except (TypeError, ValueError):
        raise ChatTSError(f"{value!r} is not a number", where="timeseries_sft_lr", fix="Write it as 1.0e-5") from None
