"""From label files and folders of series to a dataset; every label is written, or rejected with its reason."""

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import plants
import pyarrow.parquet as pq
import pytest
import yaml
from host_steps import load_data

from llamafactory_chatts.core.errors import ChatTSError
from llamafactory_chatts.core.placeholders import check_placeholders
from llamafactory_chatts.core.series import as_series
from llamafactory_chatts.data.labels import answers
from llamafactory_chatts.data.prepare import writers
from llamafactory_chatts.data.prepare.run import prepare


ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples" / "prepare_plants.yaml"


def lines(path):
    return [json.loads(line) for line in Path(path).read_text(encoding="utf-8").splitlines()]


@pytest.fixture(scope="module")
def field(tmp_path_factory):
    """The replica of the four plants: its folder, and what must become of every label."""
    folder = tmp_path_factory.mktemp("field")
    return folder, plants.write(folder, seed=0)


@pytest.fixture
def at_field(field, monkeypatch, tmp_path):
    """The same, with a new folder for the output: the recipe's relative paths lead there."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "examples").symlink_to(field[0] / "examples", target_is_directory=True)
    return tmp_path, field[1]


def settings(**changes):
    return {**yaml.safe_load(EXAMPLE.read_text(encoding="utf-8")), **changes}


class TestPlants:
    def test_every_label_is_written_or_rejected_for_its_reason(self, at_field):
        folder, labels = at_field
        report = prepare(EXAMPLE, workers=2, progress=False)
        rejected = {(item["source"], item["row"]): item["reason"] for item in lines(report.rejects)}
        assert {(label.site, label.row) for label in labels if label.reason is not None} == set(rejected)
        for label in labels:
            if label.reason:
                assert rejected[label.site, label.row] == label.reason, label

        rows = [row for file in report.outputs.values() for row in lines(file)]
        assert len(rows) + len(rejected) == len(labels) == 450
        for source in report.sources:
            mine = [label for label in labels if label.site == source.name]
            assert source.read == len(mine) == source.written + source.rejected
            assert source.rejected == sum(site == source.name for site, _ in rejected)
            assert sum(source.reasons.values()) == source.rejected

        assert all(
            item["detail"] and item["name"] is not None or item["reason"] == "unreadable row"
            for item in lines(report.rejects)
        )
        for row in rows:
            assert list(row) == ["input", "output", "timeseries"]
            series = [as_series(values) for values in row["timeseries"]]
            check_placeholders([{"role": "user", "content": row["input"]}], len(series))
            found = answers.intervals(answers.normalise(json.loads(row["output"])))
            answers.check_intervals(found, len(series[0]))

    def test_what_the_rules_bring(self, at_field):
        folder, labels = at_field
        report = prepare(EXAMPLE, workers=2, progress=False)
        exact = prepare(EXAMPLE, workers=2, exact_only=True, progress=False)
        for source in exact.sources:
            assert source.read == source.written + source.rejected

        wanted = sum(label.exact and label.reason is None for label in labels)
        assert exact.rows == wanted < report.rows / 10
        assert {s.name for s in exact.sources if not s.written} == {"gdsh", "whlj", "zhlh"}  # as it was in the field
        assert all("_exact_only" in file for file in exact.outputs.values())
        assert json.loads((folder / "dataset_info" / "dataset_info.json").read_text()).keys() == {
            f"plants_{part}" for part in report.outputs
        }

    def test_the_result_depends_on_neither_workers_nor_progress(self, at_field, capfd):
        folder, _ = at_field
        first = prepare(EXAMPLE, workers=1, progress=False)
        found = [Path(file).read_bytes() for file in (*first.outputs.values(), first.rejects, first.provenance)]
        second = prepare(EXAMPLE, workers=3, progress=True)
        assert found == [Path(f).read_bytes() for f in (*second.outputs.values(), second.rejects, second.provenance)]
        assert "450/450" in capfd.readouterr().err
        assert not [
            path.name for path in (folder / "dataset_info").iterdir() if "part" in path.name or "seen" in path.name
        ]

    def test_parquet_holds_the_same_rows(self, at_field):
        jsonl = prepare(EXAMPLE, workers=2, progress=False)
        parquet = prepare(EXAMPLE, workers=2, progress=False, output="pq/plants.parquet")
        for part, file in jsonl.outputs.items():
            packed = pq.read_table(parquet.outputs[part]).to_pylist()
            plain = lines(file)
            assert [(row["input"], row["output"]) for row in packed] == [
                (row["input"], row["output"]) for row in plain
            ]
            for a, b in zip(packed, plain):
                assert all(np.allclose(x, y, rtol=1e-6) for x, y in zip(a["timeseries"], b["timeseries"], strict=True))

    def test_provenance(self, at_field):
        report = prepare(EXAMPLE, workers=2, progress=False)
        content = json.loads(Path(report.provenance).read_text(encoding="utf-8"))
        assert content["recipe"] == settings() and content["versions"].keys() >= {"llamafactory-chatts", "pandas"}
        for source in content["sources"]:
            assert sum(n for name, n in source["tally"].items() if name.startswith("rule: ")) >= source["written"]
            assert source["tally"]["gaps interpolate"] > 0 and len(source["inputs_sha256"]["series"]) == 64
            assert source["files"] > source["files_used"] > 60

    def test_windows_of_one_series_are_in_one_part(self, at_field):
        sources = [{**item, "window": {"length": 256, "stride": 128}} for item in settings()["sources"]]
        report = prepare(settings(sources=sources, split={"train": 0.5, "test": 0.5}), workers=2, progress=False)
        points = {part: set() for part in report.outputs}
        for part, file in report.outputs.items():
            for row in lines(file):
                assert len(row["timeseries"][0]) == 256 and row["output"] != "[]"
                values = np.round(row["timeseries"][0], 3)
                points[part] |= {tuple(values[start : start + 4]) for start in range(253)}

        assert not points["train"] & points["test"]
        assert report.rows > report.total().written > 100


class TestInterrupted:
    SCRIPT = """
import sys
from llamafactory_chatts.data.prepare import run as prepare, writers
writers.CHECKPOINT_SECONDS = 0
if __name__ == "__main__":
    commit, count = prepare._Run.commit, 0
    def slow(run, done):
        global count
        commit(run, done)
        count += 1
        print(count, flush=True)
        import time; time.sleep(0.05)
    prepare._Run.commit = slow
    prepare.prepare(sys.argv[1], workers=2, progress=False, output=sys.argv[2])
"""

    @pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
    def test_killed_and_continued(self, at_field, suffix):
        folder, _ = at_field
        whole = prepare(EXAMPLE, workers=2, progress=False, output=f"whole/plants.{suffix}", dataset_info="info")
        command = [sys.executable, "-c", self.SCRIPT, str(EXAMPLE), f"again/plants.{suffix}"]
        for chunks in (4, 5):
            child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
            workers = None
            for _ in range(chunks):
                child.stdout.readline()
                workers = workers or children(child.pid)

            os.kill(child.pid, signal.SIGKILL)
            child.wait()
            assert not list(Path("again").glob(f"*.{suffix}")), "no half output file"
            assert Path("again/plants.part.state").exists()
            assert gone(workers), "the workers of a killed run end, too"

        report = prepare(EXAMPLE, workers=2, progress=False, output=f"again/plants.{suffix}", dataset_info="info")
        assert report.total().resumed >= 6 * 16 and report.total().read == 450
        assert report.total().rejected == whole.total().rejected and report.part_rows == whole.part_rows
        for first, second in zip([*whole.outputs.values(), whole.rejects], [*report.outputs.values(), report.rejects]):
            assert digest(first) == digest(second)

        whole_counts, again = (json.loads(Path(r.provenance).read_text())["sources"] for r in (whole, report))
        assert whole_counts == again
        assert not list(Path("again").glob("*.part*"))

    @pytest.mark.parametrize("error", [KeyboardInterrupt, OSError(28, "No space left on device")])
    def test_ended_in_the_middle_of_a_chunk(self, at_field, monkeypatch, error):
        whole = prepare(EXAMPLE, workers=1, progress=False, output="whole/plants.jsonl")
        append, count = writers.PartFile.append, []

        def fail(part, payload, framed=False):
            count.append(1)
            if len(count) == 40:
                raise error

            append(part, payload, framed)

        with monkeypatch.context() as patch:
            patch.setattr(writers.PartFile, "append", fail)
            patch.setattr(writers, "CHECKPOINT_SECONDS", 0)
            with pytest.raises((KeyboardInterrupt, ChatTSError)):
                prepare(EXAMPLE, workers=1, progress=False, output="again/plants.jsonl")

        again = prepare(EXAMPLE, workers=1, progress=False, output="again/plants.jsonl")
        assert 0 < again.total().resumed < 450
        for first, second in zip([*whole.outputs.values(), whole.rejects], [*again.outputs.values(), again.rejects]):
            assert digest(first) == digest(second)

    def test_a_changed_recipe_or_file_starts_anew(self, at_field, monkeypatch):
        monkeypatch.setattr(writers, "CHECKPOINT_SECONDS", 0)
        interrupt(monkeypatch, 3)
        with pytest.raises(KeyboardInterrupt):
            prepare(EXAMPLE, workers=1, progress=False)

        monkeypatch.undo()
        os.chdir(at_field[0])
        assert prepare(settings(seed=1), workers=1, progress=False).total().resumed == 0


def interrupt(monkeypatch, after):
    from llamafactory_chatts.data.prepare import run as module

    commit, count = module._Run.commit, []

    def stop(run, done):
        commit(run, done)
        count.append(1)
        if len(count) == after:
            raise KeyboardInterrupt

    monkeypatch.setattr(module._Run, "commit", stop)


def children(pid):
    return [int(p) for p in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def gone(pids, seconds=900):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if not any(alive(pid) for pid in pids):
            return True

        time.sleep(0.1)

    return False


def alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def digest(path):
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


@pytest.fixture
def plant(tmp_path, monkeypatch):
    """Return a function that prepares one small source: labels as (name, answer), CSVs as name -> text."""
    monkeypatch.chdir(tmp_path)

    def make(labels, files, asked="<image>哪里异常？", top=None, **source):
        folder = tmp_path / "csv"
        folder.mkdir(exist_ok=True)
        for name, text in files.items():
            text = "value\n" + "".join(f"{x}\n" for x in text) if not isinstance(text, str) else text
            (folder / name).write_text(text, encoding="utf-8")

        turns = lambda a: [{"from": "human", "value": asked}, {"from": "gpt", "value": a}]  # noqa: E731
        rows = [{"image": name, "conversations": turns(answer)} for name, answer in labels]
        (tmp_path / "labels.json").write_text(json.dumps(rows, ensure_ascii=False), encoding="utf-8")
        one = {"labels": "labels.json", "series": "csv", "match": [{"suffix": {".jpg": ".csv"}}], **source}
        config = {"output": "out.jsonl", "answers": "json", "sources": [one], **(top or {})}
        report = prepare(config, workers=1, progress=False)
        rows = lines("out.jsonl") if report.rows else []
        return rows, [(item["reason"], item["detail"]) for item in lines(report.rejects)], report

    return make


class TestSourceOptions:
    def test_slice_gaps_and_window_move_the_answer(self, plant):
        values = [x if x not in (30, 31) else "" for x in range(100)]
        rows, rejects, report = plant(
            [("a.jpg", "{'interval': [40, 44], 'type': 'x'}")],
            {"a.csv": values},
            slice=[10, None],
            gaps="drop",
            window={"length": 20, "stride": 10},
        )
        assert not rejects and report.total().read == 1
        for row in rows:  # the value of a point is its index in the file
            (item,) = json.loads(row["output"])
            start, end = item["interval"]
            marked = row["timeseries"][0][start : end + 1]
            assert marked == [x for x in row["timeseries"][0] if 40 <= x <= 44]

        assert len(rows) == 3 and len(json.loads(rows[0]["output"])) == 1  # the first window ends within it

    def test_windows_without_an_anomaly(self, plant):
        label, files = [("a.jpg", "[{'interval': [5, 6], 'type': 'x'}]")], {"a.csv": range(100)}
        assert len(plant(label, files, window={"length": 20})[0]) == 1
        rows = plant(label, files, window={"length": 20, "keep_empty": True})[0]
        assert [row["output"] for row in rows[1:]] == ["[]"] * 4

    def test_a_normal_series_has_no_window_with_an_anomaly(self, plant):
        _, rejects, _ = plant([("a.jpg", "[]")], {"a.csv": range(100)}, window={"length": 20})
        assert rejects == [
            ("no window", "the series is labelled as normal. Set window.keep_empty: true to keep such windows.")
        ]

    @pytest.mark.parametrize(("method", "found"), [("mean", [4, 4]), ("lttb", None)])
    def test_resample(self, plant, method, found):
        values = np.zeros(1000)
        values[450:455] = 9
        rows, rejects, report = plant(
            [("a.jpg", "[{'interval': [450, 454], 'type': 'x'}]")],
            {"a.csv": values},
            resample={"points": 10, "method": method},
        )
        assert not rejects and len(rows[0]["timeseries"][0]) == 10
        start, end = json.loads(rows[0]["output"])[0]["interval"]
        assert found in (None, [start, end]) and rows[0]["timeseries"][0][start] > 0
        assert report.total().tally["resampled"] == 1

    def test_a_label_that_resampling_would_lose_is_rejected(self, plant):
        values = np.sin(np.arange(1000) / 3)
        _, rejects, _ = plant(
            [("a.jpg", "[{'interval': [455, 455], 'type': 'x'}]")],
            {"a.csv": values},
            resample={"points": 10, "method": "lttb"},
        )
        assert rejects[0][0] == "label lost" and "[455, 455]" in rejects[0][1]

    def test_a_label_in_dropped_gaps_is_rejected(self, plant):
        values = [x if x not in (30, 31) else "" for x in range(100)]
        _, rejects, _ = plant([("a.jpg", "[{'interval': [30, 31], 'type': 'x'}]")], {"a.csv": values}, gaps="drop")
        assert rejects[0][0] == "label lost"

    def test_several_columns_are_several_series(self, plant):
        text = "t1,t2\n" + "".join(f"{x},{x + 1}\n" for x in range(70))
        rows, rejects, _ = plant([("a.jpg", "[]")], {"a.csv": text})
        assert not rejects and rows[0]["input"] == "t1: <ts><ts/>, t2: <ts><ts/>哪里异常？"
        rows, _, _ = plant([("a.jpg", "[]")], {"a.csv": text}, columns=["t2"])
        assert rows[0]["input"] == "<ts><ts/>哪里异常？" and rows[0]["timeseries"][0][0] == 1

    def test_prompt(self, plant):
        rows, rejects, _ = plant([("a.jpg", "[]")], {"a.csv": range(9)}, "没有图")
        assert not rows and rejects[0][0] == "placeholders" and "0 <ts><ts/> but 1 series" in rejects[0][1]
        rows, _, _ = plant([("a.jpg", "[]")], {"a.csv": range(9)}, "没有图", prompt="看图：<ts><ts/>")
        assert rows[0]["input"] == "看图：<ts><ts/>"

    def test_keep_leaves_prose_alone_until_it_would_have_to_move(self, plant):
        label, files = [("a.jpg", "在741处")], {"a.csv": range(100)}
        assert plant(label, files, answers="keep")[0][0]["output"] == "在741处"
        assert plant(label, files, answers="keep", window={"length": 10})[1][0][0] == "answer"

    @pytest.mark.parametrize(
        ("answer", "reason"),
        [
            ("[{'interval': [9, 3], 'type': 'x'}]", "interval"),
            ("[{'interval': [9, 30], 'type': 'x'}]", "interval"),
            ("很正常", "answer"),
            ("", "no text"),
        ],
    )
    def test_rejected_answers(self, plant, answer, reason):
        rows, rejects, report = plant([("a.jpg", answer), ("a.jpg", "[]")], {"a.csv": range(20)})
        assert len(rows) == 1 and rejects[0][0] == reason
        assert report.total().reasons == {reason: 1}

    @pytest.mark.parametrize(("mode", "left"), [("off", 3), ("exact", 2), ("near", 1)])
    def test_deduplicate(self, plant, mode, left):
        values = np.random.default_rng(0).normal(5, 2, 300)
        files = {"a.csv": values, "b.csv": values.round(4), "c.csv": values}
        labels = [("a.jpg", "[]"), ("b.jpg", "[]"), ("c.jpg", "[]")]
        rows, rejects, report = plant(labels, files, top={"deduplicate": mode})
        assert len(rows) == left and [reason for reason, _ in rejects] == ["duplicate"] * (3 - left)

    def test_a_mistake_of_ours_loses_no_row_in_silence(self, plant, monkeypatch):
        from llamafactory_chatts.data.prepare import worker as prepare_worker

        def broken(*args):
            raise RuntimeError("oh")

        monkeypatch.setattr(prepare_worker, "texts_of", broken)
        _, rejects, _ = plant([("a.jpg", "[]")], {"a.csv": range(20)})
        assert rejects == [("unexpected error", "RuntimeError: oh")]


class TestOtherInputs:
    def test_formats_side_by_side(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        chatts = {"input": "<ts><ts/>?", "output": "rises", "timeseries": [[1.0, 2.0, 3.0]]}
        gap = {"input": "<ts><ts/>?", "output": "gap", "timeseries": [[1.0, None, 3.0]]}
        alpaca = {"instruction": "hello", "input": "", "output": "hi"}
        talk = [("human", "a"), ("gpt", "b"), ("human", "c"), ("gpt", "d")]
        sharegpt = {"conversations": [{"from": who, "value": text} for who, text in talk]}
        for name, rows in {"c": [chatts, gap], "a": [alpaca], "s": [sharegpt]}.items():
            Path(f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

        config = {"output": "out.jsonl", "dataset_info": ".", "sources": [{"labels": f"{n}.jsonl"} for n in "cas"]}
        report = prepare(config, workers=1, progress=False)
        rows = lines("out.jsonl")
        assert [len(row["messages"]) for row in rows] == [2, 2, 4] and [len(r["timeseries"]) for r in rows] == [
            1,
            0,
            0,
        ]
        assert [item["reason"] for item in lines(report.rejects)] == ["gaps"]
        entry = json.loads(Path("dataset_info.json").read_text())["out"]
        assert entry["formatting"] == "sharegpt" and entry["file_name"] == "out.jsonl"

        config["rows"] = "single"
        report = prepare(config, workers=1, progress=False)
        assert report.rows == 2 and [i["reason"] for i in lines(report.rejects)] == ["gaps", "several turns"]


class TestTraining:
    @pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
    @pytest.mark.parametrize("rows", ["single", "messages"])
    def test_llama_factory_reads_it(self, at_field, recipe, suffix, rows):
        folder, _ = at_field
        sources = [{**item, "resample": {"points": 1024, "method": "mean"}} for item in settings()["sources"]]
        config = settings(rows=rows, output=f"d/p.{suffix}", dataset_info="d", sources=sources)
        report = prepare(config, workers=2, progress=False)
        run = load_data(recipe(dataset="plants_validation", dataset_dir=str(folder / "d"), cutoff_len=2048))
        assert len(run.train) == report.part_rows["validation"] > 10
        assert all(row["audios"] for row in run.train)


class TestRecipes:
    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"output": "x.csv"}, "output: 'x.csv' is no name of a dataset file. End it with .jsonl or .parquet"),
            ({"outptu": "x"}, "unknown key 'outptu'"),
            ({"split": {"train": 0.5, "test": 0.1}}, "split: the shares add up to 0.6"),
            ({"split": {"train": 0.5, "dev": 0.5}}, "unknown key 'dev'"),
            ({"answers": "yes"}, "'yes' is not known. Use one of: json, keep"),
            ({"seed": -1}, "seed: "),
            ({"sources": []}, "sources: "),
            ({"sources": [{}]}, r"sources\[0\]: labels is missing"),
            ({"sources": [{"labels": "a"}, {"labels": "a"}]}, "two sources are called 'a'"),
            (
                {"sources": [{"labels": "a.json", "match": ["exakt"]}]},
                r"sources\[0\].match\[0\]: 'exakt' is no matching",
            ),
            ({"sources": [{"labels": "a.json", "gaps": "fill"}]}, r"sources\[0\].gaps: 'fill' is not known"),
            ({"sources": [{"labels": "a.json", "window": {"stride": 2}}]}, "length is missing"),
            ({"sources": [{"labels": "o.jsonl"}]}, "is also the output"),
            ({"sources": [{"labels": "none.json"}]}, "none.json"),
            ({"sources": [{"labels": "labels.json", "series": "none"}]}, "the folder of series does not exist"),
            ({"sources": [{"labels": "labels.json", "answer_schema": "none"}]}, "not a JSON schema"),
        ],
    )
    def test_mistakes(self, tmp_path, monkeypatch, change, message):
        monkeypatch.chdir(tmp_path)
        Path("labels.json").write_text("[]")
        with pytest.raises(ChatTSError, match=message):
            prepare({"output": "o.jsonl", "sources": [{"labels": "labels.json"}], **change}, progress=False)

        assert sorted(path.name for path in tmp_path.iterdir()) == ["labels.json"], "nothing was written"

    def test_all_mistakes_at_once(self):
        with pytest.raises(ChatTSError, match="(?s)3 mistakes.*output.*seed.*sources"):
            prepare({"output": "x", "seed": "a", "sources": 3})
