"""The one error type, and the collector that reports many at once."""

import pickle

import pytest

from llamafactory_chatts.core.errors import ChatTSError, Problems, shorten


class TestMessage:
    def test_says_where_what_and_what_to_change(self):
        error = ChatTSError("3 <ts><ts/> but 2 series", "train.jsonl:42", "Add a series or remove a placeholder")
        assert str(error) == "train.jsonl:42: 3 <ts><ts/> but 2 series. Add a series or remove a placeholder."
        assert error.args == (str(error),)

    @pytest.mark.parametrize(
        ("parts", "text"),
        [
            ({"what": "it is empty"}, "it is empty."),
            ({"what": "it is empty", "where": "a.jsonl:1"}, "a.jsonl:1: it is empty."),
            ({"what": "it is empty", "fix": "Fill it"}, "it is empty. Fill it."),
        ],
    )
    def test_leaves_out_what_is_not_known(self, parts, text):
        assert str(ChatTSError(**parts)) == text

    def test_is_a_value_error(self):
        assert issubclass(ChatTSError, ValueError)

    @pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
    def test_survives_the_way_back_from_a_worker_process(self, protocol):
        error = ChatTSError("what", "where", "fix")
        copy = pickle.loads(pickle.dumps(error, protocol))
        assert type(copy) is ChatTSError
        assert (copy.what, copy.where, copy.fix, str(copy)) == ("what", "where", "fix", "where: what. fix.")


class TestShorten:
    def test_keeps_what_fits(self):
        assert shorten("x" * 80) == "x" * 80
        assert shorten([1, 2]) == "[1, 2]"

    def test_cuts_the_rest(self):
        assert shorten("x" * 81) == "x" * 77 + "..."
        assert shorten("abcdefghij", 8) == "abcde..."

    def test_stays_on_one_line(self):
        assert shorten("a\nb") == "a\\nb"


class TestProblems:
    def test_nothing_wrong_raises_nothing(self):
        problems = Problems()
        problems.raise_if_any("train.jsonl", 10)
        assert len(problems) == 0

    def test_lists_the_first_and_counts_all(self):
        problems = Problems(shown=2)
        problems.add("train.jsonl:3", "3 <ts><ts/> but 2 series", "Add a series")
        problems.add("train.jsonl:9", "a series holds NaN at point 1204")
        problems.add("train.jsonl:11", "14 <ts><ts/> but 2 series", "Add a series")
        with pytest.raises(ChatTSError) as caught:
            problems.raise_if_any("train.jsonl", 500)

        assert len(problems) == 3
        assert caught.value.where == "train.jsonl"
        assert str(caught.value).splitlines() == [
            "train.jsonl: 3 of 500 rows cannot be used",
            "  train.jsonl:3: 3 <ts><ts/> but 2 series. Add a series.",
            "  train.jsonl:9: a series holds NaN at point 1204.",
            "  ... and 1 more",
            "  totals: 2 x # <ts><ts/> but # series; 1 x a series holds NaN at point #."
            " Nothing was trained; correct or remove these rows.",
        ]

    def test_the_same_mistake_with_other_numbers_is_one_kind(self):
        problems = Problems()
        for number in (7, 42, 1024, 1.5):
            problems.add("x", f"{number} points")

        with pytest.raises(ChatTSError, match="totals: 4 x # points"):
            problems.raise_if_any("x", 4)

    def test_totals_name_the_most_frequent_kinds(self):
        problems = Problems()
        for count, kind in enumerate("abcdefg", start=1):
            for _ in range(count):
                problems.add("x", f"kind {kind}")

        with pytest.raises(ChatTSError) as caught:
            problems.raise_if_any("x", 28)

        totals = str(caught.value).splitlines()[-1]
        assert totals.startswith("  totals: 7 x kind g; 6 x kind f; 5 x kind e; 4 x kind d; 3 x kind c.")

    def test_a_long_kind_is_shortened(self):
        problems = Problems()
        problems.add("x", "y" * 200)
        with pytest.raises(ChatTSError) as caught:
            problems.raise_if_any("x", 1)

        assert f"1 x {'y' * 77}..." in str(caught.value)
