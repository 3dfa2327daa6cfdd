"""The encoder's learning rate: a parameter group of its own in every trainer, and its value in the log."""

from typing import Any

from llamafactory.extras.logging import get_logger

from ...core.errors import ChatTSError
from ..compat import patch
from ..load.recognising import is_chatts_model
from ..load.tuning import ENCODER
from ..say.progress import LOG_KEY, print_lines
from .resume_record import keep_settings
from .token_budget import start_token_budget


GROUP = ENCODER
_RATE = "_chatts_encoder_rate"


def count_labelled_tokens(module: Any, name: str) -> None:
    """``loss_normalization: token``: the loss divides by the labelled tokens of the whole optimizer step.

    With a processor the host tells the trainer that the model takes no ``num_items_in_batch``: the loss is then the
    mean over the labelled tokens of each batch, and every batch weighs the same whatever it holds
    (``loss_normalization: batch``). Then ``tokens_per_batch`` begins, which has to know which of the two it is.
    """

    def build(original: Any) -> Any:
        def __init__(self: Any, *args: Any, **kwargs: Any) -> None:
            original(self, *args, **kwargs)
            if not is_chatts_model(getattr(self.model, "config", None)):
                return

            self.model_accepts_loss_kwargs = getattr(self.finetuning_args, "loss_normalization", "token") == "token"
            start_token_budget(self, get_logger())

        return __init__

    patch(module, name, build)


def encoder_parameters(model: Any) -> list:
    """Return the trained parameters of the encoder (adapters on it included)."""
    return [param for name, param in model.named_parameters() if f"{ENCODER}." in name and param.requires_grad]


def split_groups(optimizer: Any, parameters: list, rate: float) -> None:
    """Move ``parameters`` into groups of their own with learning rate ``rate``; weight decay stays as it was."""
    wanted = {id(param) for param in parameters}
    groups = []
    for group in optimizer.param_groups:
        own = [param for param in group["params"] if id(param) in wanted]
        rest = [param for param in group["params"] if id(param) not in wanted]
        if rest:
            groups.append({**group, "params": rest})

        if own:
            groups.append({**group, "params": own, "lr": rate, "name": GROUP})

    moved = sum(len(group["params"]) for group in groups if group.get("name") == GROUP)
    if moved != len(wanted):
        raise ChatTSError(
            f"{moved} of {len(wanted)} encoder parameters were found in the optimizer {type(optimizer).__name__}",
            where="timeseries_sft_lr",
            fix="Remove it, or use optim: adamw_torch without flattened parameters",
        )

    optimizer.param_groups[:] = groups


def split_encoder_group(module: Any, name: str) -> None:
    """``timeseries_sft_lr``: give the encoder its own groups right after the optimizer is made.

    It is also the last moment before a training of any stage begins: from here on a line is printed per step.
    """

    def build(original: Any) -> Any:
        def create_optimizer(self: Any, *args: Any, **kwargs: Any) -> Any:
            if is_chatts_model(getattr(self.model, "config", None)):
                print_lines(self)
                keep_settings(self)

            made_before = self.optimizer
            optimizer = original(self, *args, **kwargs)
            rate = getattr(self.finetuning_args, "timeseries_sft_lr", None)
            if rate is None or made_before is not None:
                return optimizer

            model = args[0] if args else kwargs.get("model") or self.model
            parameters = encoder_parameters(model)
            if not parameters:
                raise ChatTSError(
                    "the trained parameters of the encoder cannot be told apart from the others here",
                    where="timeseries_sft_lr",
                    fix="Remove it, or (FSDP) set fsdp_use_orig_params: true",
                )

            split_groups(optimizer, parameters, rate)
            return optimizer

        return create_optimizer

    patch(module, name, build)


def read_encoder_rate(module: Any, name: str) -> None:
    """Read the encoder's rate whenever the trainer reads the main one."""

    def build(original: Any) -> Any:
        def _get_learning_rate(self: Any) -> float:
            groups = getattr(self.optimizer, "param_groups", None) or []
            rates = [group["lr"] for group in groups if group.get("name") == GROUP]
            setattr(self, _RATE, float(rates[0]) if rates else None)
            return original(self)

        return _get_learning_rate

    patch(module, name, build)


def log_encoder_rate(module: Any, name: str) -> None:
    """Log ``ts_encoder_learning_rate`` beside ``learning_rate``, when ``timeseries_sft_lr`` is set."""

    def build(original: Any) -> Any:
        def log(self: Any, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
            if "learning_rate" in logs and getattr(self.finetuning_args, "timeseries_sft_lr", None) is not None:
                rate = getattr(self, _RATE, None)
                if rate is None:
                    raise ChatTSError(
                        "the optimizer that is running has no group for the encoder",
                        where="timeseries_sft_lr",
                        fix="Remove it, or (DeepSpeed) take `optimizer` out of the DeepSpeed config",
                    )

                logs[LOG_KEY] = rate

            original(self, logs, *args, **kwargs)

        return log

    patch(module, name, build)
