"""Fewer points, and where their intervals go."""

import numpy as np
import pytest

from llamafactory_chatts.data.prepare import resample, windows


def piece(*values):
    return windows.whole([np.asarray(v, dtype=float) for v in values])


@pytest.mark.parametrize("method", resample.METHODS)
def test_a_shorter_series_stays_as_it_is(method):
    part = piece(range(10))
    assert resample.resample(part, 10, method) is part


@pytest.mark.parametrize("method", resample.METHODS)
@pytest.mark.parametrize(("points", "wanted"), [(100, 10), (101, 7), (1000, 999), (10, 3), (11, 10)])
def test_length_and_order(method, points, wanted):
    part = resample.resample(piece(np.random.default_rng(0).normal(size=points)), wanted, method)
    assert len(part) == len(part.values[0]) == wanted
    assert (np.diff(part.low) > 0).all() and (part.high >= part.low).all()
    assert part.low[0] == 0 and part.high[-1] == points - 1


def test_means_of_buckets_and_their_intervals():
    part = resample.resample(piece([0, 2, 4, 6, 8, 10, 12]), 3, "mean")
    assert part.values[0].tolist() == [1, 5, 10]  # two, two and three points
    assert part.move(0, 1) == (0, 0) and part.move(1, 2) == (0, 1) and part.move(6, 6) == (2, 2)
    assert part.move(2, 3) == (1, 1)


def test_every_interval_has_a_place_among_means():
    part = resample.resample(piece(np.arange(997)), 64, "mean")
    assert all(part.move(at, at) is not None for at in range(997))


def plain_lttb(values, points):
    """The algorithm as in the thesis, point by point."""
    n = len(values)
    limits = [1 + (n - 2) * k // (points - 2) for k in range(points - 1)]
    buckets = [list(range(a, b)) for a, b in zip(limits, limits[1:])] + [[n - 1]]
    chosen = [0]
    for here, after in zip(buckets, buckets[1:]):
        cx, cy = np.mean(after), np.mean([values[k] for k in after])
        ax, ay = chosen[-1], values[chosen[-1]]
        areas = [abs((ax - cx) * (values[k] - ay) - (ax - k) * (cy - ay)) for k in here]
        chosen.append(here[int(np.argmax(areas))])

    return [*chosen, n - 1]


@pytest.mark.parametrize("seed", range(5))
def test_lttb_is_the_published_algorithm(seed):
    rng = np.random.default_rng(seed)
    values = rng.normal(size=int(rng.integers(50, 500))).cumsum()
    points = int(rng.integers(3, 49))
    assert resample.lttb(values[None], points).tolist() == plain_lttb(values, points)


def test_lttb_keeps_a_spike_and_its_interval():
    values = np.sin(np.arange(2000) / 50)
    values[741] += 9
    part = resample.resample(piece(values), 100, "lttb")
    start, end = part.move(741, 741)
    assert start == end and part.values[0][start] == values[741]


def test_several_series_share_the_points():
    rng = np.random.default_rng(0)
    one, two = rng.normal(size=500), rng.normal(size=500)
    two[250] = 50
    part = resample.resample(piece(one, two), 60, "lttb")
    assert 250 in part.low and np.array_equal(part.values[0], one[part.low])
    assert np.array_equal(part.values[1], two[part.low])


def test_a_constant_series():
    part = resample.resample(piece(np.full(100, 7.0)), 10, "lttb")
    assert part.values[0].tolist() == [7.0] * 10
