"""THE TABLE: everything this plug-in adds to LLaMA-Factory, one row each. Start reading here.

A row is applied when LLaMA-Factory imports the module it names, in every process. A row that cannot be
applied stops that import with one error; nothing is skipped silently.
"""

import importlib
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Row:
    """One addition to the host.

    Attributes:
        kind: ``registry`` (an entry through a function the host offers), ``patch`` (a symbol is wrapped),
            ``subclass`` (a class is replaced by a subclass of itself) or ``library`` (a symbol of peft or DeepSpeed is
            wrapped; applied when that library is imported, which a run may never do).
        module: module that triggers the row.
        name: the entry's key, or the symbol inside ``module``.
        apply: ``module:function`` in this package; called with (module, name), for ``library`` with the original: it
            returns the replacement.
        why: what users get from it.
    """

    kind: str
    module: str
    name: str
    apply: str
    why: str

    @property
    def target(self) -> str:
        return f"{self.module}:{self.name}"


LIBRARY = "library"
_HOST = "llamafactory."
_TRAINERS = {
    "train.sft.trainer": "CustomSeq2SeqTrainer",
    "train.pt.trainer": "CustomTrainer",
    "train.rm.trainer": "PairwiseTrainer",
    "train.dpo.trainer": "CustomDPOTrainer",
    "train.kto.trainer": "CustomKTOTrainer",
}


def _row(kind: str, package: str = _HOST) -> Callable[[str, str, str, str], Row]:
    ours = "llamafactory_chatts.host."
    return lambda module, name, apply, why: Row(kind, package + module, name, ours + apply, why)


_registry, _patch, _subclass = map(_row, ("registry", "patch", "subclass"))
_library = _row(LIBRARY, "")

TABLE: tuple[Row, ...] = (
    _registry("extras.constants", "ChatTS-8B, ChatTS-14B", "start.model_list:add_models", "offered by LlamaBoard"),
    _registry("data.mm_plugin", "chatts", "start.template:add_plugin", "a series becomes its header and its patches"),
    _registry("data.template", "chatts", "start.template:add_template", "template: chatts"),
    _registry("data.converter", "chatts", "rows.patches:add_converter", "formatting: chatts"),
    _patch("data.parser", "DatasetAttr.join", "rows.patches:keep_timeseries_column", "columns: {timeseries: ...}"),
    _patch("data.loader", "_load_single_dataset", "rows.patches:explain_unreadable_file", "unreadable rows named"),
    _patch("data.loader", "align_dataset", "rows.patches:convert_with_row_numbers", "bad rows listed"),
    _patch("data.loader", "_get_dataset_processor", "rows.patches:keep_rows_whole", "no row cut inside a series"),
    _patch("data.loader", "_get_preprocessed_dataset", "rows.patches:count_overlong", "long rows counted"),
    _patch("data.loader", "split_dataset", "rows.patches:check_held_out", "val_size that leaves no rows"),
    _patch("data.loader", "get_dataset", "rows.base_checks:check_base_and_template", "wrong base named early"),
    _patch(
        "data.collator",
        "SFTDataCollatorWith4DAttentionMask.__call__",
        "steps.places:hand_over_places",
        "a training step does not wait for counts from the GPU",
    ),
    _subclass(
        "hparams.data_args",
        "DataArguments",
        "start.arguments:extend_data_arguments",
        "drop_overlong, tokens_per_batch",
    ),
    _subclass(
        "hparams.model_args", "ModelArguments", "load.memory:extend_model_arguments", "offload_embedding, lm_head_8bit"
    ),
    _patch("hparams.parser", "_verify_model_args", "load.memory:accept_adapters", "OFT adapters, other bases early"),
    _subclass(
        "hparams.finetuning_args",
        "FinetuningArguments",
        "start.arguments:extend_finetuning_arguments",
        "timeseries_sft_lr, train_timeseries_modules, timeseries_tuning, loss_normalization",
    ),
    _registry(
        "model.model_utils.visual", "chatts, qwen3ts", "load.tuning:add_composite_models", "lora_target: all works"
    ),
    _patch("model.adapter", "patch_target_modules", "load.tuning:target_encoder", "adapter on the encoder's MLP"),
    _patch("model.adapter", "init_adapter", "load.tuning:tune_encoder", "timeseries_tuning: lora | full | freeze"),
    _patch("model.loader", "load_config", "load.loading:recognise_config", "found by its `ts` block"),
    _patch("model.loader", "load_tokenizer", "load.loading:load_native_processor", "no code from the checkpoint"),
    _patch("hparams.parser", "_check_extra_dependencies", "load.speed:go_on_without_liger", "one line, no stop"),
    _patch("hparams.parser", "get_train_args", "start.train_arguments:adjust_train_arguments", "refused, left open"),
    _patch("hparams.parser", "get_infer_args", "start.train_arguments:refuse_before_inference", "refused, too"),
    _patch("train.tuner", "_training_function", "start.preflight:check_before_start", "mistakes named before loading"),
    _patch("train.tuner", "_ray_training_function", "start.preflight:check_before_start", "the same in front of Ray"),
    _patch("launcher", "launch", "start.launching:keep_words_whole", "spaces in the path of a recipe"),
    _patch("v1.config.arg_parser", "get_args", "start.engines:ask_before_v1", "no training without the series"),
    _patch("model.loader", "apply_liger_kernel", "load.speed:apply_liger", "enable_liger_kernel works"),
    _patch("model.loader", "patch_config", "load.memory:ask_for_savings", "offload_embedding, lm_head_8bit work"),
    _patch("model.loader", "load_model", "load.loading:prepare_model", "logits only where labels are"),
    *(
        _patch(module, f"{name}.{method}", f"steps.optimizer:{function}", why)
        for module, name in _TRAINERS.items()
        for method, function, why in (
            ("create_optimizer", "split_encoder_group", "timeseries_sft_lr"),
            ("_get_learning_rate", "read_encoder_rate", "both rates read at the same moment"),
            ("log", "log_encoder_rate", "ts_encoder_learning_rate in the log"),
        )
    ),
    _patch(
        "train.callbacks",
        "PissaConvertCallback.on_train_begin",
        "load.pissa:keep_first_start",
        "pissa_convert after resuming",
    ),
    _patch("train.tuner", "export_model", "load.export:export_whole", "no quantised export, merges are remembered"),
    *(
        _patch("train.tuner", f"run_{stage}", "say.out_of_memory:explain_around_steps", "memory advice")
        for stage in ("sft", "pt", "rm", "dpo", "kto")
    ),
    *(
        _patch(
            module, f"{name}.training_step", "steps.training_step:work_in_passes", "tokens_per_batch, memory advice"
        )
        for module, name in _TRAINERS.items()
    ),
    *(
        _patch(module, f"{_TRAINERS[module]}.{method}", function, why)
        for module in ("train.sft.trainer", "train.pt.trainer")
        for method, function, why in (
            ("__init__", "steps.optimizer:count_labelled_tokens", "loss per token"),
            ("evaluation_loop", "steps.evaluation:mean_over_tokens", "evaluation loss per token"),
        )
    ),
    _patch("train.kto.trainer", "CustomKTOTrainer.forward", "steps.preference:pass_timeseries", "KTO sees the series"),
    _patch("chat.hf_engine", "HuggingfaceEngine.chat", "chat.messages:refuse_before_generating", "no late refusal"),
    _patch(
        "chat.hf_engine", "HuggingfaceEngine.stream_chat", "chat.messages:refuse_before_generating", "no silent hang"
    ),
    _patch("chat.chat_model", "run_chat", "chat.messages:go_on_after_refusal", "a refused message ends no session"),
    _patch("api.chat", "_process_request", "chat.messages:read_request_once", "a request is read once"),
    _patch("api.chat", "create_chat_completion_response", "chat.messages:answer_400", "400 with the reason"),
    _patch("api.chat", "create_stream_chat_completion_response", "chat.messages:answer_400", "400 with the reason"),
    *(
        _patch("train.sft.trainer", f"CustomSeq2SeqTrainer.{method}", f"chat.generation:{function}", why)
        for method, function, why in (
            ("evaluate", "use_settings_of_recipe", "max_new_tokens holds during training"),
            ("predict", "use_settings_of_recipe", "max_new_tokens holds for every caller"),
            ("get_eval_dataloader", "pad_prompts_left", "prompts end where the answer begins"),
            ("get_test_dataloader", "pad_prompts_left", "prompts end where the answer begins"),
        )
    ),
    _library(
        "peft.peft_model",
        "PeftModel.save_pretrained",
        "load.base_fingerprint:write_beside",
        "an adapter says which base it belongs to",
    ),
    _library("peft.tuners.lora.layer", "svd_lowrank", "load.pissa:from_the_same_start", "PiSSA loads what it trained"),
    _library(
        "peft.tuners.lora.model",
        "LoraModel.subtract_mutated_init",
        "load.pissa:keep_the_rest",
        "pissa_convert keeps the encoder",
    ),
    _library(
        "peft.tuners.oft.model",
        "OFTModel._replace_module",
        "load.adapter_kinds:merge_whole_modules",
        "an OFT adapter with timeseries_tuning: full can be merged",
    ),
    _library(
        "deepspeed.runtime.zero.partition_parameters",
        "Init._allgather_params_coalesced",
        "load.deepspeed_gather:one_by_one",
        "ZeRO-3 on the CPU loads the checkpoint's weights",
    ),
    *(
        _library("deepspeed.runtime.zero.stage_1_and_2", name, f"steps.deepspeed_steps:{function}", why)
        for name, function, why in (
            ("DeepSpeedZeroOptimizer.copy_grads_in_partition", "count_passes", "offloaded gradients of all passes"),
            ("DeepSpeedZeroOptimizer.async_accumulate_grad_in_cpu_via_gpu", "keep_the_sum", "the same, summed up"),
            ("all_gather_dp_groups", "without_graph", "ZeRO-1 and ZeRO-2 on the CPU"),
        )
    ),
)
REPLACED = [row.target for row in TABLE if row.kind in ("patch", "subclass")]


def apply_row(row: Row) -> None:
    """Apply one row to its module, which is imported; does nothing when it is applied already.

    Raises:
        ImportError: the host has not what the row relies on.
    """
    module, function = row.apply.split(":")
    host_module = importlib.import_module(row.module)
    try:
        ours = getattr(importlib.import_module(module), function)
        if row.kind == LIBRARY:
            importlib.import_module("llamafactory_chatts.host.compat").patch(host_module, row.name, ours)
        else:
            ours(host_module, row.name)
    except AttributeError as err:
        raise ImportError(f"llamafactory-chatts cannot add {row.target} to this LLaMA-Factory: {err}") from err

    _applied.add(row.target)


class _RowApplier:
    """Finds the host modules that rows name, as the other finders do, and applies their rows right after they ran.

    Every time: a module that is loaded again loses what was put into it. A module whose rows could not be applied
    cannot be imported any more.
    """

    def __init__(self) -> None:
        self.modules = {row.module for row in TABLE}
        self.failed: dict[str, BaseException] = {}
        self.asking = threading.local()  # another finder may ask for the same module while it is being found

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        if name not in self.modules or name in vars(self.asking):
            return None

        if name in self.failed:
            raise ImportError(str(self.failed[name])) from self.failed[name]

        setattr(self.asking, name, True)
        try:
            others = (finder for finder in list(sys.meta_path) if finder is not self and hasattr(finder, "find_spec"))
            spec = next((spec for finder in others if (spec := finder.find_spec(name, path, target))), None)
        finally:
            delattr(self.asking, name)

        if spec is not None and spec.loader is not None:
            run = spec.loader.exec_module
            spec.loader.exec_module = lambda module: self.run(run, module)

        return spec

    def run(self, run: Callable[[Any], None], module: Any) -> None:
        run(module)
        try:
            for row in TABLE:
                if row.module == module.__name__:
                    apply_row(row)
        except BaseException as err:
            self.failed[module.__name__] = err
            raise


_applied: set[str] = set()
_armed = False


def arm() -> None:
    """Check the versions, then apply each row when its host module is imported. Safe to repeat.

    Raises:
        ImportError: an unsupported version of llamafactory or transformers, or llamafactory was imported too early
            (other modules of it then hold names that a row would replace), or one of its other engines is asked for.
    """
    global _armed
    from .host import gate
    from .recipe.launch.engine import ENVIRONMENT, is_on

    gate.check_versions(REPLACED)
    if _armed:
        return

    if any(map(is_on, ENVIRONMENT)):  # their way is another from the host's first imports on
        from .host.start.engines import refuse_on_command_line

        refuse_on_command_line()

    early = next((row.module for row in TABLE if row.kind != LIBRARY and row.module in sys.modules), None)
    if early is not None:
        raise ImportError(
            f"{early} was imported before llamafactory-chatts could add to it. "
            "Call llamafactory_chatts.register.register() first, or leave LLAMAFACTORY_CHATTS unset."
        )

    _armed = True
    sys.meta_path.insert(0, _RowApplier())
    for row in TABLE:
        if row.kind == LIBRARY and row.module in sys.modules:
            apply_row(row)


def is_applied(row: Row) -> bool:
    """Tell whether a row was applied in this process."""
    return row.target in _applied


def waits(row: Row) -> bool:
    """Tell whether a row is applied later: nothing has imported its library yet."""
    return row.kind == LIBRARY and row.module not in sys.modules


def register() -> None:
    """Add everything now, by importing the host modules (for programs that use llamafactory as a library)."""
    arm()
    for row in TABLE:
        if row.kind != LIBRARY:
            importlib.import_module(row.module)
