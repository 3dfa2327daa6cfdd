"""Pieces of series, and intervals that move with them."""

import numpy as np
import pytest

from llamafactory_chatts.core.errors import ChatTSError
from llamafactory_chatts.data.prepare import gaps, windows


NAN = float("nan")


def piece(*values):
    return windows.whole([np.array(v, dtype=float) for v in values])


@pytest.mark.parametrize(
    ("points", "length", "stride", "found"),
    [
        (10, 4, 3, [0, 3, 6]),
        (10, 4, 4, [0, 4, 6]),  # the last one is moved back to the end
        (10, 10, 5, [0]),
        (3, 10, 5, [0]),  # shorter than a window
        (10, 2, 5, [0, 5, 8]),
    ],
)
def test_starts(points, length, stride, found):
    assert windows.starts(points, length, stride) == found


def test_windows_cover_every_point():
    parts = list(windows.windows(piece(range(103)), 20, 7))
    assert all(len(part) == 20 for part in parts)
    assert {int(x) for part in parts for x in part.values[0]} == set(range(103))


@pytest.mark.parametrize(
    ("span", "moved"),
    [
        ((25, 30), (5, 10)),
        ((10, 22), (0, 2)),
        ((38, 99), (18, 19)),
        ((0, 99), (0, 19)),
        ((3, 19), None),
        ((40, 50), None),
    ],
)
def test_an_interval_moves_into_a_window_and_is_cut_at_its_ends(span, moved):
    part = piece(range(100)).cut(20, 40)
    assert part.move(*span) == moved
    assert part.spans(*span) is (moved is not None)


@pytest.mark.parametrize(
    ("span", "found"),
    [([2, 5], (2, 5)), ([None, -2], (0, 8)), ([-3, None], (7, 10)), ([8, 3], (8, 8)), ([0, 99], (0, 10))],
)
def test_bounds(span, found):
    assert windows.bounds(10, span) == found


def test_series_of_two_lengths_cannot_be_cut_together():
    with pytest.raises(ChatTSError, match="series of 2, 3 points cannot be cut together"):
        piece([1, 2], [1, 2, 3])


class TestGaps:
    def test_nothing_to_do(self):
        part = piece([1, 2, 3])
        assert all(gaps.close(part, method) is part for method in gaps.METHODS)

    def test_error_names_the_first(self):
        with pytest.raises(ChatTSError, match="3 gaps, the first at point 1"):
            gaps.close(piece([1, 2, NAN], [1, NAN, NAN]), "error")

    def test_drop_takes_the_point_from_all_series_and_moves_intervals(self):
        part = gaps.close(piece([1, 2, NAN, 4, 5, 6], [1, 2, 3, NAN, 5, 6]), "drop")
        assert [v.tolist() for v in part.values] == [[1, 2, 5, 6], [1, 2, 5, 6]]
        assert part.move(4, 5) == (2, 3)
        assert part.move(1, 4) == (1, 2)
        assert part.move(2, 3) is None  # both were dropped

    def test_ffill(self):
        assert gaps.close(piece([1, NAN, NAN, 4, NAN]), "ffill").values[0].tolist() == [1, 1, 1, 4, 4]

    def test_interpolate(self):
        assert gaps.close(piece([1, NAN, NAN, 4]), "interpolate").values[0].tolist() == [1, 2, 3, 4]

    @pytest.mark.parametrize(
        ("values", "method", "message"),
        [
            ([NAN, 1, 2], "ffill", "a gap at the start"),
            ([NAN, 1, 2], "interpolate", "a gap at the start"),
            ([1, 2, NAN], "interpolate", "a gap at the end"),
            ([NAN, NAN], "drop", "no point is without a gap"),
        ],
    )
    def test_nothing_is_invented_outside_the_data(self, values, method, message):
        with pytest.raises(ChatTSError, match=message):
            gaps.close(piece(values), method)
