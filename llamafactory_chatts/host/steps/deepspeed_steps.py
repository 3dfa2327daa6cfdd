"""DeepSpeed ZeRO-1 and ZeRO-2: gradients in host memory are summed over all passes of a step, and the CPU can gather.

Both are faults of DeepSpeed 0.18, fixed upstream after it (pull requests #7967 and #7981): with ``offload_optimizer``
the gradients of a step's inner passes are lost, all but the last one's where its own configuration says one pass a
step, otherwise all but the first one's and the last one's. The training goes on with a wrong result.
The three methods belong to every model of a process that has imported LLaMA-Factory; nobody else computes these sums.
"""

from typing import Any


def count_passes(original: Any) -> Any:
    """Return a method that accumulates where a step has several passes, whatever the configuration says."""

    def copy_grads_in_partition(self: Any, param: Any) -> None:
        if self.cpu_offload:
            several = self.micro_step_id > 0 or not self.is_gradient_accumulation_boundary
            # ZeRO-1 reduces once a step; until then PyTorch itself sums up in the parameter.
            self.gradient_accumulation_steps = 2 if several and self.partition_gradients else 1

        original(self, param)

    return copy_grads_in_partition


def keep_the_sum(original: Any) -> Any:
    """Return a method that takes the sum so far back to host memory after each pass but the last."""

    def async_accumulate_grad_in_cpu_via_gpu(self: Any, param: Any) -> None:
        original(self, param)
        if self.micro_step_id > 0 and not self.is_gradient_accumulation_boundary:
            number = self.get_param_id(param)
            total = self.get_param_gradient_attribute(param).data.view(-1)
            kept = self.accumulated_grads_in_cpu[number].data
            if kept.numel() != total.numel():  # master weights in 16 bits: this process's part only
                _, start, _, length = self.grad_position[number]
                total = total.narrow(0, start, length)

            kept.copy_(total)

    return async_accumulate_grad_in_cpu_via_gpu


def without_graph(original: Any) -> Any:
    """Return a function that gathers updated weights outside autograd.

    They are views of a tensor that has a history, and gloo (the CPU) writes into them as PyTorch forbids it.
    """
    import torch

    return torch.no_grad()(original)
