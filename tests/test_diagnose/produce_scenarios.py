"""The runs that ``produce_logs.py`` starts: failures, then healthy ones."""

import importlib.util
import signal
import sys
from dataclasses import dataclass, field
from pathlib import Path


LAUNCHER = importlib.util.find_spec("llamafactory").submodule_search_locations[0] + "/launcher.py"
FAULT = str(Path(__file__).parent / "fault_worker.py")
CLI = ["llamafactory-cli", "train"]
TORCHRUN = ["torchrun", "--nproc_per_node", "2", "--master_port", "29651"]
DEEPSPEED = ["deepspeed", "--num_accelerators", "2", "--no_local_rank", "--master_port", "29655"]
ACCELERATE = ["accelerate", "launch", "--cpu", "--num_processes", "1", "--num_machines", "1"]
ACCELERATE += ["--mixed_precision", "no", "--dynamo_backend", "no", LAUNCHER]
AS_NOBODY = ["setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups"]


@dataclass
class Scenario:
    """One run: what is changed in the recipe, what starts it, and what happens to it from outside.

    Attributes:
        changes: keys of the recipe; None takes a key away. ``{folder}`` stands for the folder of the production.
        send: words to wait for in the log, the signal, and who gets it: the process ``group``, the first ``one``, or
            the newest process below it whose command line holds the given words.
        prepare: name in PREPARE.
        text: the recipe's text in place of the generated one.
    """

    changes: dict = field(default_factory=dict)
    command: list = field(default_factory=lambda: CLI)
    env: dict = field(default_factory=dict)
    send: tuple | None = None
    prepare: str | None = None
    text: str | None = None
    arguments: list = field(default_factory=list)


def _faulty(fault: str, command: list = TORCHRUN, prepare: str | None = None, **changes) -> Scenario:
    return Scenario({"ddp_backend": "gloo", **changes}, [*command, FAULT], {"FAULT": fault}, prepare=prepare)


LONG = {"max_steps": 5000}
STARTED = "Number of trainable parameters"
FAILURES: dict[str, Scenario] = {
    "unknown_key": Scenario({"lora_ranks": 8}),
    "flash_attn_false": Scenario({"flash_attn": False}),
    "finetuning_type_dora": Scenario({"finetuning_type": "dora"}),
    "stage_unknown": Scenario({"stage": "sfft"}),
    "preflight": Scenario({"lora_ranks": 8, "dataset": "serie"}, env={"LLAMAFACTORY_CHATTS_PREFLIGHT": "1"}),
    "undefined_dataset": Scenario({"dataset": "serie"}),
    "dataset_file_missing": Scenario({"dataset": "gone"}),
    "dataset_info_missing": Scenario({"dataset_dir": "{folder}/nowhere"}),
    "model_folder_missing": Scenario({"model_name_or_path": "{folder}/no_such_model"}),
    "hub_offline": Scenario({"model_name_or_path": "bytedance-research/ChatTS-8B"}),
    "hub_unreachable": Scenario(
        {"model_name_or_path": "bytedance-research/ChatTS-8B"},
        env={"HF_HUB_OFFLINE": "0", "HF_ENDPOINT": "http://127.0.0.1:9"},
    ),
    "rows_broken": Scenario({"dataset": "broken"}),
    "plain_base": Scenario({"template": "qwen3"}, prepare="plain"),
    "output_not_empty": Scenario({"output_dir": "{folder}/base"}),
    "recipe_missing": Scenario(command=[*CLI, "{folder}/no_such_recipe.yaml"]),
    "recipe_not_yaml": Scenario(text="model_name_or_path: {folder}/base\n\tstage: sft\n"),
    "rate_as_text": Scenario({"learning_rate": "1e-4x"}),
    "quantised_full": Scenario({"finetuning_type": "full", "lora_target": None, "quantization_bit": 4}),
    "eval_without_data": Scenario({"do_eval": True, "eval_strategy": "steps", "eval_steps": 1}),
    "deepspeed_without_launcher": Scenario({"deepspeed": "{folder}/zero3.json"}, prepare="zero3"),
    "deepspeed_file_missing": Scenario(
        {"deepspeed": "{folder}/no_such.json"}, env={"FORCE_TORCHRUN": "1", "NPROC_PER_NODE": "1"}
    ),
    "deepspeed_batch_mismatch": Scenario(
        {"deepspeed": "{folder}/zero3.json"}, [*DEEPSPEED, LAUNCHER], prepare="zero3_batch"
    ),
    "deepspeed_no_compiler": Scenario(
        {"deepspeed": "{folder}/zero3.json"},
        [*DEEPSPEED, LAUNCHER],
        prepare="zero3_offload",
        env={"TORCH_EXTENSIONS_DIR": "{folder}/extensions", "CXX": "no-such-compiler"},
    ),
    "deepspeed_worker_killed": _faulty(
        "kill:1:1", [*DEEPSPEED], "zero3", deepspeed="{folder}/zero3.json", max_steps=50
    ),
    "torchrun_rank_raises": _faulty("raise:1:1", max_steps=50),
    "torchrun_rank_killed": _faulty("kill:1:1", max_steps=50),
    "torchrun_rank_segfault": _faulty("segv:0:1", max_steps=50),
    "torchrun_gloo_timeout": _faulty("sleep:1:1", max_steps=50, ddp_timeout=8),
    "torchrun_sighup": Scenario(
        {**LONG, "ddp_backend": "gloo"}, [*TORCHRUN, LAUNCHER], send=(STARTED, signal.SIGHUP, "group")
    ),
    "torchrun_sigterm": Scenario(
        {**LONG, "ddp_backend": "gloo"}, [*TORCHRUN, LAUNCHER], send=(STARTED, signal.SIGTERM, "one")
    ),
    "port_in_use": Scenario({"ddp_backend": "gloo"}, [*TORCHRUN, LAUNCHER], prepare="port"),
    "accelerate_error": Scenario({"dataset": "gone"}, ACCELERATE),
    "cli_torchrun_error": Scenario(
        {"lora_target": "no_such_layer", "ddp_backend": "gloo"}, env={"FORCE_TORCHRUN": "1", "NPROC_PER_NODE": "2"}
    ),
    "sigkill": Scenario(LONG, send=(STARTED, signal.SIGKILL, "one")),
    "sighup": Scenario(LONG, send=(STARTED, signal.SIGHUP, "group")),
    "sigterm": Scenario(LONG, send=(STARTED, signal.SIGTERM, "one")),
    "ctrl_c": Scenario(LONG, send=(STARTED, signal.SIGINT, "group")),
    "timeout_command": Scenario(LONG, ["timeout", "25", *CLI]),
    "disk_full": Scenario(
        {"output_dir": "{folder}/small/out", "save_strategy": "steps", "save_steps": 1}, prepare="small_disk"
    ),
    "lock_not_permitted": Scenario({"output_dir": "{folder}/open/out"}, [*AS_NOBODY, *CLI], prepare="foreign_lock"),
    "output_read_only": Scenario({"output_dir": "{folder}/closed/out"}, prepare="read_only"),
    "nan_loss": Scenario(
        {
            "learning_rate": 1.0e20,
            "lr_scheduler_type": "constant",
            "max_steps": 8,
            "finetuning_type": "full",
            "lora_target": None,
            "max_grad_norm": 0.0,
        }
    ),
    "nan_unfiltered": Scenario(
        {
            "learning_rate": 1.0e20,
            "lr_scheduler_type": "constant",
            "max_steps": 8,
            "finetuning_type": "full",
            "lora_target": None,
            "max_grad_norm": 0.0,
            "logging_nan_inf_filter": False,
        },
    ),
    "memory_limited": _faulty("limit:0:1", [sys.executable], ddp_backend=None),
    "cgroup_oom": _faulty(
        "leak:0:1",
        ["systemd-run", "--scope", "--quiet", "-p", "MemoryMax=4G", "-p", "MemorySwapMax=0", sys.executable],
        prepare="systemd",
        ddp_backend=None,
    ),
    "torchvision_mixed": Scenario(env={"PYTHONPATH": "{folder}/mixed_vision"}, prepare="mixed_vision"),
    "torchaudio_mixed": Scenario(env={"PYTHONPATH": "{folder}/mixed_audio"}, prepare="mixed_audio"),
    "transformers_limit": Scenario(env={"PYTHONPATH": "{folder}/old_transformers"}, prepare="old_transformers"),
    "trl_limit": Scenario(env={"PYTHONPATH": "{folder}/old_trl"}, prepare="old_trl"),
    "unsloth_missing": Scenario({"use_unsloth": True}),
    "weights_truncated": Scenario({"model_name_or_path": "{folder}/short"}, prepare="short_weights"),
    "resume_missing": Scenario({"resume_from_checkpoint": "{folder}/saves/none/checkpoint-10"}),
    "adapter_of_other_base": Scenario({"adapter_name_or_path": "{folder}/other_adapter"}, prepare="other_adapter"),
    "lora_target_missing": Scenario({"lora_target": "query_key_value"}),
    "all_overlong": Scenario({"cutoff_len": 8}),
    "segfault": _faulty("segv:0:1", [sys.executable], ddp_backend=None),
    "loader_worker_killed": Scenario(
        {**LONG, "dataloader_num_workers": 2}, send=(" 3/5000 [", signal.SIGKILL, "llamafactory")
    ),
    "worker_error_dataset": Scenario({"preprocessing_num_workers": 2, "overwrite_cache": True, "dataset": "broken"}),
    "command_not_found": Scenario(command=["bash", "-c", "llamafactory-clii train $0"]),
    "bf16_without_gpu": Scenario({"bf16": True}),
}

STEPS = {"max_steps": 6}
HEALTHY: dict[str, Scenario] = {
    "healthy_lora": Scenario(STEPS),
    "healthy_torchrun": Scenario({**STEPS, "ddp_backend": "gloo"}, [*TORCHRUN, LAUNCHER]),
    "healthy_cli_torchrun": Scenario(
        {**STEPS, "ddp_backend": "gloo"}, env={"FORCE_TORCHRUN": "1", "NPROC_PER_NODE": "2"}
    ),
    "healthy_accelerate": Scenario(STEPS, ACCELERATE),
    "healthy_zero3": Scenario({**STEPS, "deepspeed": "{folder}/zero3.json"}, [*DEEPSPEED, LAUNCHER], prepare="zero3"),
    "healthy_eval": Scenario(
        {
            "max_steps": 6,
            "val_size": 0.2,
            "eval_strategy": "steps",
            "eval_steps": 2,
            "save_strategy": "steps",
            "save_steps": 2,
            "load_best_model_at_end": True,
        }
    ),
    "healthy_early_stop": Scenario(
        {
            "max_steps": 40,
            "val_size": 0.2,
            "eval_strategy": "steps",
            "eval_steps": 1,
            "save_strategy": "steps",
            "save_steps": 1,
            "load_best_model_at_end": True,
            "early_stopping_steps": 1,
            "learning_rate": 1.0e-9,
            "metric_for_best_model": "eval_loss",
        }
    ),
    "healthy_resume": Scenario(
        {
            "max_steps": 8,
            "output_dir": "{folder}/saves/healthy_eval",
            "resume_from_checkpoint": "{folder}/saves/healthy_eval/checkpoint-4",
        }
    ),
    "healthy_qlora": Scenario({**STEPS, "quantization_bit": 4, "infer_dtype": "float32"}),
    "healthy_packing": Scenario({**STEPS, "packing": True, "neat_packing": True}),
    "healthy_overlong": Scenario({**STEPS, "cutoff_len": 190, "drop_overlong": True}),
    "healthy_dpo": Scenario({**STEPS, "stage": "dpo", "dataset": "pairs"}),
    "healthy_full": Scenario(
        {
            **STEPS,
            "finetuning_type": "full",
            "lora_target": None,
            "save_strategy": "steps",
            "save_steps": 2,
            "save_total_limit": 1,
        }
    ),
    "healthy_predict": Scenario(
        {
            "do_train": False,
            "do_predict": True,
            "eval_dataset": "series",
            "dataset": None,
            "predict_with_generate": True,
            "max_new_tokens": 8,
            "max_steps": None,
            "max_samples": 4,
            "finetuning_type": "lora",
        }
    ),
    "healthy_workers": Scenario({**STEPS, "preprocessing_num_workers": 2, "dataloader_num_workers": 2}),
}
SCENARIOS = {**FAILURES, **HEALTHY}
