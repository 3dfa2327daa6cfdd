"""What a launcher promises about a run, with stand-ins for the training: log, exit code, PID file, refusals."""

import os
import pty
import signal
import socket
import subprocess
import time

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


SIMPLE, FULL = "train_chatts_tune_simple.sh", "train_chatts_full.sh"
SLEEPS = "trap 'echo was asked; exit 9' USR1; echo begun; exec sleep 300"


@pytest.fixture
def machine(tmp_path):
    yield Machine(tmp_path)
    end_all(tmp_path)


def started(machine, script=SIMPLE, **variables):
    """Start a launcher that returns at once; return the PID in its file."""
    code, printed = machine.run(script, FOREGROUND="0", **variables)
    assert code == 0, printed
    wait_for(lambda: machine.log.exists() and "begun" in machine.log.read_text())
    pid = int(machine.pid_file.read_text())
    assert f"kill -- -{pid}" in printed and str(machine.log) in printed
    return pid


class TestLog:
    @pytest.mark.parametrize("code", [0, 1, 3, 247])
    def test_the_exit_code_is_kept(self, machine, code):
        machine.programs(f"echo trained; exit {code}")
        found, printed = machine.run(SIMPLE)
        assert found == code
        assert lines_of(machine.log)[-2:] == ["trained", f"exit code {code}"]
        assert printed.splitlines()[-1].endswith(f" exit code {code}"), "the terminal shows the whole log"
        assert not machine.pid_file.exists()

    @pytest.mark.parametrize("name, code", [("KILL", 137), ("SEGV", 139), ("TERM", 143)])
    def test_a_signal_is_named(self, machine, name, code):
        machine.programs(f"echo trained; kill -{name} $$")
        assert machine.run(SIMPLE)[0] == code
        assert lines_of(machine.log)[-2:] == [f"launcher: ended by SIG{name}", f"exit code {code}"]

    def test_the_command_stands_first(self, machine):
        _, dry = machine.run(SIMPLE, "seed=1", DRY_RUN="1")
        machine.run(SIMPLE, "seed=1")
        assert lines_of(machine.log)[0] == f"launcher: {dry.strip()}"

    def test_states_of_a_progress_bar_are_lines(self, machine):
        machine.programs(r"printf 'loading\r 10%%\r 50%%\r100%%\nerror: \xff\n' >&2; printf 'last words'")
        machine.run(SIMPLE)
        words = ["loading", " 10%", " 50%", "100%", "error: \ufffd", "last words", "exit code 0"]
        assert lines_of(machine.log)[2:] == words

    def test_lines_arrive_while_it_runs(self, machine):
        machine.programs("printf '10%%\\r20%%\\r'; echo begun; exec sleep 300")
        started(machine)
        assert "20%" in lines_of(machine.log)

    def test_a_long_log_is_whole(self, machine):
        machine.programs("seq 1 20000; exit 4")
        assert machine.run(SIMPLE)[0] == 4
        assert lines_of(machine.log)[2:] == [*map(str, range(1, 20001)), "exit code 4"]

    def test_a_second_run_goes_on_in_the_log(self, machine):
        machine.run(SIMPLE)
        first = lines_of(machine.log)
        machine.programs("echo resumed")
        _, printed = machine.run(SIMPLE)
        assert lines_of(machine.log)[: len(first)] == first and lines_of(machine.log)[-2] == "resumed"
        assert "trained" not in printed and "resumed" in printed

    def test_a_full_disk_does_not_end_the_training(self, machine):
        machine.programs(f"for i in 1 2 3; do echo begun || exit 1; sleep 0.1; done; touch {machine.folder}/done")
        assert machine.run(SIMPLE, FOREGROUND="0", LOG="/dev/full")[0] == 0
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

    def terminal(self, machine):
        """Start the launcher as the session of a terminal; return its PID and the terminal.

        The run goes on once the file ``go`` is there.
        """
        go = machine.folder / "go"
        machine.programs(f"echo begun; until [[ -e {go} ]]; do sleep 0.1; done; echo still here; exit 5")
        pid, terminal = pty.fork()
        if pid == 0:
            for number in (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT):
                signal.signal(number, signal.SIG_DFL)  # also where the tests run under nohup or in the background

            os.execve(ROOT / "shell" / SIMPLE, [SIMPLE], machine.environment())

        read_until(terminal, b"begun")
        return pid, terminal

    def test_a_closed_terminal(self, machine):
        pid, terminal = self.terminal(machine)
        os.close(terminal)
        assert os.waitpid(pid, 0)[1] != 0
        assert last_line(machine.log) == "begun", "the launcher is gone, the run goes on"
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

    def test_terminating_the_launcher_ends_the_run(self, machine):
        machine.programs(SLEEPS)
        process = machine.start(SIMPLE)
        read_until(process.stdout.fileno(), b"begun")
        process.terminate()
        process.communicate(timeout=900)
        assert process.returncode == 143 and last_line(machine.log) == "exit code 143"


class TestRefuses:
    def refused(self, machine, *words, script=SIMPLE, **variables):
        code, printed = machine.run(script, *words, **variables)
        assert code == 2 and "to mend it: " in printed
        assert not machine.log.exists() and not machine.pid_file.exists(), "nothing was started"
        return printed

    def test_an_absent_gpu(self, machine):
        assert "there is no GPU 7" in self.refused(machine, GPUS="7")

    def test_no_gpu(self, machine):
        write_program(machine.bin, "nvidia-smi", "echo no devices >&2; exit 9")
        assert "DEVICE=cpu" in self.refused(machine)
        assert machine.run(SIMPLE, DEVICE="cpu")[0] == 0

    def test_a_recipe_that_is_not_there(self, machine):
        assert "none.yaml" in self.refused(machine, RECIPE="none.yaml")

    def test_a_program_that_is_not_there(self, machine):
        (machine.bin / "llamafactory-cli").unlink()
        path = f"{machine.bin}:/usr/bin:/bin"
        assert "llamafactory-cli is not found" in self.refused(machine, PATH=path)

    def test_a_port_in_use(self, machine):
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            taken.listen()
            port = str(taken.getsockname()[1])
            assert f"port {port} is in use" in self.refused(machine, MASTER_PORT=port)

    def test_a_failed_preflight(self, machine):
        write_program(machine.bin, "lmf-chatts", 'echo "doctor: $*"; exit 1')
        printed = self.refused(machine, "seed=1", MODEL="m")
        assert "doctor: doctor examples/train_chatts_tune_simple.yaml model_name_or_path=m" in printed
        assert "seed=1" in printed
        assert machine.run(SIMPLE, PREFLIGHT="0")[0] == 0

    def test_a_second_run_in_the_same_folder(self, machine):
        machine.programs(SLEEPS)
        pid = started(machine)
        code, printed = machine.run(SIMPLE)
        assert code == 2 and "under way" in printed
        assert is_alive(pid) and int(machine.pid_file.read_text()) == pid

    def test_words_for_gpus(self, machine):
        code, printed = machine.run(SIMPLE, GPUS="all")
        assert code == 2 and "GPUS=all" in printed

    def test_a_pid_file_of_a_run_that_is_gone_is_no_hindrance(self, machine):
        machine.pid_file.write_text(f"{os.getpid()}\n")
        assert machine.run(SIMPLE)[0] == 0


STAGE = """
for word in "$@"; do [[ $word != output_dir=* ]] || folder=${word#output_dir=}; done
echo "stage ${folder##*/}"
mkdir -p "$folder" && touch "$folder/trainer_state.json"
"""


class TestStages:
    def stages(self, machine):
        return [line for line in lines_of(machine.log) if line.startswith("stage ")]

    def test_one_after_the_other(self, machine):
        machine.programs(STAGE)
        assert machine.run(FULL, GPUS="0,1")[0] == 0
        assert self.stages(machine) == ["stage align", "stage sft"]
        assert [line for line in lines_of(machine.log) if line.startswith("exit code")] == ["exit code 0"]

    def test_a_failed_first_stage_ends_it(self, machine):
        machine.programs(STAGE + "exit 6")
        assert machine.run(FULL, GPUS="0,1")[0] == 6
        assert self.stages(machine) == ["stage align"] and last_line(machine.log) == "exit code 6"

    def test_two_machines(self, machine):
        """The second one waits until the first has written the model that stage two reads."""
        machine.programs(STAGE.replace("&& touch", '&& [[ "$*" == *"--node_rank 1"* ]] || touch'))
        common = {"NNODES": "2", "GPUS": "0", "FOREGROUND": "0"}
        assert machine.run(FULL, NODE_RANK="1", **common)[0] == 0
        log = machine.folder / "out.node1.log"
        wait_for(lambda: log.exists() and "stage align" in lines_of(log))
        time.sleep(1)
        assert "stage sft" not in lines_of(log)
        assert machine.run(FULL, NODE_RANK="0", **common)[0] == 0
        wait_for(lambda: last_line(machine.folder / "out.node0.log") == "exit code 0")
        wait_for(lambda: last_line(log) == "exit code 0")
        assert "stage sft" in lines_of(log)
        hosts = (machine.folder / "out.node1.hosts").read_text().split()
        assert [word for word in hosts if word.startswith("node")] == ["node0", "node1"]


def test_a_launcher_that_was_copied_works_alone(machine):
    copy = machine.folder / "mine.sh"
    copy.write_bytes((ROOT / "shell" / SIMPLE).read_bytes())
    done = subprocess.run(["bash", copy], env=machine.environment(ROOT=str(ROOT)), capture_output=True, timeout=900)
    assert done.returncode == 0 and last_line(machine.log) == "exit code 0"
