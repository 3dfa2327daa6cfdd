"""``lmf-chatts run`` with stand-ins for the training: log, exit code, PID file, signals, refusals."""

import os
import pty
import signal
import socket
import subprocess
import sys
import time

import psutil
import pytest
from shell_runs import (
    ROOT,
    Machine,
    end_all,
    is_alive,
    last_line,
    lines_of,
    marked,
    read_until,
    wait_for,
    write_program,
)

from llamafactory_chatts.cli import main
from llamafactory_chatts.running import command, processes


TRAIN = ("--", "llamafactory-cli", "train", str(ROOT / "examples/train_chatts_tune_simple.yaml"))
SLEEPS = "echo begun; exec sleep 300"


class Runs(Machine):
    """A machine on which ``lmf-chatts run`` starts the stand-ins."""

    def words(self, *options):
        return ("run", "--log", str(self.log), *options, *([] if "--" in options else TRAIN))

    def start(self, *options, **variables):
        return super().start("lmf-chatts", *self.words(*options), **variables)


@pytest.fixture
def machine(tmp_path):
    yield Runs(tmp_path)
    end_all(tmp_path)


def started(machine, *options, **variables):
    """Start a run in the background; return the PID in its file."""
    code, printed = machine.run("--background", *options, **variables)
    assert code == 0, printed
    wait_for(lambda: machine.log.exists() and "begun" in machine.log.read_text())
    pid = int(machine.pid_file.read_text())
    assert f"kill -- -{pid}" in printed and str(machine.log) in printed
    return pid


class TestLog:
    @pytest.mark.parametrize("code", [0, 1, 3, 247])
    def test_the_exit_code_is_kept(self, machine, code):
        machine.programs(f"echo trained; exit {code}")
        found, printed = machine.run()
        assert found == code
        assert lines_of(machine.log)[-2:] == ["trained", f"exit code {code}"]
        assert printed.splitlines()[-1].endswith(f" exit code {code}"), "the terminal shows the whole log"
        assert not machine.pid_file.exists()

    @pytest.mark.parametrize("name, code", [("KILL", 137), ("SEGV", 139), ("TERM", 143)])
    def test_a_signal_is_named(self, machine, name, code):
        machine.programs(f"echo trained; kill -{name} $$")
        assert machine.run()[0] == code
        assert lines_of(machine.log)[-2:] == [f"launcher: ended by SIG{name}", f"exit code {code}"]

    def test_the_command_stands_first(self, machine):
        words = ("--gpus", "0", *TRAIN, "seed=1", "output_dir=a b")
        _, dry = machine.run(*words, DRY_RUN="1")
        assert dry.startswith("PYTHONUNBUFFERED=1 ") and not machine.log.exists()
        machine.run(*words)
        assert lines_of(machine.log)[:2] == [
            f"launcher: {dry.strip()}",
            f"launcher: host {socket.gethostname()}, GPUs 0, output a b",
        ]

    def test_states_of_a_progress_bar_are_lines(self, machine):
        machine.programs(r"printf 'loading\r 10%%\r 50%%\r100%%\nerror: \xff\n' >&2; printf 'last words'")
        machine.run()
        words = ["loading", " 10%", " 50%", "100%", "error: \ufffd", "last words", "exit code 0"]
        assert lines_of(machine.log)[2:] == words

    def test_lines_arrive_while_it_runs(self, machine):
        machine.programs("printf '10%%\\r20%%\\r'; echo begun; exec sleep 300")
        started(machine)
        assert "20%" in lines_of(machine.log)

    def test_a_long_log_is_whole(self, machine):
        machine.programs("seq 1 20000; exit 4")
        assert machine.run()[0] == 4
        assert lines_of(machine.log)[2:] == [*map(str, range(1, 20001)), "exit code 4"]

    def test_a_second_run_goes_on_in_the_log(self, machine):
        machine.run()
        first = lines_of(machine.log)
        machine.programs("echo resumed")
        _, printed = machine.run()
        assert lines_of(machine.log)[: len(first)] == first and lines_of(machine.log)[-2] == "resumed"
        assert "trained" not in printed and "resumed" in printed

    def test_a_full_disk_does_not_end_the_training(self, machine):
        machine.programs(f"for i in 1 2 3; do echo begun || exit 1; sleep 0.1; done; touch {machine.folder}/done")
        assert machine.run("--background", "--log", "/dev/full", "--pid-file", str(machine.pid_file))[0] == 0
        assert wait_for((machine.folder / "done").exists)


class TestSignals:
    def test_in_the_background_it_returns_at_once(self, machine):
        machine.programs(SLEEPS)
        pid = started(machine)
        assert os.getpgid(pid) == os.getsid(pid) == pid, "a group and session of its own"
        os.killpg(pid, signal.SIGTERM)
        wait_for(lambda: last_line(machine.log) == "exit code 143")
        assert wait_for(lambda: not machine.pid_file.exists())

    def test_killed(self, machine):
        machine.programs(SLEEPS)
        os.kill(started(machine), signal.SIGKILL)
        wait_for(lambda: last_line(machine.log) == "exit code 137")

    def test_workers_do_not_outlive_it(self, machine):
        """torchrun's workers are sessions of their own, so no signal to the group reaches them."""
        machine.programs(
            "setsid sleep 300 & setsid bash -c 'trap \"\" TERM; sleep 300 & wait' & echo begun; sleep 300"
        )
        pid = started(machine)
        assert wait_for(lambda: len(marked(machine.folder)) >= 4)
        os.killpg(pid, signal.SIGKILL)
        wait_for(lambda: last_line(machine.log) == "exit code 137")
        assert not [left for left in marked(machine.folder) if is_alive(left)]

    def test_the_run_inherits_no_ignored_signal(self, machine):
        """Not even from a caller that ignores them, as nohup and shells do for what they put in the background."""
        machine.programs("exec grep -E '^Sig(Blk|Ign)' /proc/self/status")
        before = {number: signal.signal(number, signal.SIG_IGN) for number in (signal.SIGINT, signal.SIGQUIT)}
        try:
            machine.run()
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

        masks = dict(line.split(":") for line in lines_of(machine.log) if line.startswith("Sig"))
        held = int(masks["SigBlk"], 16) | int(masks["SigIgn"], 16)
        ours = (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM)
        assert not [number for number in ours if held >> (number - 1) & 1]

    def test_without_a_supervisor_the_log_goes_on(self, machine):
        go = machine.folder / "go"
        machine.programs(f"echo begun; until [[ -e {go} ]]; do sleep 0.1; done; echo still here")
        os.kill(psutil.Process(started(machine)).ppid(), signal.SIGKILL)
        go.touch()
        wait_for(lambda: last_line(machine.log) == "still here")

    def terminal(self, machine, *options):
        """Start it as the session of a terminal; return its PID and the terminal.

        The run goes on once the file ``go`` is there.
        """
        go = machine.folder / "go"
        machine.programs(f"echo begun; until [[ -e {go} ]]; do sleep 0.1; done; echo still here; exit 5")
        pid, terminal = pty.fork()
        if pid == 0:
            for number in (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT):
                signal.signal(number, signal.SIG_DFL)  # also where the tests run under nohup or in the background

            program = machine.bin / "lmf-chatts"
            os.execve(program, [str(program), *machine.words(*options)], machine.environment())

        read_until(terminal, b"begun")
        return pid, terminal

    def test_a_closed_terminal(self, machine):
        pid, terminal = self.terminal(machine)
        os.close(terminal)
        assert os.waitpid(pid, 0)[1] != 0
        assert last_line(machine.log) == "begun", "the program is gone, the run goes on"
        (machine.folder / "go").touch()
        wait_for(lambda: last_line(machine.log) == "exit code 5")
        assert "still here" in lines_of(machine.log)

    def test_ctrl_c_ends_it(self, machine):
        pid, terminal = self.terminal(machine)
        os.write(terminal, b"\x03")
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 143
        lines = lines_of(machine.log)
        assert "launcher: it was asked to stop (SIGTERM)" in lines and "still here" not in lines
        assert lines[-1] == "exit code 143"
        os.close(terminal)

    def test_a_second_ctrl_c_kills_it(self, machine):
        machine.programs("trap 'echo not yet' TERM; echo begun; while :; do sleep 0.1; done")
        process = machine.start()
        read_until(process.stdout.fileno(), b"begun")
        process.send_signal(signal.SIGINT)
        read_until(process.stdout.fileno(), b"not yet")
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=900)
        assert process.returncode == 137 and last_line(machine.log) == "exit code 137"

    def test_terminating_it_ends_the_run(self, machine):
        machine.programs(SLEEPS)
        process = machine.start()
        read_until(process.stdout.fileno(), b"begun")
        process.terminate()
        process.communicate(timeout=900)
        assert process.returncode == 143 and last_line(machine.log) == "exit code 143"

    def test_a_reader_that_leaves(self, machine):
        """As in ``... | head -1``: the run goes on, and the exit code is its own."""
        machine.programs("echo begun; sleep 1; seq 1 1000; exit 3")
        process = machine.start()
        read_until(process.stdout.fileno(), b"begun")
        process.stdout.close()
        assert process.wait(900) == 3 and last_line(machine.log) == "exit code 3"


class TestStop:
    def test_one_of_two(self, machine, tmp_path):
        machine.programs(SLEEPS)
        pid = started(machine)
        other = ("--log", str(tmp_path / "other.log"), "--pid-file", str(tmp_path / "other.pid"))
        assert machine.run("--background", *other)[0] == 0
        assert machine.run("--stop", str(machine.pid_file))[1] == f"{machine.pid_file}: stopped\n"
        wait_for(lambda: last_line(machine.log) == "exit code 143")
        assert not is_alive(pid) and is_alive(int((tmp_path / "other.pid").read_text()))
        assert machine.run("--stop", str(machine.pid_file))[1] == f"{machine.pid_file}: not running\n"

    def test_a_number_that_another_program_has_by_now(self, machine):
        machine.pid_file.write_text(f"{os.getpid()}\n")
        assert "not running" in machine.run("--stop", str(machine.pid_file))[1]
        assert processes.leader(machine.pid_file) is None


class TestRefuses:
    def refused(self, machine, *options, **variables):
        code, printed = machine.run(*options, **variables)
        assert code == 2 and printed.count("\n") == 1, printed
        assert not machine.log.exists() and not machine.pid_file.exists(), "nothing was started"
        return printed

    def test_an_absent_gpu(self, machine):
        assert "there is no GPU 7. Set GPUS to some of: 0 1 2 3" in self.refused(machine, "--gpus", "0,7")

    def test_no_gpu(self, machine):
        write_program(machine.bin, "nvidia-smi", "echo no devices >&2; exit 9")
        assert "DEVICE=cpu" in self.refused(machine, "--gpus", "0")
        assert machine.run("--gpus", "0", "--device", "cpu")[0] == 0

    def test_words_for_gpus(self, machine):
        assert "GPUS=all" in self.refused(machine, "--gpus", "all", DRY_RUN="1")

    def test_a_recipe_that_is_not_there(self, machine):
        assert "none.yaml" in self.refused(machine, "--", "llamafactory-cli", "train", "none.yaml")

    def test_a_program_that_is_not_there(self, machine):
        assert "no_such_program is not found" in self.refused(machine, "--", "no_such_program")

    def test_no_command(self, machine):
        assert "there is no command" in self.refused(machine, "--")
        assert "there is no command" in self.refused(machine, *TRAIN, "--then")

    def test_no_log(self, capsys):
        assert main(["run", "--", "true"]) == 2
        assert "--log" in capsys.readouterr().err

    def test_a_log_that_cannot_be_written(self, machine):
        assert "cannot be written" in self.refused(machine, "--log", f"{machine.bin}/nvidia-smi/x.log")

    def test_a_port_in_use(self, machine):
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            taken.listen()
            port = str(taken.getsockname()[1])
            assert f"port {port} is in use" in self.refused(machine, "--port", port)
            elsewhere = ("--port", port, "--", "torchrun", "--node_rank", "1")  # it is the first machine's
            assert machine.run(*elsewhere)[0] == 0

    def test_a_second_run_in_the_same_folder(self, machine):
        machine.programs(SLEEPS)
        pid = started(machine)
        code, printed = machine.run()
        assert code == 2 and "under way" in printed
        assert is_alive(pid) and int(machine.pid_file.read_text()) == pid

    def test_a_pid_file_of_a_run_that_is_gone_is_no_hindrance(self, machine):
        machine.pid_file.write_text(f"{os.getpid()}\n")
        assert machine.run()[0] == 0

    def test_the_preflight(self, machine, tiny_base, tmp_path):
        """Of each command; the second one's base is what the first one will write."""
        launch, recipes = ["torchrun", "-m", "llamafactory.launcher"], ROOT / "examples"
        data = [f"dataset_dir={ROOT}/dataset_info", "deepspeed=null"]
        align = [*launch, f"{recipes}/train_chatts_full_align.yaml", *data, f"model_name_or_path={tiny_base}"]
        align += [f"output_dir={tmp_path}/align"]
        sft = [*launch, f"{recipes}/train_chatts_full.yaml", *data, f"model_name_or_path={tmp_path}/align"]
        sft += [f"output_dir={tmp_path}/sft"]
        options = ("--device", "cpu", "--", *align, "--then", *sft)
        code, printed = machine.run(*options, "lora_rnk=8", PREFLIGHT="1")
        assert code == 2 and "lora_rnk" in printed and not machine.log.exists()
        assert printed.splitlines()[-1].startswith(f"the preflight found errors in {recipes}/train_chatts_full.yaml")
        code, printed = machine.run(*options, PREFLIGHT="1")
        assert code == 0, printed


class TestTwoCommands:
    SECOND = ("--then", "torchrun", "second")

    def test_one_after_the_other(self, machine):
        assert machine.run(*TRAIN, *self.SECOND)[0] == 0
        lines = lines_of(machine.log)
        assert [line for line in lines if line.startswith("trained")][-1] == "trained: second"
        assert len([line for line in lines if line.startswith("exit code")]) == 1 and lines[-1] == "exit code 0"

    def test_a_failed_one_ends_it(self, machine):
        machine.programs('echo "trained: $*"; exit 6')
        assert machine.run(*TRAIN, *self.SECOND)[0] == 6
        assert "trained: second" not in lines_of(machine.log) and last_line(machine.log) == "exit code 6"

    def test_the_second_waits_for_a_file(self, machine):
        process = machine.start("--wait-for", "written", *TRAIN, *self.SECOND)
        wait_for(lambda: machine.log.exists() and "trained" in machine.log.read_text())
        time.sleep(1)
        assert process.poll() is None and "second" not in machine.log.read_text()
        (machine.folder / "written").touch()
        assert process.wait(900) == 0 and "trained: second" in lines_of(machine.log)

    def test_stopped_while_it_waits(self, machine):
        process = machine.start("--wait-for", "never", *TRAIN, *self.SECOND)
        read_until(process.stdout.fileno(), b"trained")
        process.terminate()
        process.communicate(timeout=900)
        assert process.returncode == 143 and "second" not in machine.log.read_text()


class TestCommand:
    def test_the_recipe(self):
        for words in (
            ["llamafactory-cli", "train", "r.yaml", "a=1", "b=x=y", "a=2"],
            [
                "accelerate",
                "launch",
                "--config_file",
                "c.yaml",
                "-m",
                "llamafactory.launcher",
                "r.yaml",
                "a=2",
                "b=x=y",
            ],
        ):
            assert words[command.recipe_place(words)] == "r.yaml"
            assert command.settings_of(words) == {"a": "2", "b": "x=y"}

        assert command.recipe_place(["bash", "train"]) is None and command.settings_of(["bash", "a=1"]) == {}

    @pytest.mark.parametrize(
        "words, found",
        [
            ("llamafactory-cli train r.yaml a=1", "llamafactory-cli train r.yaml {0} use_cpu=true a=1"),
            (
                "torchrun -m llamafactory.launcher r.yaml",
                "torchrun -m llamafactory.launcher r.yaml {0} use_cpu=true ddp_backend=gloo",
            ),
            (
                "deepspeed --include localhost:2,3 --module llamafactory.launcher r.yaml",
                "deepspeed --num_accelerators 2 --module llamafactory.launcher r.yaml {0}",
            ),
            ("bash run.sh", "bash run.sh"),
        ],
    )
    def test_without_a_gpu(self, words, found):
        off = "bf16=false fp16=false use_unsloth_gc=false"
        assert command.on_cpu(words.split(), 2) == found.format(off).split()

    def test_a_line_is_what_a_shell_reads(self):
        line = command.as_line(
            {"A": "two words", "B": ""},
            [sys.executable, "-c", "import os, sys; print(os.environ['A'], sys.argv)", "$x 'y'"],
        )
        done = subprocess.run(["bash", "-c", line], capture_output=True, text=True)
        assert done.stdout == "two words ['-c', \"$x 'y'\"]\n"

    def test_variables_of_the_user_stay(self, monkeypatch):
        monkeypatch.setenv("PYTORCH_CUDA_ALLOC_CONF", "backend:native")
        variables = command.environment("1,2", 29501, cpu=False)
        assert variables["PYTORCH_CUDA_ALLOC_CONF"] == "backend:native" and variables["CUDA_VISIBLE_DEVICES"] == "1,2"
        assert variables["MASTER_PORT"] == "29501"
        assert "CUDA_VISIBLE_DEVICES" not in command.environment(None, None, cpu=False)


def test_the_log_stands_beside_the_output_folder(machine, tmp_path):
    recipe = tmp_path / "r.yaml"
    recipe.write_text(f"output_dir: {tmp_path}/saves/from the recipe\n")
    words = [*machine.words("--background"), f"output_dir={tmp_path}/saves/named/"]
    for words in (["llamafactory-cli", "train", str(recipe)], [*TRAIN[1:], f"output_dir={tmp_path}/saves/named/"]):
        assert super(Runs, machine).start("lmf-chatts", "run", "--", *words).wait(900) == 0

    assert {path.name for path in (tmp_path / "saves").iterdir()} == {"from the recipe.log", "named.log"}
