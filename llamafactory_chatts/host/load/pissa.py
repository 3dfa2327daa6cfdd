"""PiSSA: what is trained, what is saved and what is loaded again are the same model."""

from pathlib import Path
from typing import Any

from ...core.errors import ChatTSError
from ..compat import patch


SEED = 0


_of_chatts = False


def start_alike() -> None:
    """Begin PiSSA alike from now on: called before the adapter of a ChatTS model is made or loaded."""
    global _of_chatts
    _of_chatts = True


def from_the_same_start(original: Any) -> Any:
    """Make peft compute PiSSA's first factors alike whenever an adapter is made or loaded.

    peft subtracts these factors from the base, saves the trained ones only, and computes the first ones anew when the
    adapter is loaded. With ``pissa_iter`` it does so from a random start: the base is then another one than that which
    was trained. Other models than ChatTS begin as peft does.
    """

    def svd_lowrank(A: Any, q: int | None = 6, niter: int | None = 2, M: Any = None) -> tuple[Any, Any, Any]:
        """Return U, S, V of rank ``q`` by subspace iteration (Halko et al. 2009, algorithms 4.4 and 5.1).

        The numbers it starts from are drawn on the CPU with a fixed seed, so that every device begins with the same.
        """
        import torch

        if M is not None or not _of_chatts:
            return original(A, q, niter, M)

        q, niter = (6 if q is None else q), (2 if niter is None else niter)
        generator = torch.Generator().manual_seed(SEED)
        start = torch.randn(A.shape[1], q, generator=generator, dtype=torch.float32).to(A.device, A.dtype)
        basis = torch.linalg.qr(A @ start).Q
        for _ in range(niter):
            basis = torch.linalg.qr(A.mT @ basis).Q
            basis = torch.linalg.qr(A @ basis).Q

        left, values, right = torch.linalg.svd(basis.mT @ A, full_matrices=False)
        return basis @ left, values, right.mT

    return svd_lowrank


def keep_the_rest(original: Any) -> Any:
    """Let peft keep what an adapter holds besides LoRA's two matrices when it converts PiSSA (``pissa_convert``)."""

    def subtract_mutated_init(self: Any, output_state_dict: dict[str, Any], adapter_name: str, kwargs: Any = None):
        converted = original(self, output_state_dict, adapter_name, kwargs)
        rest = {key: value for key, value in output_state_dict.items() if key not in converted}
        return {**rest, **converted}

    return subtract_mutated_init


def keep_first_start(callbacks: Any, name: str) -> None:
    """``pissa_convert`` keeps the factors of the very first step when a training is resumed.

    The host saves them when the training begins, which after resuming is in the middle: the converted adapter would
    lack all that was trained before.
    """

    def build(original: Any) -> Any:
        def on_train_begin(self: Any, args: Any, state: Any, control: Any, **kwargs: Any) -> Any:
            if not state.global_step:
                return original(self, args, state, control, **kwargs)

            if args.should_save and not (Path(args.output_dir) / "pissa_init" / "adapter_config.json").is_file():
                raise ChatTSError(
                    "the training is resumed, and the adapter it began with is gone",
                    where=f"pissa_convert: {Path(args.output_dir) / 'pissa_init'}",
                    fix="Put the folder pissa_init of the first run there, or remove pissa_convert",
                )

        return on_train_begin

    patch(callbacks, name, build)
