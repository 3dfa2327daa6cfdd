"""Our settings as fields of subclasses of LLaMA-Factory's own argument classes.

The classes are built from the originals and keep their names, so that pickles and type checks of the host
go on working.
"""

from dataclasses import dataclass, field
from typing import Any, Literal

from ...core.contract import TEMPLATE, TIMESERIES_TUNING
from ...core.errors import ChatTSError
from ..compat import patch
from ..load.tuning import ENCODER
from ..steps.token_budget import read_budget


NORMALIZATIONS = ("token", "batch")


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
                check_normalization(self)
                check_settings(self)

        return FinetuningArguments

    patch(module, name, build)


def check_normalization(args: Any) -> None:
    """Raise a :class:`ChatTSError` for a ``loss_normalization`` that does not exist or does not reach the stage."""
    value = args.loss_normalization
    if value not in NORMALIZATIONS:
        raise ChatTSError(
            f"there is no {value!r}", where="loss_normalization", fix=f"Use one of: {', '.join(NORMALIZATIONS)}"
        )

    if value != "token" and args.stage not in ("pt", "sft"):
        raise ChatTSError(
            f"stage {args.stage} has a loss of its own", where="loss_normalization", fix="Remove loss_normalization"
        )


def check_settings(args: Any) -> None:
    """Raise a :class:`ChatTSError` for time-series settings that contradict each other or the method."""
    adapter = args.finetuning_type in ("lora", "oft")
    if args.timeseries_tuning not in (None, *TIMESERIES_TUNING):  # a recipe's values are not checked by the host
        raise ChatTSError(
            f"there is no {args.timeseries_tuning!r}",
            where="timeseries_tuning",
            fix=f"Use one of: {', '.join(TIMESERIES_TUNING)}",
        )

    if args.timeseries_tuning is not None and not adapter:
        raise ChatTSError(
            f"it is for adapter methods, finetuning_type is {args.finetuning_type}",
            where="timeseries_tuning",
            fix="Remove it; train_timeseries_modules says whether the encoder is trained",
        )

    whole = ENCODER in (args.additional_target or [])
    if whole and (args.timeseries_tuning in ("lora", "freeze") or not args.train_timeseries_modules):
        raise ChatTSError(
            f"{ENCODER} contradicts timeseries_tuning or train_timeseries_modules",
            where="additional_target",
            fix="Take it out of additional_target; timeseries_tuning: full trains and saves all of the encoder",
        )

    if args.timeseries_tuning in ("lora", "full") and not args.train_timeseries_modules:
        raise ChatTSError(
            f"{args.timeseries_tuning} contradicts train_timeseries_modules: false",
            where="timeseries_tuning",
            fix="Remove one of the two",
        )

    if args.timeseries_sft_lr is None:
        return

    try:
        args.timeseries_sft_lr = float(args.timeseries_sft_lr)  # text where a YAML reader does not know 1e-5
    except ValueError:
        raise ChatTSError(
            f"{args.timeseries_sft_lr!r} is no number", where="timeseries_sft_lr", fix="Write it as 1.0e-5"
        ) from None

    if args.timeseries_sft_lr <= 0:
        raise ChatTSError("must be above 0", where="timeseries_sft_lr", fix="Use timeseries_tuning: freeze to stop it")

    if not args.train_timeseries_modules or args.timeseries_tuning == "freeze":
        raise ChatTSError(
            "the encoder is not trained, so it has no learning rate",
            where="timeseries_sft_lr",
            fix="Remove it, or set train_timeseries_modules: true and timeseries_tuning: lora or full",
        )

    if args.stage == "ppo":
        raise ChatTSError("stage ppo builds its own optimizer, which would ignore it", where="timeseries_sft_lr")

    custom = {
        "use_galore": args.use_galore,
        "use_apollo": args.use_apollo,
        "use_badam": args.use_badam,
        "use_adam_mini": args.use_adam_mini,
        "use_muon": args.use_muon,
        "loraplus_lr_ratio": args.loraplus_lr_ratio is not None,
    }
    used = [key for key, value in custom.items() if value]
    if used:
        raise ChatTSError(
            f"{used[0]} builds its own parameter groups, which would ignore it",
            where="timeseries_sft_lr",
            fix=f"Remove timeseries_sft_lr or {used[0]}",
        )
