"""How a log is read: pieces, prefixes, tracebacks, exit codes, size."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from llamafactory_chatts.core.errors import ChatTSError
from llamafactory_chatts.core.installs import STACK, install
from llamafactory_chatts.diagnose.log import reading as log_reading
from llamafactory_chatts.diagnose.log.diagnose import diagnose_log
from llamafactory_chatts.diagnose.log.lines import LONGEST, read_lines
from llamafactory_chatts.diagnose.log.saying import SAYING
from llamafactory_chatts.diagnose.log.signals import signal_of
from llamafactory_chatts.diagnose.log.table import ALL, Row, fill


ERROR = 'Traceback (most recent call last):\n  File "train.py", line 3, in <module>\n{}\n'
TRAINING = "***** Running training *****\n"


@pytest.fixture
def diagnose(tmp_path):
    def run(text: str | bytes, exit_code: int | None = None):
        path = tmp_path / "run.log"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return diagnose_log(path, exit_code)

    return run


@pytest.fixture
def lines(tmp_path):
    def run(text: bytes):
        path = tmp_path / "run.log"
        path.write_bytes(text)
        return [(line.number, line.rank, line.text) for line in read_lines(path)]

    return run


class TestLines:
    def test_states_of_a_progress_bar_are_left_out_and_numbers_are_those_of_an_editor(self, lines):
        bar = b"\r  3%|\xe2\x96\x8e   | 12/400 [00:40<21:40,  3.35s/it]"
        assert lines(b"one" + bar * 3 + b"\ntwo\n") == [(1, None, "one"), (2, None, "two")]

    def test_what_follows_a_bar_on_its_line_is_kept(self, lines):
        text = b"  3%|x  | 12/400 [00:40<21:40,  3.35s/it][rank1]: Traceback (most recent call last):"
        assert lines(text) == [(1, 1, "Traceback (most recent call last):")]

    @pytest.mark.parametrize(
        "stamp",
        [
            "2026-11-21 08:51:02 ",
            "[2026-11-21 08:51:02] ",
            "2026-11-21T08:51:02.123+01:00 ",
            "[2026-11-21 08:51:02,330] ",
        ],
    )
    def test_times_in_front_are_taken_off(self, lines, stamp):
        assert lines(f"{stamp}[rank3]: ValueError: x".encode()) == [(1, 3, "ValueError: x")]

    def test_colours_and_bytes_that_are_no_text(self, lines):
        assert lines(b"\x1b[31mred\x1b[0m \xff\xfe") == [(1, None, "red \ufffd\ufffd")]

    def test_a_line_without_an_end_comes_in_parts(self, lines, monkeypatch):
        found = lines(b"x" * (3 * LONGEST + 5) + b"\nend")
        assert {len(text) for _, _, text in found} <= {LONGEST, 5, 3} and found[-1] == (2, None, "end")
        assert sum(len(text) for _, _, text in found) == 3 * LONGEST + 8

    @pytest.mark.parametrize("chunk", [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14])
    def test_where_the_file_is_cut_while_reading_changes_nothing(self, lines, chunk):
        long = b"x" * (8192 - chunk)  # Python reads 8 KiB at a time
        text = [
            (1, None, "a"),
            (1, None, "b"),
            (1, None, "c"),
            (2, None, ""),
            (3, None, "d \u258e e"),
            (4, None, "last"),
        ]
        assert lines(long + b"\na\rb\rc\n\nd \xe2\x96\x8e e\r\nlast")[1:] == [(n + 1, *more) for n, *more in text]


class TestCodes:
    @pytest.mark.parametrize(
        ("code", "number"),
        [
            (0, 0),
            (1, 0),
            (2, 0),
            (-9, 9),
            (137, 9),
            (247, 9),
            (-15, 15),
            (143, 15),
            (241, 15),
            (129, 1),
            (139, 11),
            (255, 0),
            (None, 0),
        ],
    )
    def test_signal_of_an_exit_code(self, code, number):
        assert signal_of(code) == number

    @pytest.mark.parametrize("code", [-9, 137, 247])
    def test_sigkill_without_evidence_does_not_blame_memory(self, diagnose, code):
        (found,) = diagnose(TRAINING, code)
        assert "SIGKILL during training" in found.cause and "does not show who" in found.cause
        assert "memory" not in found.cause and found.certainty == "likely" and "dmesg" in found.fix

    @pytest.mark.parametrize(
        "evidence",
        [
            "[ 9041.2] Out of memory: Killed process 4711 (python) total-vm:87033376kB, anon-rss:60356340kB",
            "[ 9041.2] Memory cgroup out of memory: Killed process 4711 (python)",
            "slurmstepd: error: Detected 1 oom_kill event in StepId=188231.batch.",
            "low 0\nhigh 0\nmax 812\noom 3\noom_kill 1",
        ],
    )
    def test_sigkill_with_evidence_does(self, diagnose, evidence):
        (found,) = diagnose(TRAINING + evidence + "\n", 137)
        assert "out-of-memory killer" in found.cause and found.certainty == "certain"
        assert evidence.splitlines()[-1][:40] in found.evidence

    def test_the_kernels_words_count_without_an_exit_code(self, diagnose):
        (found,) = diagnose(TRAINING + "[ 9041.2] Out of memory: Killed process 4711 (python) total-vm:87033376kB\n")
        assert "out-of-memory killer during training" in found.cause and "line 2:" in found.evidence

    def test_counters_of_zero_are_no_evidence(self, diagnose):
        (found,) = diagnose(TRAINING + "oom 0\noom_kill 0\n", 137)
        assert "memory" not in found.cause

    def test_hangup_and_a_scheduler_are_told_apart(self, diagnose):
        assert "SIGHUP during training: the terminal" in diagnose(TRAINING, 129)[0].cause
        assert "SIGTERM during training: something outside" in diagnose(TRAINING, 143)[0].cause

    def test_the_code_given_wins_over_the_one_in_the_log(self, diagnose):
        assert diagnose(TRAINING + "exit code 137\n", 0) == []
        assert "SIGKILL" in diagnose(TRAINING + "exit code 0\n", 137)[0].cause

    def test_a_crash_while_python_shuts_down_after_everything_was_saved(self, diagnose):
        (found,) = diagnose(
            TRAINING + "***** train metrics *****\nterminate called without an active exception\n", 134
        )
        assert "was saved before" in found.cause and found.certainty == "likely"

    def test_bash_reports_a_killed_child(self, diagnose):
        (found,) = diagnose(
            TRAINING + "run.sh: line 12:  8156 Killed                  llamafactory-cli train x.yaml\n", 1
        )
        assert "SIGKILL" in found.cause and "line 2:" in found.evidence


class TestTracebacks:
    def test_the_cause_in_a_chain_is_found_behind_a_general_last_exception(self, diagnose):
        first = ERROR.format("OSError: [Errno 28] No space left on device")
        chain = (
            first
            + "\nDuring handling of the above exception, another exception occurred:\n\n"
            + ERROR.format("RuntimeError: save failed")
        )
        (found,) = diagnose(chain + "exit code 1\n")
        assert "disk" in found.cause and "line 3:" in found.evidence

    def test_an_exception_that_was_survived_is_not_blamed(self, diagnose):
        survived = ERROR.format("ConnectionError: no telemetry")
        (found,) = diagnose(survived + ERROR.format("ValueError: File /x/a.jsonl not found.") + "exit code 1\n")
        assert "/x/a.jsonl" in found.cause
        assert diagnose(survived + TRAINING + "***** train metrics *****\n") == []
        assert diagnose(survived + "exit code 0\n") == []

    def test_a_rank_that_only_lost_its_peer_is_not_blamed(self, diagnose):
        peer = ERROR.format("RuntimeError: [pair.cc:547] Connection closed by peer [127.0.0.1]:59014")
        other = ERROR.format("RuntimeError: row 17 is odd")
        prefixed = [
            "".join(f"[rank{rank}]: {line}\n" for line in text.splitlines()) for rank, text in ((0, peer), (1, other))
        ]
        (found,) = diagnose("".join(prefixed) + "exit code 1\n")
        assert "rank 1" in found.cause and "row 17 is odd" in found.evidence
        (found,) = diagnose(prefixed[0] + "exit code 1\n")
        assert "connection to another process" in found.cause and found.certainty == "likely"

    def test_what_other_ranks_say_does_not_explain_the_first_failure(self, diagnose):
        known = ERROR.format("OSError: [Errno 28] No space left on device")
        odd = ERROR.format("RuntimeError: odd")
        text = "".join(f"[rank{n}]: {line}\n" for n, part in ((0, known), (1, odd)) for line in part.splitlines())
        summary = "Root Cause (first observed failure):\n[0]:\n  rank      : 1 (local_rank: 1)\n  exitcode  : 1\n"
        assert "disk" in diagnose(text + "exit code 1\n")[0].cause
        assert "not recognised; rank 1" in diagnose(text + summary + "exit code 1\n")[0].cause

    def test_a_line_beside_an_unknown_exception_is_only_likely(self, diagnose):
        line = "fork: Cannot allocate memory\n"
        assert diagnose(line + ERROR.format("RuntimeError: odd") + "exit code 1\n")[0].certainty == "likely"
        assert diagnose(line + "exit code 1\n")[0].certainty == "certain"

    def test_a_worker_on_this_machine_is_no_peer(self, diagnose):
        frame = '  File "/usr/lib/python3.11/multiprocessing/connection.py", line 395, in _recv\n    chunk = read()\n'
        error = ERROR.format(frame + "ConnectionResetError: [Errno 104] Connection reset by peer")
        (found,) = diagnose(error + "exit code 1\n")
        assert "on this machine" in found.cause
        (found,) = diagnose(ERROR.format("RuntimeError: DataLoader worker (pid(s) 41, 42) exited unexpectedly"), 1)
        assert "data loader worker 41, 42" in found.cause
        (found,) = diagnose(ERROR.format("RuntimeError: DataLoader worker (pid 41) is killed by signal: Killed. "), 1)
        assert "41" in found.cause and "signal: Killed" in found.cause

    def test_the_rank_that_torchrun_saw_fail_first_is_the_cause(self, diagnose):
        late, early = (ERROR.format(f"RuntimeError: {word}") for word in ("second", "first"))
        text = "".join(
            f"[rank{rank}]: {line}\n" for rank, trace in ((0, late), (1, early)) for line in trace.splitlines()
        )
        summary = "Root Cause (first observed failure):\n[0]:\n  rank      : 1 (local_rank: 1)\n  exitcode  : 1\n"
        (found,) = diagnose(text + summary + "exit code 1\n")
        assert "rank 1" in found.cause and "first" in found.evidence

    def test_an_unknown_exception_is_named_without_a_guess(self, diagnose):
        (found,) = diagnose(ERROR.format("FrobnicationError: the flux is reversed") + "exit code 1\n")
        assert found.cause.startswith("cause not recognised") and "line 3: FrobnicationError" in found.evidence
        assert "train.py:3" in found.fix

    def test_without_an_exception_the_last_five_lines(self, diagnose):
        (found,) = diagnose("".join(f"step {n}\n" for n in range(9)), 1)
        assert "cause not recognised" in found.cause
        assert "step 3" not in found.evidence and all(f"step {n}" in found.evidence for n in (4, 5, 6, 7, 8))

    def test_a_chatts_error_brings_its_own_fix(self, diagnose):
        line = "llamafactory_chatts.core.errors.ChatTSError: a.jsonl:4: 3 <ts><ts/> but 2 series. Add a series."
        (found,) = diagnose(ERROR.format(line) + "exit code 1\n")
        assert (found.cause, found.fix) == ("a.jsonl:4: 3 <ts><ts/> but 2 series", "Add a series.")

    def test_many_tracebacks_are_not_all_kept(self, diagnose):
        many = ERROR.format("ValueError: passing") * 500 + ERROR.format("ValueError: File /x/a.jsonl not found.")
        assert "/x/a.jsonl" in diagnose(many + "exit code 1\n")[0].cause


class TestNumbers:
    def test_nan_is_found_in_a_run_that_ended_well(self, diagnose):
        (found,) = diagnose(
            TRAINING + "{'loss': '1.2', 'grad_norm': '3'}\n{'loss': 'nan', 'grad_norm': 'nan'}\nexit code 0\n"
        )
        assert "loss became NaN" in found.cause and "line 3:" in found.evidence

    @pytest.mark.parametrize(
        "line", ["step 4/9 loss nan lr 1e-4", "loss=nan, grad_norm=2", "{'loss': nan}", "'loss': 'inf'"]
    )
    def test_ways_to_write_it(self, diagnose, line):
        assert "NaN" in diagnose(f"{line}\nexit code 0\n")[0].cause

    def test_skipped_steps_at_the_start_of_fp16_are_normal(self, diagnose):
        start = "{'loss': '2.1', 'grad_norm': 'inf'}\n" * 4 + "{'loss': '1.9', 'grad_norm': '1.5'}\n" * 3
        assert diagnose(TRAINING + start + "exit code 0\n") == []

    def test_gradients_that_stay_nan(self, diagnose):
        text = (
            TRAINING
            + "{'loss': '2.1', 'grad_norm': '1'}\n"
            + "{'loss': '0', 'grad_norm': 'nan'}\n" * 4
            + "exit code 0\n"
        )
        (found,) = diagnose(text)
        assert "gradients" in found.cause and "line 3:" in found.evidence

    def test_names_and_words_are_no_numbers(self, diagnose):
        assert diagnose("rewards: finance, nan_filter loss information\nexit code 0\n") == []


class TestOther:
    def test_a_log_that_stops_is_not_called_healthy(self, diagnose):
        (found,) = diagnose(TRAINING + "{'loss': '1.0'}\n")
        assert "stops during training" in found.cause and found.certainty == "likely"

    def test_an_empty_log_and_no_log(self, diagnose, tmp_path):
        assert diagnose("") == []
        assert "empty" in diagnose("", 1)[0].evidence
        with pytest.raises(ChatTSError, match="no_log"):
            diagnose_log(tmp_path / "no_log")

        with pytest.raises(ChatTSError, match="cannot be read"):
            diagnose_log(tmp_path)

    def test_every_line_of_the_table_can_be_used(self):
        for row in ALL:
            groups = set(re.compile(row.pattern).groupindex)
            for text in (row.cause, row.fix):
                names = set(re.findall(r"\{(?:pip \{)?(\w+)[}|]", text)) - {"stack"}
                assert names <= groups and text == text.strip(), row.pattern

            assert row.cause and (row.fix or row.cause.startswith("=")), row.pattern
            assert row.certainty in ("certain", "likely"), row.pattern
            assert set(row.kind.split()) <= {"general", "peer", "benign"}, row.pattern
            assert all(map(re.compile, (row.frame, row.explains, row.phase))) and all(row.words), row.pattern

    def test_every_function_that_says_something_stands_in_the_table(self):
        assert {row.cause[1:] for row in ALL if row.cause.startswith("=")} == set(SAYING)

    def test_fields_that_a_message_did_not_fill(self):
        match = re.search(r"(?P<a>x)|(?P<b>y)", "x")
        assert fill("{a} and {b}", match) == "x and ?"
        assert fill("{b|a}, {b|no b}[, b is {b}][, a is {a}] {c: d}", match) == "x, no b, a is x {c: d}"

    def test_commands_that_install(self):
        match = re.search(r"(?P<need>\S+)", "trl>=0.8.6,<=0.9.6")
        assert fill("{pip --upgrade torch}", match) == install("torch", options="--upgrade")
        assert fill("{pip {need}}; {stack}", match) == f"{install('trl')}; {install('llamafactory', *STACK)}"

    def test_a_function_says_both_or_the_cause_alone(self):
        both = Row("No module named '(?P<name>\\w+)'", "=missing_module")
        found = both.match("No module named 'odd'")
        assert found and both.say(found)[0].startswith("the Python module odd is not installed")
        assert "the package that holds odd" in both.say(found)[1]
        alone = Row("tried (?P<size>\\d+)(?P<more>)", "=memory", "Free some")
        found = alone.match("tried 2147483648")
        assert found and alone.say(found) == ("host memory ran out: 2.0 GiB more could not be had", "Free some")

    @pytest.mark.parametrize(("has", "wants"), [("[]", "[1]"), ("[1]", "[]"), ("[]", "[]")])
    def test_a_weight_of_one_number(self, diagnose, has, wants):
        said = f"size mismatch for scale: copying a param with shape torch.Size({has}) from checkpoint, the shape in "
        error = f"RuntimeError: {said}current model is torch.Size({wants})."
        (found,) = diagnose(ERROR.format(error) + "exit code 1\n")
        assert "belong to another base: scale is" in found.cause

    @pytest.mark.parametrize("kind", ["bars", "lines", "one line"])
    def test_memory_does_not_grow_with_the_log(self, tmp_path, kind):
        piece = {
            "bars": b"\r 12%|x | 1234/900000 [00:40<21:40,  3.35it/s]" * 20000,
            "lines": b"{'loss': '0.25', 'grad_norm': '1.47', 'learning_rate': '1.8e-05', 'epoch': '0.05'}\n" * 6000,
            "one line": b"x" * 2**20,
        }[kind]
        path = tmp_path / "big.log"
        with open(path, "wb") as file:
            for _ in range(24):
                file.write(piece)

            file.write(b"\n" + ERROR.format("ValueError: File /x/a.jsonl not found.").encode() + b"exit code 1\n")

        script = (
            "import resource, sys; from pathlib import Path\n"
            "from llamafactory_chatts.diagnose.log.diagnose import diagnose_log\n"
            "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
            "print(diagnose_log(Path(sys.argv[1]))[0].cause)\n"
            "print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)"
        )
        root = Path(log_reading.__file__).parent.parent.parent
        done = subprocess.run(
            [sys.executable, "-c", script, path], capture_output=True, text=True, check=True, cwd=root
        )
        cause, grown = done.stdout.splitlines()
        assert "/x/a.jsonl" in cause and int(grown) < 12, f"{grown} MiB for a log of {path.stat().st_size >> 20} MiB"
