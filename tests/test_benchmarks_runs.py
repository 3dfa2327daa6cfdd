"""The benchmarks of throughput and launchers: how they run their processes, and what they write on a failure."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import warm
from shell_runs import free_port


BENCHMARKS = Path(__file__).resolve().parent.parent / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))

import train_throughput  # noqa: E402
from throughput import base, jobs, tables, training  # noqa: E402


DEVICE = {
    "cuda": False, "device": "CPU", "cores": 2, "memory_gib": None, "driver": None, "versions": {"torch": "2.11"},
    "matmul": "float32", "matmul_tflops": 0.1,
}  # fmt: skip
ROW = {
    "setting": "lora 1x16", "samples_per_second": 4.0, "tokens_per_second": 1460.0, "mfu": 0.07, "note": None,
    "peak_allocated_gib": 15.74, "peak_reserved_gib": 15.9, "loading_allocated_gib": 15.3,
    "loading_reserved_gib": 15.5, "loading_host_rss_gib": 3.2, "peak_host_rss_gib": 4.1, "first_loss": 12.58,
    "last_loss": 11.83, "gpu_utilisation": {"mean_percent": 61.0, "share_below_50": 0.25, "samples": 8},
    "shares": {"data": 0.1, "forward": 0.3, "backward": 0.5, "optimizer": 0.05, "rest": 0.05},
}  # fmt: skip


class TestJobs:
    def test_a_failed_process_leaves_its_stderr(self, tmp_path):
        found = jobs.run_job(tmp_path, "lora/1 x", {"kind": "sweep", "colour": "blue"})
        assert "TypeError" in found["error"] and "colour" in found["error"]
        assert (tmp_path / "jobs" / "lora_1_x.stderr").is_file()


def settings_with(monkeypatch, tmp_path, run_job, *argv):
    """Run the program with ``run_job`` in the place of processes; return its exit status and its JSON."""
    monkeypatch.setattr(jobs, "run_job", run_job)
    monkeypatch.setattr(base, "is_complete", lambda folder: True)
    where = ["--work", str(tmp_path / "work"), "--out", str(tmp_path / "out"), "--rows", "2", *argv]
    monkeypatch.setattr(sys, "argv", ["train_throughput.py", *where])
    status = train_throughput.main()
    (path,) = (tmp_path / "out").glob("*.json")
    return status, json.loads(path.read_text()), path.with_suffix(".md").read_text()


class TestProgram:
    def test_goes_on_after_a_failure(self, monkeypatch, tmp_path):
        kept = []

        def run_job(work, name, job, on_progress=None):
            if job["kind"] == "device":
                return dict(DEVICE)

            kept.append(len(list((tmp_path / "out").glob("*.json"))))
            return {"error": "Trace\nboom | at once"} if name == "lora 8x2" else dict(ROW)

        only = ("--only", "lora 1x16", "lora 8x2", "lora 16x1", "qlora 8.6gib", "--set", "seed=7")
        status, written, table = settings_with(monkeypatch, tmp_path, run_job, *only)
        assert status == 1 and kept == [0, 1, 1]  # there after the first setting, not only at the end
        assert [("error" in row, "skipped" in row) for row in written["results"]] == [
            (False, False), (True, False), (False, False), (False, True),
        ]  # fmt: skip
        assert all(row["changes"]["seed"] == 7 for row in written["results"])
        assert written["command"].startswith("python benchmarks/train_throughput.py --work")
        assert "failed: boom \\| at once" in table and "skipped: use_unsloth_gc needs CUDA" in table
        assert "| lora 1x16 | 4.00 | 1460 | 7.0 % | 15.7 (15.9) | 15.3 (15.5) | 3.2, 4.1 | 12.580, 11.830 |" in table
        assert "| 10.0 % | 30.0 % | 50.0 % | 5.0 % | 5.0 % | 61 % | 25 % |" in table

    def test_sweep_that_runs_out_of_memory(self, monkeypatch, tmp_path):
        block = {"points": 256, "series": 1, "tokens_per_sample": 268.0, "samples_per_second": 9.0, "mfu": 0.1}
        block |= {"tokens_per_second": 2412.0, "peak_allocated_gib": 17.0, "peak_reserved_gib": 17.2}
        block |= {"peak_host_rss_gib": 3.0}

        def run_job(work, name, job, on_progress=None):
            if job["kind"] == "device":
                return dict(DEVICE)

            assert job["recipe"]["cutoff_len"] > 4096 + 300 and "tokens_per_batch" not in job["recipe"]
            assert job["recipe"]["per_device_train_batch_size"] * job["recipe"]["gradient_accumulation_steps"] == 2
            on_progress({"blocks": [block], "ended": None})
            bigger = {**block, "points": 512}
            return {"blocks": [block, bigger], "ended": "out of memory at 1 x 1024 points"}

        argv = ("--sweep", "lengths", "--only", "lora 24gib")
        status, written, table = settings_with(monkeypatch, tmp_path, run_job, *argv)
        assert status == 0 and len(written["blocks"]) == 2 and "Ended early: out of memory at 1 x 1024" in table
        assert (tmp_path / "out" / "tiny_sweep_lengths.png").read_bytes()[1:4] == b"PNG"

    @pytest.mark.parametrize(
        "argv, message",
        [
            (["--steps", "3", "--skip", "3"], "fewer than --steps"),
            (["--points", "10"], "at least 64"),
            (["--only", "nothing"], "not in the table"),
            (["--sweep", "series", "--set", "tokens_per_batch=9"], "--set tokens_per_batch"),
            (["--sweep", "series", "--only", "lora 1x16", "lora 8x2"], "one setting"),
            (["--recipe", "missing.yaml"], "missing.yaml"),
        ],
    )
    def test_refuses(self, argv, message, capsys):
        with pytest.raises(SystemExit):
            train_throughput.parse(argv)

        assert message in capsys.readouterr().err

    def test_starts_without_torch(self):
        done = subprocess.run(
            [sys.executable, "-X", "importtime", str(BENCHMARKS / "train_throughput.py"), "--shape", "14b", "--list"],
            capture_output=True, text=True, timeout=900,
        )  # fmt: skip
        assert done.returncode == 0 and "qlora 8.6gib" in done.stdout and "| torch\n" not in done.stderr


class TestSweep:
    def run(self, monkeypatch, tmp_path, patches, fail_at):
        def train(recipe, clock):
            clock.marks = [float(step) for step in range(30)]
            for step in range(1, recipe["max_steps"] + 1):
                if step == fail_at:
                    raise RuntimeError("see the settings that would help") from torch.OutOfMemoryError("CUDA full")

                points, series = training.SWEEPS["series"][(step - 1) // 3]
                row = (300, patches or series * points // 8)
                clock.work = lambda first, last, row=row: {
                    "rows": [row] * 2 * (last - first), "samples": 4, "tokens": 1200, "flops": 1e9,
                }  # fmt: skip
                clock.on_step(step, clock)

        monkeypatch.setattr(training, "train", train)
        result = tmp_path / "r.json"
        return training.sweep({}, "series", 0.1, result), result

    def test_ends_with_what_was_measured(self, monkeypatch, tmp_path):
        found, result = self.run(monkeypatch, tmp_path, None, fail_at=8)
        assert [block["series"] for block in found["blocks"]] == [1, 2]
        assert found["ended"].startswith("out of memory at 5 x 1024 points")
        assert found["blocks"][0]["samples_per_second"] == 2.0  # 4 samples in the 2 timed steps
        assert len(json.loads(result.read_text())["blocks"]) == 2

    def test_refuses_rows_of_another_block(self, monkeypatch, tmp_path):
        with pytest.raises(ValueError, match="not the rows of this block"):
            self.run(monkeypatch, tmp_path, 128 + 1, fail_at=None)

    def test_only_out_of_memory_is_an_end(self):
        assert training.is_out_of_memory(torch.OutOfMemoryError("x"))
        assert not training.is_out_of_memory(ValueError("x"))


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    """The working folder of both benchmarks: the base in it is made by the first."""
    return tmp_path_factory.mktemp("bench")


@pytest.mark.slow
class TestRealRun:
    def test_two_settings_train_alike(self, work, tmp_path):
        command = [sys.executable, str(BENCHMARKS / "train_throughput.py"), "--shape", "tiny", "--rows", "48"]
        command += ["--steps", "3", "--skip", "1", "--split", "1", "--only", "lora 1x16", "lora 24gib"]
        command += ["--work", str(work), "--out", str(tmp_path / "out")]
        done = warm.run(command, {**os.environ, "CUDA_VISIBLE_DEVICES": ""})
        assert done.returncode == 0, done.stdout + done.stderr
        written = json.loads((tmp_path / "out" / "tiny_1x1024.json").read_text())
        one, ours = written["results"]
        assert (work / "base_tiny" / "model.safetensors").is_file()
        for row in (one, ours):
            assert row["samples_per_step"] == 16 and row["steps_timed"] == 2
            assert row["tokens_per_second"] > row["samples_per_second"] > 0 and 0 < row["mfu"] < 1
            assert sum(row["shares"].values()) == pytest.approx(1) and row["shares"]["backward"] > 0.1
            assert 0.2 < row["loading_host_rss_gib"] <= row["peak_host_rss_gib"]
            assert row["tokens_per_sample"] == pytest.approx(365, abs=8)

        assert ours["flops_per_sample"] == one["flops_per_sample"]  # the same rows, however they are passed
        for key in ("first_loss", "last_loss"):
            assert ours[key] == pytest.approx(one[key], abs=1e-4)

        assert tables.settings_table([one, ours]) in (tmp_path / "out" / "tiny_1x1024.md").read_text()

    def test_a_launcher_on_two_processes(self, work, tmp_path):
        """Fresh processes: they are known by their environment, and leave their peaks when they end."""
        command = [sys.executable, str(BENCHMARKS / "launchers.py"), "--shape", "tiny", "--device", "cpu"]
        command += ["--steps", "2", "--only", "ddp", "--label", "test"]
        where = ["--work", str(work), "--out", str(tmp_path / "out")]
        env = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
        env |= {"MASTER_PORT": free_port(), "CUDA_VISIBLE_DEVICES": ""}
        done = subprocess.run([*command, *where], capture_output=True, text=True, timeout=900, env=env)
        assert done.returncode == 0, done.stdout + done.stderr
        written = json.loads((tmp_path / "out" / "launchers_tiny_test.json").read_text())
        (row,) = written["results"]
        assert row["case"] == "ddp_test" and "error" not in row and written["device"] == "CPU"
        assert [(rank["rank"], rank["gpu_reserved"]) for rank in row["ranks"]] == [(0, None), (1, None)]
        assert len(row["losses"]) == 2 and all(7 < loss < 10 for loss in row["losses"])  # ln 4096 = 8.3
        assert row["samples_per_second"] > 0 and row["host_gib"] > 0.3 and row["card_gib"] == {}
        assert "step 2/2" in (work / "tiny" / "ddp_test.log").read_text()
