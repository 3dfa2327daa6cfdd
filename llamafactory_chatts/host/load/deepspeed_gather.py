"""DeepSpeed ZeRO-3 on the CPU: parameters are gathered one after the other, so that none is overwritten later."""

from typing import Any


def one_by_one(original: Any) -> Any:
    """Return a method that waits for each parameter that ZeRO-3 gathers, where the CPU trains; elsewhere ``original``.

    DeepSpeed starts one all-gather per parameter and waits for the last one only. On a GPU they end in the order of
    their stream. On the CPU they run in threads: one that ends late writes old values over what was put into the
    parameter since, such as the tensor of the checkpoint. That weight is then wrong, and nothing says so.
    Fixed in DeepSpeed by pull request #8539, which no release of the supported range has.

    Reaches every model of a process that has imported LLaMA-Factory, as this is the one method that all gathers of
    several parameters go through.
    """

    def _allgather_params_coalesced(self: Any, param_list: list[Any], hierarchy: int = 0, quantize: bool = False):
        from deepspeed.accelerator import get_accelerator

        if get_accelerator().device_name() != "cpu":
            return original(self, param_list, hierarchy, quantize=quantize)

        for param in param_list:
            original(self, [param], hierarchy, quantize=quantize)

    return _allgather_params_coalesced
