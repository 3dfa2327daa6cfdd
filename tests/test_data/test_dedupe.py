"""Duplicates: to the bit, and up to rounding."""

import json

import numpy as np
import pytest

from llamafactory_chatts.data.prepare import dedupe


def wave(seed=0, points=800):
    rng = np.random.default_rng(seed)
    return np.sin(np.arange(points) / rng.uniform(5, 50)) * 3 + rng.normal(20, 0.5, points)


def is_new(seen, text, series, mode="near"):
    key = dedupe.key_of(text, series, mode)
    why = seen.refused(key, "")
    assert why is None or why[0] == "duplicate"
    if why is None:
        seen.add(key, "")

    return why is None


def near(first, second, text=("q", "q")):
    seen = dedupe.Seen()
    assert is_new(seen, text[0], first)
    return not is_new(seen, text[1], second)


def test_exact():
    seen = dedupe.Seen()
    assert is_new(seen, "q", [wave()], "exact")
    assert not is_new(seen, "q", [wave()], "exact")
    assert is_new(seen, "other", [wave()], "exact")
    assert is_new(seen, "q", [np.round(wave(), 3)], "exact")
    assert is_new(seen, "q", [wave()[:400], wave()[400:]], "exact")


@pytest.mark.parametrize("decimals", [2, 3, 4, 6])
def test_near_finds_every_rounded_copy(decimals):
    assert all(near([wave(seed)], [np.round(wave(seed), decimals)]) for seed in range(200))


def test_near_finds_float32():
    assert all(near([wave(seed)], [wave(seed).astype(np.float32).astype(float)]) for seed in range(50))


@pytest.mark.parametrize(
    "change",
    [
        lambda x: x + 0.5,  # another level
        lambda x: x * 1.2,
        lambda x: x[:-1],
        lambda x: x[::-1],
        lambda x: np.roll(x, 5),
        lambda x: np.where(np.arange(len(x)) == 400, x + 12, x),  # a spike
        lambda x: -x,
    ],
)
def test_near_leaves_others_alone(change):
    assert not any(near([wave(seed)], [change(wave(seed))]) for seed in range(20))


def test_no_two_of_many_series_are_alike():
    seen = dedupe.Seen()
    assert all(is_new(seen, "q", [wave(seed, 300)]) for seed in range(2000))


def test_text_order_and_number_count():
    one, two = wave(1), wave(2)
    assert near([one, two], [one.round(3), two.round(3)])
    assert not near([one, two], [two, one])
    assert not near([one], [one, one])
    assert not near([one], [one], ("q", "other"))


def test_constants():
    flat = np.full(100, 5.0)
    assert near([flat], [flat])
    assert near([np.zeros(100)], [np.zeros(100)])
    assert not near([flat], [flat + 1])
    assert not near([flat], [flat[:50]])


def test_rows_of_text_only():
    assert near([], []) and not near([], [], ("a", "b"))


@pytest.mark.parametrize("mode", ["exact", "near"])
def test_what_was_seen_survives_an_interruption(mode):
    first, second = dedupe.Seen(), dedupe.Seen()
    records = [first.add(dedupe.key_of("q", [wave(seed)], mode, group=seed), "test") for seed in range(20)]
    second.restore(json.loads(json.dumps(records)))
    for seed in range(20):
        key = dedupe.key_of("q", [wave(seed)], mode, group=seed + 50)
        assert second.refused(key, "test")[0] == "duplicate" and second.part_of([key], "train") == "test"

    assert is_new(second, "q", [wave(99)], mode)
