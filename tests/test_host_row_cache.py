"""Series straight from Arrow to the encoding, and caches of rows that are used again exactly when they may."""

import ast
import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest
import torch
from datasets import Dataset
from datasets.fingerprint import Hasher
from host_steps import collate, load_data, series_of

from llamafactory_chatts.core.series import as_series, encode, encode_batch, stack
from llamafactory_chatts.host.rows import fingerprint
from llamafactory_chatts.host.rows.converter import ChatTSDatasetConverter
from llamafactory_chatts.host.rows.lane import pack, read_arrow, unpack


CELLS = [[[1.5, -2.25, 3.0], [0.1]], [[7.0, 1e-8]]]
FLAT = [[1.5, -2.25, 3.0], [7.0]]
WHOLE = [[[1, 2, 3], [4]], [[5, -6]]]
F8, F4, I4, I8 = pa.float64(), pa.float32(), pa.int32(), pa.int64()


def mapped(column: pa.Array, look) -> list:
    """Return what ``look`` makes of each row as ``datasets`` hands it to a mapped function."""
    seen = []
    Dataset(pa.table({"timeseries": column, "input": ["x"] * len(column)})).map(
        lambda row: seen.append(look(row)) or {"done": True}, load_from_cache_file=False
    )
    return seen


class TestSeriesFromArrow:
    @pytest.mark.parametrize(
        "cells, kind",
        [
            (CELLS, pa.list_(pa.list_(F8))),
            (CELLS, pa.list_(pa.list_(F4))),
            (CELLS, pa.large_list(pa.large_list(F8))),
            ([[[1.0, 2.0], [3.0, 4.0]], [[5.0, 6.0]]], pa.list_(pa.list_(F8, 2))),
            (WHOLE, pa.list_(pa.list_(I8))),
            (WHOLE, pa.list_(pa.list_(I4))),
            (FLAT, pa.list_(F8)),
            ([[], [[1.0]]], pa.list_(pa.list_(F8))),
        ],
        ids=str,
    )
    def test_equals_the_way_through_python_bit_by_bit(self, cells, kind):
        def look(row):
            fast = read_arrow(row, "timeseries")
            assert "timeseries" in row.keys_to_format, "the cell became Python objects"
            return pack([as_series(item) for item in fast]), row["timeseries"]

        for fast, cell in mapped(pa.array(cells, kind), look):
            listed = [cell] if cell and not isinstance(cell[0], list) else cell
            assert fast == pack([as_series(item) for item in listed])

    @pytest.mark.parametrize(
        "cells, kind",
        [
            ([[[1.0, None]]], pa.list_(pa.list_(F8))),
            ([[[1.0], None]], pa.list_(pa.list_(F8))),
            ([None], pa.list_(pa.list_(F8))),
            ([["a.csv"]], pa.list_(pa.string())),
            (["a.csv"], pa.string()),
            ([[[True, False]]], pa.list_(pa.list_(pa.bool_()))),
            ([[[2**63 + 1]]], pa.list_(pa.list_(pa.uint64()))),
            ([[[[1.0]]]], pa.list_(pa.list_(pa.list_(F8)))),
        ],
        ids=str,
    )
    def test_leaves_other_cells_to_the_way_that_names_what_is_wrong(self, cells, kind):
        assert mapped(pa.array(cells, kind), lambda row: read_arrow(row, "timeseries")) == [None]

    def test_leaves_rows_outside_arrow_alone(self):
        assert read_arrow({"timeseries": [[1.0]]}, "timeseries") is None

    def test_a_slice_of_a_table_gives_its_own_rows(self):
        column = pa.array([[[float(k), k + 0.5]] for k in range(5)], pa.list_(pa.list_(F8))).slice(3)
        assert [item[0].tolist() for item in mapped(column, lambda row: read_arrow(row, "timeseries"))] == [
            [3.0, 3.5],
            [4.0, 4.5],
        ]

    @pytest.mark.parametrize("answers", [0, 1])
    def test_the_converter_makes_no_lists_of_them(self, answers):
        attr = SimpleNamespace(
            formatting="chatts", prompt="input", query=None, response="output", history=None, system=None, tools=None
        )
        for name in ("images", "videos", "audios", "kto_tag"):
            setattr(attr, name, None)
        attr.ranking, attr.timeseries = False, "timeseries"
        converter = ChatTSDatasetConverter(attr, SimpleNamespace(media_dir=".", cutoff_len=9), "", answers)
        lazy = []

        def convert(row):
            made = converter(row)
            lazy.append("timeseries" in row.keys_to_format)
            return {"made": unpack(made["_audios"])[0].tolist()}

        rows = {"input": ["<ts><ts/>"], "output": ["a"], "timeseries": [[[1.0, 2.0]]]}
        done = Dataset.from_dict(rows).map(convert, load_from_cache_file=False)
        assert lazy == [True] and done[0]["made"] == [1.0, 2.0]


def test_a_batch_is_encoded_as_its_series_are_one_by_one():
    rng = np.random.default_rng(0)
    series = [rng.normal(0, 10.0**k, n) for k in range(-9, 12, 3) for n in (1, 2, 7, 8, 129, 5000)]
    series += [np.full(9, 1e300), np.array([3.0, -3.0]), np.array([0.0, 2.9999])]
    batch = encode_batch(series)
    assert batch.tobytes() == stack([encode(item) for item in series]).tobytes()
    for row, x in zip(batch, series):
        centred = x - np.mean(x)
        largest = np.max(np.abs(centred))
        expected = (centred / (largest / 3.0 if largest >= 3.0 else 1.0)).astype(np.float16)
        assert row[: 2 * len(x) : 2, 0].tobytes() == expected.tobytes()
        assert row[1 : 2 * len(x) : 2].min() == 1 and not row[2 * len(x) :].any()


class TestReuse:
    def key(self, recipe, **changes):
        """Return the fingerprint of the function that tokenises, as ``datasets`` takes it."""
        from llamafactory.data.loader import _get_dataset_processor

        run = load_data(recipe(**changes))
        made = _get_dataset_processor(run.data_args, "sft", run.template, run.tokenizer, run.processor)
        return Hasher.hash(made.preprocess_dataset), made

    def test_what_changes_a_row_changes_the_key(self, write_dataset, recipe, rows, monkeypatch):
        write_dataset(rows(2))
        key, made = self.key(recipe)
        assert self.key(recipe)[0] == key
        assert self.key(recipe, cutoff_len=1000)[0] != key
        assert self.key(recipe, train_on_prompt=True)[0] != key
        for thing, name, value in ((made.processor, "patch_size", 16), (made.template, "default_system", "Speak.")):
            with monkeypatch.context() as patched:
                patched.setattr(thing, name, value)
                assert Hasher.hash(made.preprocess_dataset) != key, name

    def test_settings_that_change_no_row_leave_it(self, write_dataset, recipe, rows, tmp_path):
        write_dataset(rows(4))
        other = {"tokens_per_batch": 4096, "val_size": 0.5, "overwrite_cache": True, "drop_overlong": True}
        assert self.key(recipe)[0] == self.key(recipe, tokenized_path=str(tmp_path / "t"), max_samples=4, **other)[0]

    def test_a_new_version_or_an_edited_file_is_another_key(self, monkeypatch, tmp_path):
        fingerprint.code_state.cache_clear()
        before = fingerprint.code_state()
        monkeypatch.setattr(fingerprint, "__version__", "99")
        fingerprint.code_state.cache_clear()
        assert fingerprint.code_state() != before
        monkeypatch.undo()
        for name in fingerprint.CODE:
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_bytes((fingerprint.ROOM / name).read_bytes())

        with monkeypatch.context() as patched:
            patched.setattr(fingerprint, "ROOM", tmp_path)
            fingerprint.code_state.cache_clear()
            assert fingerprint.code_state() == before
            with (tmp_path / "core/series.py").open("a") as file:
                file.write("# edited\n")

            fingerprint.code_state.cache_clear()
            assert fingerprint.code_state() != before

        fingerprint.code_state.cache_clear()

    def test_the_code_is_in_the_key_of_both_steps(self, write_dataset, recipe, rows, monkeypatch):
        write_dataset(rows(2))
        key, made = self.key(recipe)
        converter = ChatTSDatasetConverter(
            SimpleNamespace(formatting="chatts"), SimpleNamespace(media_dir=".", cutoff_len=9)
        )
        both = [Hasher.hash(converter), Hasher.hash(made.preprocess_dataset)]
        for thing in (converter, made):
            monkeypatch.setattr(thing, "code", "another")

        assert Hasher.hash(converter) != both[0] and Hasher.hash(made.preprocess_dataset) != both[1]

    def test_all_code_that_rows_go_through_is_listed(self):
        """Follows the imports inside the package from the functions that are mapped."""
        todo, found = ["host/rows/converter.py", "host/rows/encoding.py", "host/start/template.py"], set()
        while todo:
            name = todo.pop()
            if name in found:
                continue

            found.add(name)
            folder = Path(name).parent
            for node in ast.walk(ast.parse((fingerprint.ROOM / name).read_text(encoding="utf-8"))):
                if isinstance(node, ast.ImportFrom) and node.level and node.module:
                    start = [folder, *folder.parents][node.level - 1]
                    todo.append((start / (node.module.replace(".", "/") + ".py")).as_posix())

        no_part = {"core/errors.py", "host/compat.py", "host/rows/fingerprint.py", "model/configuration_chatts.py"}
        assert found - no_part == set(fingerprint.CODE)

    def test_tokenized_path_gives_the_same_batches(self, write_dataset, recipe, rows, tmp_path):
        write_dataset([*rows(3), {"input": "Say yes.", "output": "yes", "timeseries": []}])
        saved = {"tokenized_path": str(tmp_path / "tokenized")}
        fresh, saving = load_data(recipe()), load_data(recipe(**saved))
        (tmp_path / "data.jsonl").unlink()  # the second run has nothing but the folder
        again = load_data(recipe(**saved))
        assert fresh.train.column_names == again.train.column_names
        for run in (saving, again):
            assert [series_of(row) for row in run.train] == [series_of(row) for row in fresh.train]
            ours, theirs = collate(run, run.train), collate(fresh, fresh.train)
            assert ours.keys() == theirs.keys() and "timeseries" in ours
            tensors = [name for name in ours if torch.is_tensor(ours[name])]
            assert len(tensors) >= 4 and all(torch.equal(ours[name], theirs[name]) for name in tensors)

    @pytest.mark.slow
    def test_another_process_tokenises_nothing(self, write_dataset, recipe, rows, tmp_path):
        write_dataset(rows(6))
        script = tmp_path / "load.py"
        script.write_text(
            "import json, os, sys\n"
            "from host_steps import load_data\n"
            "found = []\n"
            "for recipe in json.loads(sys.argv[1]):\n"
            "    files = sorted(f['filename'] for f in load_data(recipe).train.cache_files)\n"
            "    found.append([[f, os.stat(f).st_mtime_ns, os.stat(f).st_ino] for f in files])\n"
            "print(json.dumps(found))\n"
        )

        def files(*changes):
            """Return the files of each recipe, all loaded by one process."""
            path = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
            known = {**os.environ, "HF_DATASETS_CACHE": str(tmp_path / "cache"), "PYTHONPATH": path}
            known.pop("PYTHONHASHSEED", None)  # another order of sets in each process
            recipes = [recipe(preprocessing_num_workers=2, **each) for each in changes]
            command = [sys.executable, str(script), json.dumps(recipes)]
            done = subprocess.run(command, capture_output=True, text=True, env=known, timeout=900)
            assert done.returncode == 0, done.stderr[-2000:]
            return json.loads(done.stdout.splitlines()[-1])

        (first,) = files({})
        assert len(first) == 2
        again, budget, cut = files({}, {"tokens_per_batch": 4096}, {"cutoff_len": 1000})
        assert again == first and budget == first and cut != first
