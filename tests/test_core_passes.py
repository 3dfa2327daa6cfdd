"""Filling passes to a token budget: nothing lost, nothing above the budget, the same count everywhere."""

import random

import pytest

from llamafactory_chatts.core.passes import count_passes, count_tokens, fill_passes, split_passes


def cases():
    draw = random.Random(0)
    return [[draw.randint(1, 400) for _ in range(draw.randint(1, 40))] for _ in range(40)]


@pytest.mark.parametrize("padding_free", [True, False])
def test_every_row_once_and_no_pass_above_the_budget(padding_free):
    for lengths in cases():
        passes = fill_passes(lengths, 400, padding_free)
        assert sorted(row for rows in passes for row in rows) == list(range(len(lengths)))
        assert all(count_tokens(rows, lengths, padding_free) <= 400 for rows in passes)
        assert all(rows == sorted(rows) for rows in passes)


def test_first_fit_decreasing_stays_near_the_bound():
    for lengths in cases():
        bound = -(-sum(lengths) // 400)
        assert len(fill_passes(lengths, 400, True)) <= 11 / 9 * bound + 2


def test_padding_costs_where_it_is_computed():
    lengths = [100, 10, 10, 10]
    assert count_tokens([0, 1], lengths, True) == 110 and count_tokens([0, 1], lengths, False) == 200
    assert fill_passes(lengths, 130, True) == [[0, 1, 2, 3]]
    assert fill_passes(lengths, 130, False) == [[0], [1, 2, 3]]


def test_a_row_above_the_budget_stands_alone():
    assert fill_passes([5, 50, 5], 20, True) == [[1], [0, 2]]


@pytest.mark.parametrize("padding_free", [True, False])
def test_splitting_keeps_the_rows_and_reaches_the_count(padding_free):
    for lengths in cases():
        passes = fill_passes(lengths, 400, padding_free)
        for more in (0, 1, 5):
            found = split_passes(passes, lengths, len(passes) + more, padding_free)
            assert len(found) == len(passes) + more
            assert sorted(row for rows in found for row in rows) == list(range(len(lengths)))
            assert all(count_tokens(rows, lengths, padding_free) <= 400 for rows in found)


def test_splitting_beyond_the_rows_gives_empty_passes():
    assert split_passes([[0, 1]], [3, 4], 4, True) == [[1], [0], [], []]
    assert split_passes([[0], [1]], [3, 4], 1, True) == [[0], [1]], "never fewer"


def test_the_estimate_is_the_mean_over_groups():
    assert count_passes([10] * 8, rows=4, budget=20, padding_free=True) == 2
    assert count_passes([10, 10, 20, 20], rows=2, budget=20, padding_free=True) == 1.5
    assert count_passes([10] * 3, rows=8, budget=20, padding_free=True) == 2, "fewer rows than a step takes"
