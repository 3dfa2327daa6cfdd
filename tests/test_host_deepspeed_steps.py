"""ZeRO-1 and ZeRO-2 with gradients in host memory: what the mended methods do, pass by pass, and that they exist."""

from types import SimpleNamespace

import torch

from llamafactory_chatts.host.steps.deepspeed_steps import (
    count_passes,
    keep_the_sum,
    without_graph,
)


def make_optimizer(partition_gradients=True):
    """Return a stand-in that loses the sum as DeepSpeed 0.18 does; ``steps(gradients)`` gives what a step takes."""

    class Optimizer:
        cpu_offload, gradient_accumulation_steps = True, 1

        def __init__(self):
            self.accumulated_grads_in_cpu, self.partition_gradients = {}, partition_gradients

        def get_param_id(self, param):
            return 0

        def get_param_gradient_attribute(self, param):
            return param.grad

        def copy_grads_in_partition(self, param):
            if self.gradient_accumulation_steps > 1:
                self.async_accumulate_grad_in_cpu_via_gpu(param)

            self.taken = param.grad.clone()

        def async_accumulate_grad_in_cpu_via_gpu(self, param):
            kept = self.accumulated_grads_in_cpu.setdefault(0, torch.zeros_like(param.grad).view(-1))
            if self.micro_step_id > 0:
                param.grad.view(-1).add_(kept)
            else:
                kept.copy_(param.grad.view(-1))

        def steps(self, gradients):
            for number, value in enumerate(gradients):
                self.micro_step_id, self.is_gradient_accumulation_boundary = number, number + 1 == len(gradients)
                self.copy_grads_in_partition(SimpleNamespace(grad=torch.full((2, 2), float(value))))

            return float(self.taken[0, 0])

    return Optimizer


def mended(**settings):
    kind = make_optimizer(**settings)
    kind.copy_grads_in_partition = count_passes(kind.copy_grads_in_partition)
    kind.async_accumulate_grad_in_cpu_via_gpu = keep_the_sum(kind.async_accumulate_grad_in_cpu_via_gpu)
    return kind()


def test_all_passes_count_step_after_step():
    optimizer = mended()
    found = [optimizer.steps(gradients) for gradients in ([1, 2, 4, 8], [16], [1, 2], [1, 1, 1])]
    assert found == [15, 16, 3, 3]


def test_the_fault_is_there_without_it():
    optimizer = make_optimizer()()
    assert optimizer.steps([1, 2, 4, 8]) == 8, "one pass a step, says the configuration"
    optimizer.gradient_accumulation_steps = 4
    assert optimizer.steps([1, 2, 4, 8]) == 9, "only the first and the last"


def test_stage_1_adds_nothing_of_an_earlier_step():
    optimizer = mended(partition_gradients=False)
    optimizer.steps([1])
    optimizer.micro_step_id, optimizer.is_gradient_accumulation_boundary = 3, True
    optimizer.copy_grads_in_partition(SimpleNamespace(grad=torch.full((2, 2), 5.0)))
    assert float(optimizer.taken[0, 0]) == 5


def test_gathers_outside_autograd():
    seen = []
    without_graph(lambda *args: seen.append((torch.is_grad_enabled(), args)))(1, 2)
    assert seen == [(False, (1, 2))]
