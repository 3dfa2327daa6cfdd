"""The evaluation loss is a mean over labelled tokens, as the training loss is, however the rows are divided."""

from typing import Any

import torch

from ...core.contract import IGNORE_INDEX
from ..compat import patch
from ..load.recognising import is_chatts_model


def mean_over_tokens(module: Any, name: str) -> None:
    """``evaluation_loop``: the mean over all labelled tokens takes the place of the mean over batches.

    The host weighs a batch by its rows, whatever they hold, so that its result depends on
    ``per_device_eval_batch_size`` and on the number of processes. With ``loss_normalization: batch``, or a loss
    function of the host's own, this stays.
    """

    def build(original: Any) -> Any:
        def evaluation_loop(self: Any, *args: Any, **kwargs: Any) -> Any:
            chatts = is_chatts_model(getattr(self.model, "config", None))
            if not chatts or self.compute_loss_func is not None or not self.model_accepts_loss_kwargs:
                return original(self, *args, **kwargs)

            counted = _Counted(self)
            self.prediction_step = counted
            self.model_accepts_loss_kwargs = False  # the model then divides by the labelled tokens of the batch
            try:
                output = original(self, *args, **kwargs)
            finally:
                self.model_accepts_loss_kwargs = True
                del self.prediction_step

            key = f"{kwargs.get('metric_key_prefix', args[4] if len(args) > 4 else 'eval')}_loss"
            if key in output.metrics:
                output.metrics[key] = counted.mean()

            return output

        return evaluation_loop

    patch(module, name, build)


class _Counted:
    """A trainer's ``prediction_step`` that adds up losses and labelled tokens.

    With several processes the last batches repeat rows of the first, so that all get the same number; those do not
    count.
    """

    def __init__(self, trainer: Any) -> None:
        self.step, self.accelerator, self.device = trainer.prediction_step, trainer.accelerator, trainer.args.device
        self.loss = self.tokens = 0.0

    def __call__(self, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        labels = inputs.get("labels")
        if labels is None:
            return self.step(model, inputs, *args, **kwargs)

        real = self.count_real(labels.shape[0])
        if real < labels.shape[0]:
            labels = labels.clone()
            labels[real:] = IGNORE_INDEX
            inputs["labels"] = labels

        loss, *others = self.step(model, inputs, *args, **kwargs)
        tokens = int((labels[:, 1:] != IGNORE_INDEX).sum())
        if loss is not None and tokens:
            self.loss, self.tokens = self.loss + float(loss) * tokens, self.tokens + tokens

        return loss, *others

    def count_real(self, rows: int) -> int:
        """Return how many of this process's rows are in the data set once; the others end the last batch."""
        state = self.accelerator.gradient_state
        left = state.remainder if state.end_of_dataloader else -1
        return rows if left <= 0 else min(max(left - self.accelerator.process_index * rows, 0), rows)

    def mean(self) -> float:
        """Return the mean over the labelled tokens of all processes."""
        loss, tokens = self.accelerator.reduce(torch.tensor([self.loss, self.tokens], device=self.device)).tolist()
        return loss / max(tokens, 1.0)
