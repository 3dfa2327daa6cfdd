"""Plan a training before it starts: rows, lengths, optimizer steps, GPU and host memory, time, advice.

RECIPE is what llamafactory-cli takes, with key=value behind it. Needs no GPU and loads no weights; the base's
tokenizer and config.json are enough (without them, token counts are estimates). Card and memory are those of --gpu or
--vram and --ram; otherwise those of this machine, as far as a run may use it. The errors that lmf-chatts doctor finds
in the recipe come first. The exit code is 1 when there are any, or the run does not fit or would stop.

--fix OUT.yaml    writes a recipe that fits and keeps the rows of an optimizer step; comments stay
--rebalance 2     twice the rows in a pass, half the accumulation (0.5: the reverse); says which way lowers memory

examples:
  lmf-chatts plan examples/chatts_lora.yaml --gpu "RTX 3090"
  lmf-chatts plan examples/chatts_qlora.yaml dataset=plants_train cutoff_len=4096 --vram 11 --ram 46
  lmf-chatts plan examples/chatts_lora.yaml --gpu "RTX 2080 Ti x2" --fix my_recipe.yaml
  lmf-chatts plan my_recipe.yaml --gpu "RTX 2080 Ti x2" --rebalance 0.5
  lmf-chatts plan my_recipe.yaml --accelerate examples/accelerate/fsdp_qlora.yaml --gpu "RTX 4090 x2"
  lmf-chatts plan my_recipe.yaml --speed saves/chatts-8b/lora --json > plan.json

worked example, ChatTS-14B with 4-bit weights on a card of 11 GiB:
  $ lmf-chatts plan examples/chatts_qlora.yaml --gpu "RTX 2080 Ti" --fix saves/fits.yaml
  ...
  needed                     10.67 GiB   of 10.75: tight, 0.1 left (the estimate may be 10% off: 1.1)
  ...
  ERROR   RTX 2080 Ti has no bf16. Set bf16: false, fp16: true
  ...
  saves/fits.yaml: bf16: true -> false, fp16: false -> true, offload_embedding: false -> true
"""

import argparse
import json
import sys
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

from ..core.errors import ChatTSError


if TYPE_CHECKING:
    from ..plan.memory.estimate import Plan, Setting
    from ..recipe.finding import Finding


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("recipe", metavar="RECIPE", help="recipe of a training (.yaml or .json)")
    parser.add_argument("settings", metavar="KEY=VALUE", nargs="*", help="settings that replace the recipe's")
    parser.add_argument("--gpu", metavar="NAME", help='cards of a node, as in "RTX 3090" or "RTX 2080 Ti x2"')
    parser.add_argument("--vram", type=float, metavar="GIB", help="memory of a card")
    parser.add_argument("--ram", type=float, metavar="GIB", help="host memory of a node")
    parser.add_argument("--nodes", type=int, default=1, metavar="N", help="nodes of the run (default: 1)")
    parser.add_argument(
        "--accelerate", metavar="FILE", help="config_file of accelerate launch, where that starts the run"
    )
    parser.add_argument("--speed", metavar="S", help="measured samples a second, or the folder of a finished run")
    parser.add_argument("--fix", metavar="OUT", help="write a recipe that fits to this new file")
    parser.add_argument("--rebalance", type=float, metavar="F", help="rows in a pass times F, accumulation by F")
    parser.add_argument("--json", action="store_true", help="print JSON instead of text")


def run(args: argparse.Namespace) -> int:
    """Print the plan, write what was asked for; return 1 when the run does not fit or would stop."""
    elsewhere = args.gpu is not None or args.vram is not None
    mistakes = _mistakes(args.recipe, args.settings, elsewhere)
    if not args.json:
        for finding in mistakes:
            print(f"ERROR    {finding.line()}")

    try:
        return _plan(args, mistakes, elsewhere)
    except Exception as error:  # a wrong recipe may stop a plan anywhere
        if args.json and mistakes:
            print(json.dumps({"recipe": args.recipe, "errors": [finding.as_dict() for finding in mistakes]}, indent=2))

        if isinstance(error, ChatTSError) or not mistakes:
            raise

        print("no plan before these are corrected", file=sys.stderr)
        return 1


def _mistakes(path: str, settings: list[str], elsewhere: bool) -> "list[Finding]":
    """Return the errors that ``lmf-chatts doctor`` finds in a recipe, without those about this machine only."""
    from ..recipe.reading import read_recipe
    from ..recipe.rules import check_recipe

    found = check_recipe(read_recipe(path, settings), elsewhere=elsewhere)
    return [finding for finding in found if finding.level == "error"]


def _plan(args: argparse.Namespace, mistakes: "list[Finding]", elsewhere: bool) -> int:
    from ..plan.advice import advise
    from ..plan.memory.estimate import count, make_plan
    from ..plan.report import as_dict, as_text
    from ..plan.run_time import read_speed
    from ..plan.strategy import read_accelerate
    from ..recipe.machine.planned import choose_machine
    from ..recipe.reading import read_recipe

    recipe = read_recipe(args.recipe, args.settings).typed()
    machine = choose_machine(args.gpu, args.vram, args.ram, args.nodes)
    if args.accelerate is not None:
        fsdp, count_of_file, nodes = read_accelerate(args.accelerate)
        machine = replace(machine, fsdp=fsdp, count=count_of_file or machine.count, nodes=max(nodes, args.nodes))

    speed = read_speed(args.speed) if args.speed is not None else None
    plan = make_plan(recipe, machine, count(recipe, _progress), speed)
    advice = advise(plan)
    say: Callable[[str], object] = str if args.json else print
    if args.json:
        printed: dict[str, object] = {"errors": [finding.as_dict() for finding in mistakes], **as_dict(plan, advice)}
    else:
        print(as_text(plan, advice))

    changes, after = {}, None
    if args.rebalance is not None:
        changes, after = _rebalance(plan, args.rebalance, say)

    if args.fix is not None:
        changes, after = _fix(after or plan, changes, args, say)
        mistakes = _mistakes(args.fix, [], elsewhere)

    if args.json:
        if after is not None:
            printed["changes"], printed["after"] = changes, as_dict(after, advise(after))

        print(json.dumps(printed, ensure_ascii=False, indent=2))

    shown = after or plan
    failed = shown.fits is False or any(item.level == "error" for item in (advise(shown) if after else advice))
    return int(failed or bool(mistakes))


def _progress(rows: int) -> None:
    if sys.stderr.isatty():
        print(f"\r{rows:,} rows read", end="\r", file=sys.stderr, flush=True)


def _rebalance(plan: "Plan", factor: float, say: Callable[[str], object]) -> "tuple[dict[str, Setting], Plan]":
    """Say what another split of the same rows does to memory; return it."""
    from ..core.memory import GIB
    from ..plan.memory.fit import rebalance

    changes = rebalance(plan, factor)
    after = plan.changed(changes)
    before, now = plan.gpu.needed / GIB, after.gpu.needed / GIB
    batch, accumulation = changes["per_device_train_batch_size"], changes["gradient_accumulation_steps"]
    say(f"\nrebalance: {plan.steps.batch} x {plan.steps.accumulation} -> {batch} x {accumulation}")
    say(f"  rows per optimizer step stay {plan.steps.global_batch}")
    say(f"  GPU memory {before:.1f} -> {now:.1f} GiB needed")
    if plan.recipe["tokens_per_batch"] is not None:
        say("  with tokens_per_batch the split does not decide about memory: change tokens_per_batch instead")
    elif now > before:
        say("  memory grows this way; fewer rows in a pass and more accumulation lower it: --rebalance 0.5")
    elif now < before:
        say("  fewer rows in a pass and more accumulation lower memory: this way; more rows raise it")
    else:
        say("  the peak is not in a pass, so the split does not change it")

    return changes, after


def _fix(
    plan: "Plan", changes: "dict[str, Setting]", args: argparse.Namespace, say: Callable[[str], object]
) -> "tuple[dict[str, Setting], Plan]":
    """Write a recipe that fits; return its changes and plan."""
    from ..core.memory import GIB
    from ..plan.advice import word
    from ..plan.memory.fit import find_fit
    from ..recipe.edit import write_recipe
    from ..recipe.reading import read_recipe

    fit = find_fit(plan)
    changes = {**changes, **fit.changes}
    original = read_recipe(args.recipe, args.settings)
    try:
        written = write_recipe(original, changes, args.fix)
    except OSError as error:
        raise ChatTSError(str(error), where=f"--fix {args.fix}", fix="Name a file in a folder of yours") from None

    listed = ", ".join(f"{key}: {word(original[key])} -> {word(value)}" for key, value in changes.items())
    say(f"\n{written}: {listed or 'nothing to change, it fits'}")
    needed, card = fit.plan.gpu.needed / GIB, fit.plan.machine.card.gib
    rows = fit.plan.steps.global_batch
    say(f"  needs {needed:.1f} of {card:.1f} GiB ({fit.plan.verdict}); {rows} rows a step")
    return changes, fit.plan
