"""The rules for a recipe, and the run over them: mistakes that are found before anything is loaded."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from ..core.errors import shorten
from .checks.chatts import remote_code, unknown_layers, vision_settings
from .checks.keys import unknown_keys, wrong_values
from .checks.limits import numbers_out_of_range
from .context import Context
from .finding import Finding, worst_first
from .inputs.adapters import adapters_on_their_base
from .inputs.data import held_out, stored_tokens
from .inputs.export import quantised_export
from .inputs.files import (
    adapters_and_checkpoints,
    base_folder,
    datasets,
    kind_of_file,
    other_files,
    output_folder,
    template_of_base,
)
from .inputs.resume import checkpoint_to_resume
from .inputs.rows import rows_of_datasets, rows_too_long
from .launch.deepspeed import own_optimizer
from .launch.engine import other_engines
from .launch.host_memory import offloaded_weights
from .launch.packages import (
    checkpointing_names,
    checkpointing_without_gpu,
    data_parallel_checkpointing,
    deepspeed_file,
    packages,
    precision_of_card,
    quantised_and_sharded,
    reporters,
)
from .launch.run import nothing_to_do, reference_model, steps_and_saves
from .machine.build_locks import waits_for_build
from .reading import Recipe
from .refusals.table import refused


@dataclass(frozen=True)
class Rule:
    """One rule: what it looks at (in the order of the output), its function, and whether it can find errors.

    ``warns``: its warnings are said when a training starts, too.
    """

    subject: str
    find: Callable[[Context], Iterable[Finding]]
    errors: bool = True
    warns: bool = False


RULES: tuple[Rule, ...] = (
    Rule("recipe", kind_of_file),
    Rule("engine", other_engines),
    Rule("keys", unknown_keys),
    Rule("values", wrong_values),
    Rule("numbers", numbers_out_of_range),
    Rule("what to do", nothing_to_do),
    Rule("base", base_folder),
    Rule("template", template_of_base),
    Rule("adapters", adapters_and_checkpoints),
    Rule("adapters and base", adapters_on_their_base),
    Rule("checkpoint", checkpoint_to_resume),
    Rule("layers", unknown_layers),
    Rule("datasets", datasets),
    Rule("rows", rows_of_datasets),
    Rule("lengths", rows_too_long),
    Rule("held-out rows", held_out),
    Rule("tokenised data", stored_tokens),
    Rule("files", other_files),
    Rule("output", output_folder),
    Rule("refusals", refused),
    Rule("export", quantised_export),
    Rule("vision", vision_settings, errors=False),
    Rule("precision", precision_of_card),
    Rule("DDP", data_parallel_checkpointing),
    Rule("checkpointing", checkpointing_names),
    Rule("GPU", checkpointing_without_gpu),
    Rule("DeepSpeed", deepspeed_file),
    Rule("DeepSpeed's optimizer", own_optimizer),
    Rule("DeepSpeed's builds", waits_for_build),
    Rule("host memory", offloaded_weights, warns=True),
    Rule("4-bit and ZeRO-3", quantised_and_sharded, errors=False),
    Rule("packages", packages),
    Rule("report_to", reporters),
    Rule("reference model", reference_model, errors=False),
    Rule("steps", steps_and_saves, errors=False),
    Rule("remote code", remote_code, errors=False),
)


def check_recipe(recipe: Recipe, at_start: bool = False, elsewhere: bool = False) -> list[Finding]:
    """Return what is wrong with a recipe, errors first. Imports neither torch nor the host, loads no model.

    Args:
        recipe: see :func:`recipe_reading.read_recipe`.
        at_start: called inside a starting training: only errors (and warnings of the rules that say so) are looked
            for, and only what a file or a key shows.
        elsewhere: the run is meant for another machine: cards, memory, packages and caches of this one do not count.
    """
    context = Context(recipe, at_start, elsewhere)
    found: list[Finding] = []
    for rule in RULES:
        if at_start and not rule.errors:
            continue

        try:
            found += (one for one in rule.find(context) if not at_start or rule.warns or one.level == "error")
        except Exception as error:  # a rule that fails must not hide what the others found
            what = f"this check failed ({type(error).__name__}: {shorten(error)})"
            found.append(Finding("note", rule.subject, what, fix="Please report it"))

    found = list(dict.fromkeys(found))  # a list of keys and a list of rules may name the same
    return [one for one in found if one.level != "note"] if at_start else worst_first(found)
