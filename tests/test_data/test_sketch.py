"""One meaning of "the same series": what `prepare` keeps, `check` does not call leakage, and the other way round."""

import itertools
import json
from collections import Counter

import numpy as np
import pytest

from llamafactory_chatts.data.check.dataset import check
from llamafactory_chatts.data.check.leakage import Parts
from llamafactory_chatts.data.prepare import dedupe
from llamafactory_chatts.data.prepare.run import prepare
from llamafactory_chatts.data.sketch import TOLERANCE, Alike, alike, sketch


def machine(seed, points=512):
    """A level, a rhythm and noise, as a sensor gives them."""
    rng = np.random.default_rng(seed)
    time = np.arange(points)
    slow, fast = (np.sin(time / rng.uniform(low, high) + rng.uniform(0, 6)) for low, high in ((20, 80), (2, 6)))
    return rng.uniform(-500, 500) + rng.uniform(0.5, 20) * (slow + 0.3 * fast + rng.normal(0, 0.1, points))


def noisy(size):
    return lambda x: x + np.random.default_rng(7).normal(0, size * x.std(), len(x))


FORMS = {
    "itself": lambda x: x,
    "float32": lambda x: x.astype(np.float32).astype(float),
    "rounded to 1/100": lambda x: np.round(x / x.std(), 2) * x.std(),
    "rounded to 1/10": lambda x: np.round(x / x.std(), 1) * x.std(),
    "shifted by 1 %": lambda x: x + 0.01 * x.std(),
    "shifted by 3 %": lambda x: x + 0.03 * x.std(),
    "shifted": lambda x: x + 5,
    "scaled by 1 %": lambda x: (x - x.mean()) * 1.01 + x.mean(),
    "scaled by 3 %": lambda x: (x - x.mean()) * 1.03 + x.mean(),
    "other unit": lambda x: x * 1000,
    "noise 0.1 %": noisy(0.001),
    "noise 1 %": noisy(0.01),
    "noise 2 %": noisy(0.02),
    "noise 5 %": noisy(0.05),
    "resampled": lambda x: x.reshape(-1, 2).mean(axis=1),
    "resampled and back": lambda x: np.repeat(x.reshape(-1, 2).mean(axis=1), 2),
    "truncated": lambda x: x[:-1],
    "rolled": lambda x: np.roll(x, 1),
    "reversed": lambda x: x[::-1].copy(),
    "upside down": lambda x: -x,
    "with a spike": lambda x: x + np.where(np.arange(len(x)) == 100, 6 * x.std(), 0),
}
SAME = {"itself", "float32", "rounded to 1/100", "shifted by 1 %", "scaled by 1 %", "noise 0.1 %"}
UNSURE = {"noise 1 %", "noise 2 %", "rounded to 1/10"}  # about the threshold: one says what the other says


def is_duplicate(one, other):
    seen = dedupe.Seen()
    seen.add(dedupe.key_of("q", [one], "near"), "")
    return seen.refused(dedupe.key_of("q", [other], "near"), "") is not None


def is_leakage(one, other):
    parts = Parts()
    parts.add(0, (0, 1), one)
    return parts.add(1, (1, 1), other) is not None


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("seed", range(12))
def test_a_duplicate_is_leakage_and_the_other_way_round(form, seed):
    one, other = machine(seed), FORMS[form](machine(seed))
    found = {is_duplicate(one, other), is_duplicate(other, one), is_leakage(one, other), is_leakage(other, one)}
    assert len(found) == 1, "prepare and check, or the two directions, say different things"
    assert form in UNSURE or found == {form in SAME}


def test_the_search_finds_what_a_comparison_of_all_pairs_finds():
    """Cells lose no pair, also beside their borders and about the threshold."""
    rng = np.random.default_rng(3)
    series = []
    for seed in range(40):
        base = machine(seed % 8)
        other = base + rng.normal(0, rng.uniform(0, 0.015) * base.std(), len(base))
        series.append((other - other.mean()) * rng.uniform(0.98, 1.02) + other.mean() + rng.uniform(-0.02, 0.02))

    sketches, pairs = [sketch(values) for values in series], 0
    for one, other in itertools.permutations(sketches, 2):
        seen = Alike()
        seen.add([one])
        assert (seen.find([other]) is not None) == alike(one, other)
        pairs += alike(one, other)

    assert 20 < pairs < 600 and TOLERANCE == 0.02


def test_many_copies_on_other_levels_do_not_slow_the_search_down():
    seen, shape = Alike(), machine(1, 64)
    for level in range(3000):
        assert seen.find([sketch(shape + 5 * level)]) is None
        seen.add([sketch(shape + 5 * level)], tag=level)

    assert seen.find([sketch(shape + 5 * 2000)]) == 2000
    assert max(Counter(seen._before).values()) == 3000, "each in a cell of its own"


@pytest.mark.parametrize("scale", [1e-100, 1e-30, 1e30, 1e299])
def test_values_of_any_size(scale):
    one, other = machine(1) / 1000 * scale, machine(2) / 1000 * scale
    assert is_leakage(one, one) and is_duplicate(one, one)
    assert not is_leakage(one, other) and not is_duplicate(one, other)


def test_constants():
    flat = np.full(100, 5.0)
    assert not is_leakage(flat, flat)  # a level identifies nothing
    assert is_duplicate(flat, flat) and not is_duplicate(flat, flat + 1)


@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
@pytest.mark.parametrize("mode", ["off", "exact", "near"])
def test_what_prepare_splits_check_finds_clean(tmp_path, suffix, mode):
    """Copies of every form under other questions and in other label files: no series is on both sides."""
    rows = [
        {"input": f"{form} {seed}: <ts><ts/>", "output": "[]", "timeseries": [FORMS[form](machine(seed)).tolist()]}
        for form, seed in itertools.product(FORMS, range(10))
    ]
    rows += [  # two series whose copies may be in two parts already
        {
            "input": f"pair {seed}: <ts><ts/> <ts><ts/>",
            "output": "[]",
            "timeseries": [FORMS["float32"](machine(one)).tolist() for one in (seed, seed + 1)],
        }
        for seed in range(9)
    ]
    labels = tmp_path / "labels.jsonl"
    labels.write_text("".join(json.dumps(row) + "\n" for row in rows))
    report = prepare(
        {
            "output": str(tmp_path / f"set.{suffix}"),
            "dataset_info": str(tmp_path),
            "deduplicate": mode,
            "split": {"train": 0.5, "test": 0.5},
            "sources": [{"labels": str(labels)}],
        },
        workers=1,
        progress=False,
    )
    assert set(report.part_rows) == {"train", "test"}
    findings = check("set", dataset_info=tmp_path)
    assert findings["leakage"].total == 0 and findings.rows == report.rows
    total = report.total()
    assert total.read == len(rows) == total.written + total.rejected
    assert set(total.reasons) <= {"leakage"} and 0 < total.rejected < 9


def test_windows_of_copies_stay_on_one_side(tmp_path):
    """The files differ in their last digits; each is cut into windows, and no two parts share one."""
    (tmp_path / "csv").mkdir()
    rows = []
    for seed, digits in itertools.product(range(8), (2, 4, 9)):
        name = f"{seed}_{digits}.csv"
        (tmp_path / "csv" / name).write_text("value\n" + "".join(f"{v:.{digits}f}\n" for v in machine(seed, 600)))
        rows.append(
            {"input": f"<ts><ts/> {digits}", "output": '[{"interval": [0, 599], "type": "x"}]', "timeseries": name}
        )

    (tmp_path / "labels.json").write_text(json.dumps(rows))
    source = {"labels": str(tmp_path / "labels.json"), "series": str(tmp_path / "csv")}
    config = {
        "output": str(tmp_path / "set.jsonl"),
        "dataset_info": str(tmp_path),
        "split": {"train": 0.5, "test": 0.5},
        "sources": [{**source, "window": {"length": 128, "stride": 64}}],
    }
    report = prepare(config, workers=2, progress=False)
    assert report.total().rejected == 0 and set(report.part_rows) == {"train", "test"}
    assert check("set", dataset_info=tmp_path)["leakage"].total == 0
