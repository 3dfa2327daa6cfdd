"""Pictures of samples: every series of a row as a curve, the intervals of its answer shaded."""

import io
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ...core.errors import ChatTSError
from .answer_checks import marks
from .preview_fonts import drawable, families


WIDTH, HEIGHT, DPI = 9.0, 2.1, 100
"""Inches of a picture and of one curve in it, dots per inch."""

MOST_CURVES = 12
"""Curves in one picture; more series are named in its title and not drawn."""

COLOURS = ("#d62728", "#ff7f0e", "#9467bd", "#2ca02c", "#8c564b", "#e377c2", "#17becf", "#bcbd22")


@dataclass(frozen=True)
class Sample:
    """A row to draw: where it is, what it asks, its answer and its series (each of shape ``(length,)``)."""

    where: str
    question: str
    answer: str
    series: list[np.ndarray]


@dataclass(frozen=True)
class Picture:
    """A drawn sample.

    Attributes:
        png: the file's content.
        substituted: True when a text could not be drawn as it is, for want of a font.
    """

    sample: Sample
    png: bytes
    substituted: bool


def draw(sample: Sample) -> Picture:
    """Draw a sample as PNG. With several series the intervals are shaded in all: the answer does not say which."""
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure  # without pyplot: no window system, and nothing to close

    curves = sample.series[:MOST_CURVES]
    with matplotlib.rc_context({"font.family": list(families()), "font.size": 9, "axes.unicode_minus": True}):
        figure = Figure(figsize=(WIDTH, HEIGHT * len(curves) + 0.7), dpi=DPI, layout="constrained")
        canvas = FigureCanvasAgg(figure)
        title, whole = drawable(_title(sample))
        figure.suptitle(title, fontsize=10, parse_math=False)
        axes = figure.subplots(len(curves), 1, squeeze=False)[:, 0]
        found = marks(sample.answer)
        colours = {
            label: COLOURS[index % len(COLOURS)] for index, label in enumerate(dict.fromkeys(m[2] for m in found))
        }
        for index, (axis, values) in enumerate(zip(axes, curves)):
            whole &= _curve(axis, values, found, colours, legend=index == 0)
            if len(curves) > 1:
                axis.set_ylabel(f"series {index + 1}")

        axes[-1].set_xlabel("point")
        buffer = io.BytesIO()
        canvas.print_png(buffer)

    return Picture(sample, buffer.getvalue(), not whole)


def _title(sample: Sample) -> str:
    file, _, row = sample.where.rpartition(":")
    lengths = ", ".join(str(len(values)) for values in sample.series[:MOST_CURVES])
    more = f", first {MOST_CURVES} of {len(sample.series)} series" if len(sample.series) > MOST_CURVES else ""
    return f"{os.path.basename(file)}:{row}   ({lengths} points{more})"


def _curve(axis, values: np.ndarray, found: list, colours: dict[str, str], legend: bool) -> bool:
    axis.plot(np.arange(len(values)), values, color="#1f4e79", linewidth=0.9, marker="." if len(values) < 3 else None)
    axis.margins(x=0.01)
    axis.grid(alpha=0.25, linewidth=0.5)
    axis.set_xlim(
        -0.01 * len(values) - 0.5, 1.01 * len(values) - 0.5
    )  # an interval outside must not squeeze the curve
    whole, named = True, set()
    for start, end, label in found:
        text, same = drawable(label)
        whole &= same
        text += " (outside)" if start >= len(values) or end < 0 else ""
        # half a point on both sides: the ends belong to the interval, and one point is still to be seen
        axis.axvspan(
            start - 0.5,
            end + 0.5,
            color=colours[label],
            alpha=0.28,
            linewidth=0,
            label=None if label in named else text,
        )
        named.add(label)

    if legend and found:
        box = axis.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), fontsize=8, frameon=False)
        for text in box.get_texts():
            text.set_parse_math(False)

    return whole


def write(pictures: list[Picture], folder: str | os.PathLike) -> list[Path]:
    """Write pictures into a folder as ``001_FILE_ROW.png`` and return their paths.

    Raises:
        ChatTSError: the folder cannot be written.
    """
    target = Path(folder)
    paths = []
    try:
        target.mkdir(parents=True, exist_ok=True)
        for index, picture in enumerate(pictures, start=1):
            file, _, row = picture.sample.where.rpartition(":")
            path = target / f"{index:03d}_{Path(file).stem}_{row}.png"
            path.write_bytes(picture.png)
            paths.append(path)
    except OSError as error:
        raise ChatTSError(
            f"cannot be written ({error.strerror})", where=str(target), fix="Name another folder with --out"
        ) from error

    return paths
