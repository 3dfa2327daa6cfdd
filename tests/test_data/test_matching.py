"""From the names in labels to series files: each rule, each spelling, and no guess between two files."""

import os
import pickle
import unicodedata

import pytest

from llamafactory_chatts.core.errors import ChatTSError
from llamafactory_chatts.data.labels.matching import FolderIndex, Match, NoMatch, match, parse_rules


SWAP = {"suffix": {".jpg": ".csv", ".PV.jpg": ".csv"}}


@pytest.fixture
def folder(tmp_path):
    """Return a function that makes an index of files with the given names."""

    def make(*names):
        for name in names:
            path = tmp_path / "series" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("value\n1\n")

        return FolderIndex(tmp_path / "series")

    return make


def found(name, index, *rules):
    hit = match(name, index, parse_rules(list(rules)))
    assert isinstance(hit, Match)
    return index.relative(hit.path)


def refusal(name, index, *rules):
    with pytest.raises(NoMatch) as caught:
        match(name, index, parse_rules(list(rules)))

    return caught.value


class TestRules:
    @pytest.mark.parametrize(
        "name, file, rule",
        [
            ("a.csv", "a.csv", "exact"),
            ("a.jpg", "a.csv", {"suffix": {".jpg": ".csv"}}),
            ("a.jpg", "a.npy", {"suffix": {".jpg": [".csv", ".npy"]}}),
            ("gdsh_second_1X.PV.jpg", "gdsh_second_1X.csv", SWAP),
            ("gdsh_second_1X.PV.jpg", "gdsh_second_1X.PV.csv", SWAP),
            ("gdsh_second_1X.pv.JPG", "gdsh_second_1x.CSV", SWAP),
            ("whlj_ljsj_2.jpg", "数据集whlj_ljsj_2.csv", {"add_prefix": "数据集"}),
            ("2.jpg", "数据集whlj_ljsj_2.parquet", {"add_prefix": ["数据集", "数据集whlj_ljsj_"]}),
            ("gdsh_second_1X.PV.jpg", "1X.PV.csv", {"remove_prefix": "gdsh_second_"}),
            ("GDSH_second_1X.jpg", "1X.npz", {"remove_prefix": ["gdsh_", "gdsh_second_"]}),
            ("p-07_2024.png", "pump7.csv", {"regex": r"^p-0*(\d+)_.*$", "replace": r"pump\1"}),
            ("数据集whlj_ljsj_3.PV.jpg", "3.csv", {"all": [{"remove_prefix": "数据集whlj_ljsj_"}, SWAP]}),
            ("zhlh_9.jpg", "数据集9.csv", {"all": [{"remove_prefix": "zhlh_"}, {"add_prefix": "数据集"}]}),
            ("gdsh_second_1X.jpg", "gdsh-Second 1X.csv", "unique-stem"),
        ],
    )
    def test_each_leads_to_its_file(self, folder, name, file, rule):
        index = folder(file, "other.csv", "hbsn_4.csv")
        assert found(name, index, rule) == file
        assert refusal("gone.jpg", index, rule).reason == "no file"

    def test_the_first_rule_that_finds_a_file_decides(self, folder):
        index = folder("a.csv", "数据集a.csv")
        rules = parse_rules(["exact", {"add_prefix": "数据集"}, SWAP])
        assert match("a.jpg", index, rules).rule == "add_prefix 数据集"
        assert match("a.csv", index, rules).rule == "exact"
        assert match("a.jpg", index, rules[2:]).rule == "suffix .PV.jpg -> .csv, .jpg -> .csv"

    def test_the_longest_suffix_comes_first(self, folder):
        index = folder("1X.csv", "1X.PV.csv")
        assert found("1X.PV.jpg", index, SWAP) == "1X.csv"
        assert found("1X.PV.jpg", index, {"suffix": {".jpg": ".csv"}}) == "1X.PV.csv"

    def test_exact_changes_nothing(self, folder):
        assert refusal("a.jpg", folder("a.csv", "a.jpg"), "exact").reason == "no file"

    def test_a_chain_ends_where_a_step_does_not_apply(self, folder):
        rule = {"all": [{"remove_prefix": "zhlh_"}, SWAP]}
        assert refusal("9.jpg", folder("9.csv"), rule).reason == "no file"

    def test_pictures_beside_the_series_are_no_series(self, folder):
        index = folder("a.jpg", "a.csv", "~$a.csv", "._a.csv", ".a.csv")
        assert [os.path.basename(path) for path in index.paths] == ["a.csv"]
        assert found("a.jpg", index, {"regex": "x*$", "replace": ""}) == "a.csv"


class TestNames:
    @pytest.mark.parametrize(
        "name",
        [
            "/home/someone/plots/泵é.jpg",
            "C:\\plots\\plant\\泵é.jpg",
            "..\\..\\泵é.jpg",
            "../泵é.jpg",
            "//server/泵é.jpg",
            "\\\\server\\泵é.jpg",
            "泵É.JPG",
            " 泵é.jpg ",
        ],
    )
    @pytest.mark.parametrize("label_form", ["NFC", "NFD"])
    @pytest.mark.parametrize("file_form", ["NFC", "NFD"])
    def test_spellings_are_alike(self, folder, name, label_form, file_form):
        file = unicodedata.normalize(file_form, "泵é.csv")
        index = folder(f"deep/er/{file}", "other.csv")
        for rule in (SWAP, "unique-stem"):
            assert found(unicodedata.normalize(label_form, name), index, rule) == f"deep/er/{file}"

    @pytest.mark.parametrize("form", ["NFC", "NFD"])
    def test_prefixes_and_suffixes_in_either_form(self, folder, form):
        index = folder("A1.csv", "Ünit_B.csv")
        prefix = unicodedata.normalize(form, "Ünit_")
        assert found(unicodedata.normalize("NFD", "üNIT_a1.jpg"), index, {"remove_prefix": prefix}) == "A1.csv"
        assert found("b.jpg", index, {"add_prefix": prefix}) == "Ünit_B.csv"

    @pytest.mark.parametrize("name", ["", "  ", None, "..", ".", "/", "C:\\", "a/"])
    def test_no_name(self, folder, name):
        assert refusal(name, folder("a.csv"), "exact", "unique-stem").reason == "no file"

    def test_of_names_that_differ_in_case_the_same_one(self, folder):
        index = folder("Pump.csv", "pump.csv")
        assert found("pump.jpg", index, SWAP) == "pump.csv"
        assert found("Pump.csv", index, "exact") == "Pump.csv"
        assert refusal("PUMP.jpg", index, SWAP).candidates == ["Pump.csv", "pump.csv"]


class TestAmbiguous:
    def test_one_name_in_several_folders(self, folder):
        index = folder("1/a.csv", "2/a.csv", "3/a.csv", "4/a.csv")
        error = refusal("x/a.jpg", index, SWAP, "unique-stem")
        assert (error.reason, error.candidates) == ("ambiguous", ["1/a.csv", "2/a.csv", "3/a.csv"])
        assert str(error).startswith(
            "4 files for 'x/a.jpg' (suffix .PV.jpg -> .csv, .jpg -> .csv): 1/a.csv, 2/a.csv, 3"
        )
        assert "3/a.csv, .... Rename all but one" in str(error)

    def test_two_kinds_of_one_stem(self, folder):
        index = folder("a.csv", "a.npy")
        assert found("a.jpg", index, SWAP) == "a.csv"
        assert refusal("b_a.jpg", index, {"remove_prefix": "b_"}).candidates == ["a.csv", "a.npy"]

    def test_a_later_rule_does_not_settle_it(self, folder):
        index = folder("1/a.csv", "2/a.csv", "数据集a.csv")
        assert refusal("a.jpg", index, SWAP, {"add_prefix": "数据集"}).reason == "ambiguous"

    def test_it_survives_the_way_back_from_a_worker(self, folder):
        for error in (refusal("a.jpg", folder("1/a.csv", "2/a.csv"), SWAP), refusal("z.jpg", folder(), SWAP)):
            copy = pickle.loads(pickle.dumps(error))
            assert (str(copy), copy.reason, copy.candidates) == (str(error), error.reason, error.candidates)


class TestUniqueStem:
    RULES = (
        {"remove_prefix": "gdsh_second_"},
        {"add_prefix": "数据集whlj_"},
        {"suffix": {".PV.jpg": ".csv"}},
        "unique-stem",
    )

    def test_leaves_out_what_the_rules_name(self, folder):
        index = folder("数据集whlj_1X.csv", "gdsh_second_2X.csv")
        assert match("gdsh_second_1X.PV.jpg", index, parse_rules(list(self.RULES))).rule == "unique-stem"
        assert found("_2_X.PV.png", folder("gdsh_second_2X.csv"), *self.RULES) == "gdsh_second_2X.csv"

    def test_contained_in_one_only(self, folder):
        index = folder("hbsn_boiler_T1_2024.csv", "hbsn_boiler_T11_2024.csv", "hbsn_fan_2024.csv")
        hit = match("T1.jpg", index, parse_rules(["unique-stem"]))
        assert (index.relative(hit.path), hit.rule) == ("hbsn_boiler_T1_2024.csv", "unique-stem (contained)")
        error = refusal("boiler.jpg", index, "unique-stem")
        assert error.reason == "ambiguous" and len(error.candidates) == 2

    @pytest.mark.parametrize("name, file", [("1X.jpg", "11X.csv"), ("X1.jpg", "X12.csv"), ("1_11.jpg", "11_1.csv")])
    def test_numbers_are_not_cut(self, folder, name, file):
        assert refusal(name, folder(file), "unique-stem").reason == "no file"

    def test_unknown_endings_stay(self, folder):
        assert refusal("1X.SP.jpg", folder("1X.PV.csv"), *self.RULES).reason == "no file"

    def test_an_equal_core_wins_over_containing_ones(self, folder):
        assert found("fan.jpg", folder("f_an.csv", "fan2.csv", "old_fan.csv"), "unique-stem") == "f_an.csv"

    def test_equal_cores_are_ambiguous(self, folder):
        assert refusal("fan.jpg", folder("f_an.csv", "_fan.csv"), "unique-stem").reason == "ambiguous"

    def test_nothing_left_of_the_name(self, folder):
        assert refusal("_.jpg", folder("a.csv", "b.csv"), "unique-stem").reason == "no file"


class TestFolder:
    def test_links_are_followed_once(self, folder, tmp_path):
        folder("a/x.csv")
        series = tmp_path / "series"
        (series / "a" / "loop").symlink_to(series)
        (series / "self").symlink_to(series / "self")
        (tmp_path / "disk").mkdir()
        (tmp_path / "disk" / "y.csv").write_text("value\n1\n")
        (series / "other").symlink_to(tmp_path / "disk")
        (series / "again").symlink_to(tmp_path / "disk")
        names = [os.path.basename(path) for path in FolderIndex(series).paths]
        assert sorted(names) == ["x.csv", "y.csv"]

    def test_missing_or_a_file(self, tmp_path):
        with pytest.raises(ChatTSError, match="gone: the folder of series does not exist. Correct `series`"):
            FolderIndex(tmp_path / "gone")

        (tmp_path / "file").write_text("x")
        with pytest.raises(ChatTSError, match="file: the folder of series is no folder"):
            FolderIndex(tmp_path / "file")

    def test_rules_and_index_travel_to_workers(self, folder):
        rules = parse_rules([SWAP, {"all": [{"remove_prefix": "b_"}, {"regex": "x", "replace": "y"}]}, "unique-stem"])
        index, rules = pickle.loads(pickle.dumps((folder("a.csv", "yy.csv"), rules)))
        assert index.relative(match("b_xx.jpg", index, rules).path) == "yy.csv"

    def test_ten_thousand_files_and_labels(self, tmp_path, monkeypatch):
        """A label costs microseconds, also in the rule that looks into every name."""
        import time

        files = [str(tmp_path / f"plant_{number:05d}_T.csv") for number in range(10_000)]
        walk = lambda *args, **options: [(str(tmp_path), [], [os.path.basename(file) for file in files])]  # noqa: E731
        monkeypatch.setattr(os, "walk", walk)
        index, rules = FolderIndex(tmp_path), parse_rules(["exact", SWAP, "unique-stem"])
        start = time.process_time()
        for number in range(0, 10_000, 50):
            assert index.relative(match(f"{number:05d}_T.jpg", index, rules).path) == f"plant_{number:05d}_T.csv"

        assert time.process_time() - start < 3


class TestMistakes:
    @pytest.mark.parametrize(
        "rules, message",
        [
            ([], r"match: \[\] is no list of rules"),
            ("exact", "match: 'exact' is no list of rules"),
            (
                ["stem"],
                r"match\[0\]: 'stem' is no matching rule. Use one of exact, suffix, add_prefix, remove_prefix, ",
            ),
            (["exact", {"sufix": {}}], r"match\[1\]: .* is no matching rule"),
            ([{"suffix": ".jpg"}], r"match\[0\].suffix: '.jpg' is no table. Write suffix"),
            ([{"suffix": {".jpg": 5}}], r"match\[0\].suffix: 5 is no text"),
            ([{"add_prefix": ""}], r"match\[0\].add_prefix: '' is no text"),
            ([{"add_prefix": "a", "suffix": {}}], "is no matching rule"),
            ([{"regex": "a"}], r"is no matching rule.*regex together with replace"),
            ([{"regex": "(a", "replace": ""}], r"match\[0\]: '\(a' is no regular expression \(missing \)"),
            ([{"regex": "(a)", "replace": r"\2"}], r"is no regular expression \(invalid group reference 2"),
            ([{"regex": "(a)", "replace": r"\g<n>"}], "is no regular expression .unknown group name 'n'"),
            ([{"regex": "a", "replace": 5}], "regex and replace must both be texts"),
            ([{"all": "exact"}], r"match\[0\].all: 'exact' is no list of rules"),
            ([{"all": [{"add_prefix": "a"}, "stem"]}], r"match\[0\].all\[1\]: 'stem' is no matching rule"),
            ([{"all": ["unique-stem"]}], "unique-stem cannot be chained"),
            (["unique-stem", "exact"], r"match\[0\]: unique-stem is the last resort. Put it last"),
        ],
    )
    def test_each_names_its_place(self, rules, message):
        with pytest.raises(ChatTSError, match=message):
            parse_rules(rules)
