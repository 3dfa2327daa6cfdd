"""DeepSpeed ZeRO-3 on the CPU: parameters are gathered one after the other, so that none is overwritten later."""

from typing import Any

from ..compat import patch


def gather_in_order() -> None:
    """Make ZeRO-3 wait for each parameter it gathers, where the CPU trains; does nothing elsewhere, or twice.

    DeepSpeed starts one all-gather per parameter and waits for the last one only. On a GPU they end in the order of
    their stream. On the CPU they run in threads: one that ends late writes old values over what was put into the
    parameter since, such as the tensor of the checkpoint. That weight is then wrong, and nothing says so.
    Fixed in DeepSpeed by pull request #8539, which no release of the supported range has.

    Raises:
        ImportError: this DeepSpeed has no such method.
    """
    from transformers.integrations import is_deepspeed_zero3_enabled

    if not is_deepspeed_zero3_enabled():  # also where DeepSpeed is not installed
        return

    from deepspeed.accelerator import get_accelerator

    if get_accelerator().device_name() != "cpu":
        return

    from deepspeed.runtime.zero import partition_parameters

    patch(partition_parameters, "Init._allgather_params_coalesced", one_by_one)


def one_by_one(original: Any) -> Any:
    """Return a method that calls ``original`` with one parameter at a time: it then waits for each."""

    def _allgather_params_coalesced(self: Any, param_list: list[Any], hierarchy: int = 0, quantize: bool = False):
        for param in param_list:
            original(self, [param], hierarchy, quantize=quantize)

    return _allgather_params_coalesced
