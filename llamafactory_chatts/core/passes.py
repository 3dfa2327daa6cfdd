"""Which rows of an optimizer step go through the model together: passes of at most so many tokens."""

from collections.abc import Sequence


Pass = list[int]
"""Indices of the rows that go through the model together; empty: a pass that only keeps other processes company."""


def count_tokens(rows: Sequence[int], lengths: Sequence[int], padding_free: bool) -> int:
    """Return the tokens a pass costs: the real ones, or rows x longest where padding is computed, too."""
    own = [lengths[row] for row in rows]
    return sum(own) if padding_free else len(own) * max(own, default=0)


def fill_passes(lengths: Sequence[int], budget: int, padding_free: bool) -> list[Pass]:
    """Put rows into few passes of at most ``budget`` tokens: first fit, longest row first.

    Args:
        lengths: real tokens of each row.
        budget: limit of :func:`count_tokens` for each pass; a row that is longer by itself gets a pass of its own.
        padding_free: how tokens are counted.

    Returns:
        the passes, rows ascending in each; the same for the same lengths.
    """
    passes: list[Pass] = []
    used: list[int] = []
    longest: list[int] = []
    for row in sorted(range(len(lengths)), key=lambda index: (-lengths[index], index)):
        for number, tokens in enumerate(used):
            cost = lengths[row] if padding_free else longest[number]
            if tokens + cost <= budget:
                passes[number].append(row)
                used[number] += cost
                break
        else:
            passes.append([row])
            used.append(lengths[row])
            longest.append(lengths[row])

    return [sorted(rows) for rows in passes]


def split_passes(passes: Sequence[Pass], lengths: Sequence[int], count: int, padding_free: bool) -> list[Pass]:
    """Return the same rows in ``count`` passes, when there are fewer.

    The costliest pass of several rows is halved, again and again. When every row has a pass of its own, empty
    passes follow.
    """
    passes = [list(rows) for rows in passes]
    while len(passes) < count:
        several = [index for index, rows in enumerate(passes) if len(rows) > 1]
        if not several:
            passes.append([])
            continue

        index = max(several, key=lambda item: count_tokens(passes[item], lengths, padding_free))
        by_length = sorted(passes[index], key=lambda row: (-lengths[row], row))
        half = len(by_length) // 2
        parts = (by_length[::2], by_length[1::2]) if padding_free else (by_length[:half], by_length[half:])
        passes[index : index + 1] = [sorted(part) for part in parts]

    return passes


def count_passes(lengths: Sequence[int], rows: int, budget: int, padding_free: bool, groups: int = 64) -> float:
    """Estimate the passes an optimizer step takes, from up to ``groups`` groups of ``rows`` consecutive rows."""
    starts = range(0, max(len(lengths) - rows, 0) + 1, rows)
    stride = max(1, len(starts) // groups)
    counts = [len(fill_passes(lengths[start : start + rows], budget, padding_free)) for start in starts[::stride]]
    return sum(counts) / len(counts)
