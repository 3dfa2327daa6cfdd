"""The split: by series, seeded, independent of the order."""

from collections import Counter

import pytest

from llamafactory_chatts.data.prepare.split import part_of


SHARES = {"train": 0.8, "validation": 0.1, "test": 0.1}
KEYS = [str(number).encode() for number in range(5000)]


def test_shares_are_met_on_average():
    found = Counter(part_of(key, 0, SHARES) for key in KEYS)
    assert all(abs(found[part] / len(KEYS) - share) < 0.02 for part, share in SHARES.items())


def test_seeded():
    first = [part_of(key, 0, SHARES) for key in KEYS]
    assert first == [part_of(key, 0, SHARES) for key in KEYS]
    assert first != [part_of(key, 1, SHARES) for key in KEYS]


@pytest.mark.parametrize("shares", [{"train": 1}, {"train": 1.0, "test": 0}, {"train": 0, "test": 1}])
def test_one_part(shares):
    assert len({part_of(key, 0, shares) for key in KEYS}) == 1


def test_thirds_add_up():
    third = {"train": 1 / 3, "validation": 1 / 3, "test": 1 / 3}
    assert set(Counter(part_of(key, 3, third) for key in KEYS)) == set(third)
