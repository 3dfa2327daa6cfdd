"""A plan for people (text for a terminal) and for programs (a dict)."""

import sys
from collections.abc import Iterable

import numpy as np
from rich.console import Console
from rich.padding import Padding
from rich.table import Table

from ..core.memory import GIB
from .advice import Advice
from .memory.estimate import ERROR, Plan, Room


BARS, WIDTH = 12, 40
"""Lines of the histogram, and its longest bar."""

ENDLESS = 10**5
"""Characters of a line: none is folded, since the report goes into files and through ``grep``, too."""


def _count(number: float) -> str:
    return f"{number:,.0f}"


def duration(seconds: float) -> str:
    """Return a time as people say it: ``48 s``, ``12 min``, ``3 h 20 min``."""
    if seconds < 90:
        return f"{seconds:.0f} s"

    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"


def _table(rows: Iterable[tuple[str, ...]], right: tuple[int, ...] = (), width: int = 0, indent: int = 2) -> Padding:
    """Return rows as a table without lines.

    Args:
        rows: cells, the same number in each.
        right: columns of numbers.
        width: characters of the first column at least.
        indent: blanks before each row.
    """
    rows, table = list(rows), Table.grid(padding=(0, 3, 0, 0))
    for column in range(len(rows[0])):
        justify = "right" if column in right else "left"
        table.add_column(justify=justify, no_wrap=True, min_width=0 if column else width)

    for row in rows:
        table.add_row(*row)

    return Padding(table, (0, 0, 0, indent))


def histogram(tokens: np.ndarray, limit: int, block: str = "#") -> Padding:
    """Return the lengths of rows as bars; lines above ``limit`` are marked.

    Args:
        tokens: of each row.
        limit: tokens that a row may have.
        block: character of a bar.
    """
    low, high = int(tokens.min()), int(tokens.max())
    step = max(1, -(-(high - low + 1) // BARS))
    edges = np.arange(low, high + step + 1, step)
    counts, _ = np.histogram(tokens, bins=edges)
    most, rows = counts.max(), []
    for start, number in zip(edges, counts):
        bar = block * (max(1, round(WIDTH * number / most)) if number else 0)
        mark = "over cutoff_len" if start > limit else ""
        rows.append((f"{start} to {start + step - 1}", bar, _count(number), mark))

    return _table(rows, right=(0, 2))


def as_dict(plan: Plan, advice: list[Advice]) -> dict[str, object]:
    """Return a plan as plain values; memory in GiB, time in seconds."""
    rows, steps, gpu, host = plan.rows, plan.steps, plan.gpu, plan.host
    tokens = rows.rows.tokens
    quantiles = {f"p{q}": int(np.percentile(tokens, q)) for q in (5, 50, 95, 99)}
    card = plan.machine.card
    return {
        "recipe": str(plan.recipe.path),
        "base": {"name": plan.base.name, "parameters": plan.base.total},
        "machine": {
            "card": card.name if card else None,
            "card_gib": card.gib if card else None,
            "cards": plan.machine.count,
            "nodes": plan.machine.nodes,
            "ram_gib": plan.machine.ram,
            "notes": list(plan.machine.notes),
        },
        "rows": {
            "datasets": rows.rows.parts,
            "total": len(rows.rows),
            "trained_on": len(rows.samples),
            "validation": rows.validation,
            "overlong": rows.overlong,
            "unusable": rows.rows.unusable_total,
            "packed": len(rows.packs) if rows.packs is not None else None,
            "exact": rows.rows.exact,
        },
        "tokens": {
            "shortest": int(tokens.min()),
            "mean": float(tokens.mean()),
            "longest": int(tokens.max()),
            **quantiles,
            "per_epoch": int(rows.samples.tokens.sum()),
            "labelled_per_epoch": int(rows.samples.labelled.sum()),
            "patches_per_epoch": int(rows.samples.patches.sum()),
        },
        "steps": {
            "total": steps.total,
            "per_epoch": steps.per_epoch,
            "epochs": steps.epochs,
            "by_max_steps": steps.by_max_steps,
            "global_batch": steps.global_batch,
            "last_of_epoch": steps.last,
            "passes_per_step": plan.passes,
            "tokens_of_largest_pass": plan.largest.tokens,
        },
        "gpu_gib": {
            "peak": gpu.peak / GIB,
            "outside_pytorch": gpu.outside / GIB,
            "needed": gpu.needed / GIB,
            "moment": gpu.moment,
            "parts": {name: size / GIB for name, size in gpu.parts.items()},
            "at_another_moment": {name: size / GIB for name, size in gpu.elsewhere.items()},
        },
        "host_gib": {
            "launcher": host.launcher,
            "total": host.total / GIB,
            "parts": {name: size / GIB for name, size in host.parts.items()},
        },
        "fits": plan.fits,
        "verdict": plan.verdict,
        "seconds": plan.time.seconds if plan.time else None,
        "samples_per_second": plan.time.samples_per_second if plan.time else None,
        "speed_source": plan.time.source if plan.time else None,
        "advice": [
            {"level": item.level, "topic": item.topic, "text": item.text, "changes": item.changes} for item in advice
        ],
    }


def as_text(plan: Plan, advice: list[Advice]) -> str:
    """Return a plan as lines for a terminal."""
    screen = Console(width=ENDLESS, color_system=None, highlight=False, markup=False, emoji=False)
    with screen.capture() as captured:
        for part in (*_head(plan), *_rows(plan), *_steps(plan), *_gpu(plan), *_host(plan), *_rest(plan, advice)):
            screen.print(part)

    return "\n".join(line.rstrip() for line in captured.get().splitlines())


def _fields(name: str, *lines: str) -> Padding:
    """Return lines with a name in front of the first."""
    return _table([("" if index else name, line) for index, line in enumerate(lines)], width=6, indent=0)


def _head(plan: Plan) -> list[str | Padding]:
    recipe = plan.recipe
    method = f"{recipe['finetuning_type']}"
    method += f", {recipe['quantization_bit']}-bit weights" if recipe["quantization_bit"] else ""
    return [
        f"{recipe.path}: {plan.base.name} ({plan.base.total / 1e9:.2f} billion parameters), {method}",
        f"on {plan.machine}",
        *(f"   {note}" for note in plan.machine.notes),
    ]


def _rows(plan: Plan) -> list[str | Padding]:
    rows, recipe = plan.rows, plan.recipe
    tokens = rows.rows.tokens
    parts = ", ".join(f"{name} {_count(number)}" for name, number in rows.rows.parts.items())
    held = f"{_count(rows.validation)} kept for evaluation, " if rows.validation else ""
    packed = f", packed into {_count(len(rows.packs))}" if rows.packs is not None else ""
    over = f"{_count(rows.overlong)} over cutoff_len {recipe['cutoff_len']}"
    lines = [
        f"{_count(len(rows.rows))} ({parts})",
        f"{held}{over}; trained on {_count(len(rows.samples))}{packed}",
    ]
    if rows.rows.unusable_total:
        lines.append(f"{rows.rows.unusable_total} cannot be used:")
        lines += [f"  {text}" for text in rows.rows.unusable]

    patches = rows.rows.patches.sum() / max(tokens.sum(), 1)
    lengths = [
        f"{_count(tokens.min())} to {_count(tokens.max())} a row, mean {_count(tokens.mean())}, "
        f"median {_count(np.median(tokens))}; {patches:.0%} are patches of series"
    ]
    if not rows.rows.exact:
        lengths.append("estimated: the base is not on this machine, so there is no tokenizer (series are exact)")

    if rows.rows.approximate:
        lengths.append(f"estimated for {rows.rows.approximate} rows with tool calls")

    utf8 = (getattr(sys.stdout, "encoding", None) or "").lower().startswith("utf")
    bars = histogram(tokens, recipe.limit, "█" if utf8 else "#")
    return ["", _fields("rows", *lines), _fields("tokens", *lengths), bars]


def _steps(plan: Plan) -> list[str | Padding]:
    steps, recipe = plan.steps, plan.recipe
    why = "max_steps" if steps.by_max_steps else f"{recipe['num_train_epochs']:g} epochs"
    rows = "packed rows" if plan.rows.packs is not None else "rows"
    text = f"{steps.global_batch} {rows} each = {steps.batch} x {steps.accumulation} accumulated"
    text += f" x {steps.world} processes" if steps.world > 1 else ""
    if recipe["tokens_per_batch"] is not None:
        text += f", in about {plan.passes:.1f} passes of up to {recipe['tokens_per_batch']} tokens"

    lines = [f"{_count(steps.total)} ({why}; {_count(steps.per_epoch)} an epoch)", text]
    if steps.last != steps.global_batch:
        lines.append(f"the last step of an epoch: {steps.last}")

    return ["", _fields("steps", *lines)]


def _memory(parts: Iterable[tuple[str, float, str]]) -> Padding:
    """Return a table of (name, bytes, note)."""
    return _table([(name, f"{size / GIB:.2f} GiB", note) for name, size, note in parts], right=(1,), width=21)


def _gpu(plan: Plan) -> list[str | Padding]:
    gpu = plan.gpu
    other = {name: f"({size / GIB:.2f} at another moment)" for name, size in gpu.elsewhere.items() if size}
    parts = [
        (name, size, other.get(name, "")) for name, size in gpu.parts.items() if size >= GIB / 200 or name in other
    ]
    parts += [("PyTorch, reserved", gpu.peak, ""), ("CUDA beside PyTorch", gpu.outside, "")]
    title = f"GPU memory, one card, at the peak ({gpu.moment}; largest pass {_count(plan.largest.tokens)} tokens)"
    return ["", title, _memory([*parts, ("needed", gpu.needed, _verdict(plan.room, 2))])]


def _verdict(room: Room | None, decimals: int) -> str:
    """Return the verdict with what is left (or missing) and how far the estimate may be off, in GiB."""
    if room is None:
        return ""

    left, off = room.left / GIB, f" (the estimate may be {ERROR:.0%} off: {ERROR * room.needed / GIB:.1f})"
    text = f"of {room.there / GIB:.{decimals}f}: {room.word}, "
    text += f"{left:.1f} left" if left >= 0 else f"{-left:.1f} too much"
    return text + (off if room.word == "tight" else "")


def _host(plan: Plan) -> list[str | Padding]:
    host = plan.host
    parts = [(name, size, "") for name, size in host.parts.items() if size >= GIB / 200]
    title = f"host memory of a node while loading and training ({host.launcher})"
    return ["", title, _memory([*parts, ("needed", host.total, _verdict(plan.host_room, 0))])]


def _rest(plan: Plan, advice: list[Advice]) -> list[str | Padding]:
    """Return time and advice."""
    text = "not estimated: give --gpu, or a measured --speed"
    if plan.time is not None:
        text = f"{duration(plan.time.seconds)} at {plan.time.samples_per_second:.2g} rows/s ({plan.time.source})"

    parts = ["", _fields("time", text), ""]
    if not advice:
        return [*parts, _fields("advice", "none: nothing stands out")]

    marks = {"error": "ERROR", "change": "better", "note": "note"}
    return [*parts, "advice", _table([(marks[item.level], str(item)) for item in advice])]
