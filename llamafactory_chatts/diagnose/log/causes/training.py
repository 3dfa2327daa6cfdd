"""The training itself: numbers, shapes, host memory, workers."""

from ..row import Row


# fmt: off
ROWS = (
    Row(r"can't allocate memory: you tried to allocate (?P<size>\d+) bytes|DefaultCPUAllocator: not enough memory: "
        r"you tried to allocate (?P<more>\d+) bytes",
        lambda m: f"host memory ran out: {int(m['size'] or m['more']) / 2**30:.1f} GiB more could not be had",
        "Free memory (`free -g`, cgroup limit, `ulimit -v`); offload less with DeepSpeed, or use llamafactory-cli "
        "with quantization_bit: 4; `lmf-chatts plan` predicts the need"),
    Row(r"\bMemoryError|node running low on memory|ray\.exceptions\.OutOfMemoryError|std::bad_alloc|Cannot allocate "
        r"memory|ArrowMemoryError|Unable to allocate [\d.]+ [KMG]iB",
        "host memory ran out",
        "Free memory (`free -g`, cgroup limit, `ulimit -v`); lower preprocessing_num_workers and "
        "dataloader_num_workers; `lmf-chatts plan` predicts the need",
        lines=("std::bad_alloc", "Cannot allocate memory")),
    Row(r"DataLoader worker \(pid[^)]*\) is killed by signal: Bus error|Unexpected bus error encountered in worker|"
        r"insufficient shared memory|unable to (?:mmap|write to file|open shared memory object).*(?:shm|torch_)",
        "shared memory (/dev/shm) is too small for the data loader's workers",
        "Start the container with --shm-size=16g (or --ipc=host), or set dataloader_num_workers: 0",
        lines=("Unexpected bus error encountered in worker",)),
    Row(r"DataLoader worker \(pid\(?s?\)? ?(?P<pid>[\d, ]+)\) (?:is killed by signal: (?P<signal>[\w ]+?)\.|exited "
        r"unexpectedly)",
        "data loader worker {pid} was ended from outside[ (signal: {signal})]; most often the host's memory (RAM) or "
        "/dev/shm ran out",
        "`dmesg -T | grep -iE 'oom|killed process'` shows whether the kernel did it; lower dataloader_num_workers, or "
        "0 to see the worker's own error", likely=True),
    Row(r"ConnectionResetError|ConnectionRefusedError|EOFError|BrokenPipeError",
        "a worker process on this machine (data loader or preprocessing) ended while its result was being fetched",
        "`dmesg -T | grep -iE 'oom|killed process'` shows whether the kernel did it; lower dataloader_num_workers and "
        "preprocessing_num_workers, or 0 to see the worker's own error", likely=True, frame=r"/multiprocessing/"),
    Row(r"One of the subprocesses has abruptly died during map operation",
        "a worker of the preprocessing was ended from outside or crashed",
        "`dmesg -T | grep -iE 'oom|killed process'` shows whether the kernel did it; set preprocessing_num_workers: 1 "
        "to see the worker's own error"),
    Row(r"(?:JOB|STEP|TASK) \S+ ON \S+ CANCELLED(?: AT \S+)?(?: DUE TO (?P<why>[A-Z ]+?))?(?: \*|$)|job killed: "
        r"walltime",
        lambda m: f"the scheduler ended the job{': ' + m['why'].lower() if m['why'] else ''}",
        "Ask for more time (or memory) for the job, set save_steps so that a checkpoint lies before the limit, then "
        "resume_from_checkpoint: true", lines=("CANCELLED", "walltime")),
    Row(r"Current loss scale already at minimum",
        "fp16 overflows at every step: gradients are NaN or infinite, and DeepSpeed cannot lower the loss scale "
        "further",
        "Use bf16: true where the card has it; else a lower learning_rate, warmup_ratio: 0.1 and max_grad_norm: 1.0; "
        "check the series for extreme values with `lmf-chatts check`",
        lines=("Current loss scale already at minimum",)),
    Row(r"FloatingPointError[^\n]*\b(?:nan|NaN|inf)\b|[Ll]oss (?:is|became) (?:nan|NaN|inf)|Function '\w+' returned "
        r"nan values",
        "loss or gradients became NaN or infinite",
        "Go back to a checkpoint from before; lower learning_rate (a tenth), warmup_ratio: 0.1, max_grad_norm: 1.0, "
        "bf16 in place of fp16; check the series for extreme values: `lmf-chatts check`", likely=True, general=True),
    Row(r"Attempting to unscale FP16 gradients",
        "weights that are trained are stored in fp16, where fp16: true wants them in fp32",
        "Remove pure_bf16/upcast settings that keep trained weights in 16 bit, or use bf16: true; with LoRA the "
        "adapter stays in fp32 by itself"),
    Row(r"probability tensor contains either `inf`, `nan` or element < 0",
        "the model's output is NaN or infinite while it generates",
        "The weights diverged: look for the first nan in the training log and lower learning_rate; or use bf16 in "
        "place of fp16"),
    Row(r"Please correct the following DeepSpeed config values that mismatch TrainingArguments "
        r"values:(?P<what>[\s\S]*?)(?:The easiest|$)",
        "the DeepSpeed file contradicts the recipe: {what}",
        "Write \"auto\" for these values in the DeepSpeed JSON"),
    Row(r"Check batch related parameters\. train_batch_size is not equal to micro_batch_per_gpu",
        "the batch sizes in the DeepSpeed file contradict each other",
        "Write \"auto\" for train_batch_size, train_micro_batch_size_per_gpu and gradient_accumulation_steps"),
    Row(r"Expected a string path to an existing deepspeed config, or a dictionary, or a base64 encoded string\.[^:]*: "
        r"(?P<file>\S+)|DeepSpeedConfigError: (?P<what>.+)",
        "DeepSpeed's configuration cannot be used: [{what}][{file} is not there]",
        "Correct `deepspeed:` in the recipe; examples/deepspeed holds files that work"),
    Row(r"element 0 of tensors does not require grad|does not require grad and does not have a grad_fn",
        "nothing that is trained takes part in the loss: gradient checkpointing got inputs that need no gradient, or "
        "everything is frozen",
        "Set use_reentrant_gc: false (or disable_gradient_checkpointing: true); own code calls "
        "model.enable_input_require_grads(). Then check finetuning_type, lora_target and the freeze keys: 'trainable "
        "params' above must not be 0"),
    Row(r"None of the inputs have requires_grad=True",
        "gradient checkpointing gets inputs that need no gradient: what lies in front of it is not trained",
        "Set use_reentrant_gc: false, or disable_gradient_checkpointing: true; own code calls "
        "model.enable_input_require_grads()", likely=True, lines=("None of the inputs have requires_grad",),
        benign=True),
    Row(r"backward through the graph a second time|modified by an inplace operation|Trying to backward through",
        "backward went through the same graph twice, or a value that it needs was overwritten: gradient checkpointing "
        "and another wrapper do not go together",
        "Set use_reentrant_gc: false, or disable_gradient_checkpointing: true; with DDP also "
        "ddp_find_unused_parameters: false", likely=True),
    Row(r"module must have its parameters and buffers on device cuda:\d|in replica \d+ on device|parallel_apply|"
        r"nn\.DataParallel|'DataParallel' object has no attribute|chunk expects at least a 1-dimensional tensor|"
        r"Gather got an input of invalid size|grad can be implicitly created only for scalar outputs",
        "one plain process drives several GPUs (DataParallel), which this training cannot do",
        "Start one process per GPU: FORCE_TORCHRUN=1 llamafactory-cli train RECIPE.yaml (or torchrun), or show it one "
        "GPU: CUDA_VISIBLE_DEVICES=0"),
    Row(r"[Ee]xpected all tensors to be on the same device|tensors? (?:is|are) on cuda:\d+, different from other "
        r"tensors on|device than the one you're training on|loaded with `?device_map='auto'`? in any distributed",
        "the model's parts lie on different devices",
        "One GPU per process: FORCE_TORCHRUN=1 for several, CUDA_VISIBLE_DEVICES=0 for one; no device_map: auto in "
        "training; if it is split because it does not fit, quantization_bit: 4 or ZeRO-3"),
    Row(r"Expected to have finished reduction in the prior iteration",
        "DDP: some trained parameters got no gradient in one process",
        "Set ddp_find_unused_parameters: true"),
    Row(r"mark a variable ready only once",
        "DDP with reentrant gradient checkpointing uses a parameter twice",
        "Set use_reentrant_gc: false, or ddp_find_unused_parameters: false"),
    Row(r"RecursionError: ",
        "a recursion did not end",
        "The frame named above repeats itself; report it with the log", likely=True, general=True),
)
# fmt: on
