"""``lmf-chatts run`` and signals: of the terminal, to the process group, to one process of it, ``--stop``."""

import os
import pty
import signal
import subprocess

import psutil
import pytest
from shell_runs import BIN, Runs, end_all, free_port, is_alive, last_line, lines_of, marked, read_until, wait_for

from llamafactory_chatts.running import processes


SLEEPS = "echo begun; exec sleep 300"


@pytest.fixture
def machine(tmp_path):
    yield Runs(tmp_path)
    end_all(tmp_path)


class TestSignals:
    def test_in_the_background_it_returns_at_once(self, machine):
        machine.programs(SLEEPS)
        pid = machine.begin()
        assert os.getpgid(pid) == os.getsid(pid) == pid, "a group and session of its own"
        os.killpg(pid, signal.SIGTERM)
        wait_for(lambda: last_line(machine.log) == "exit code 143")
        assert wait_for(lambda: not machine.pid_file.exists())

    def test_killed(self, machine):
        machine.programs(SLEEPS)
        os.kill(machine.begin(), signal.SIGKILL)
        wait_for(lambda: last_line(machine.log) == "exit code 137")

    def test_workers_do_not_outlive_it(self, machine):
        """torchrun's workers are sessions of their own, so no signal to the group reaches them."""
        machine.programs(
            "setsid sleep 300 & setsid bash -c 'trap \"\" TERM; sleep 300 & wait' & echo begun; sleep 300"
        )
        pid = machine.begin()
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
        os.kill(psutil.Process(machine.begin()).ppid(), signal.SIGKILL)
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

    @pytest.mark.parametrize("lines", [1, 1000])
    def test_a_reader_that_leaves(self, machine, lines):
        """As in ``... | head -1``: the run goes on, and the exit code is its own."""
        machine.programs(f"echo begun; sleep 1; seq 1 {lines}; exit 3")
        process = machine.start()
        read_until(process.stdout.fileno(), b"begun")
        process.stdout.close()
        assert process.wait(900) == 3 and last_line(machine.log) == "exit code 3"

    def test_nobody_who_reads(self, machine):
        process = machine.start("--background")
        process.stdout.close()
        assert process.wait(900) == 0
        wait_for(lambda: last_line(machine.log) == "exit code 0")


WORKER = """
import os, signal, time
os.write(1, f"begun {os.environ['RANK']}\\n".encode())  # at once: two workers share the line
time.sleep(300)
"""


@pytest.mark.slow
class TestTorchrun:
    """The real one: its workers are sessions of their own, and end however it does."""

    @pytest.fixture
    def workers(self, machine):
        """A run with two workers in the foreground: its process, and the PIDs of the workers."""
        (machine.folder / "worker.py").write_text(WORKER)
        port, script = free_port(), str(machine.folder / "worker.py")
        command = (str(BIN / "torchrun"), "--nproc_per_node", "2", "--master_port", port, script)
        process = machine.start("--port", port, "--device", "cpu", "--gpus", "0,1", "--", *command)
        wait_for(lambda: machine.log.exists() and {"begun 0", "begun 1"} <= set(lines_of(machine.log)))
        leader = int(machine.pid_file.read_text())
        found = [pid for pid in marked(machine.folder) if os.getsid(pid) != leader]
        assert len(found) == 2, "sessions of their own"
        return process, found

    def ended(self, machine, process, workers, code):
        process.communicate(timeout=900)
        assert process.returncode == code and last_line(machine.log) == f"exit code {code}"
        assert not [pid for pid in workers if is_alive(pid)] and not marked(machine.folder)

    @pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
    def test_asked_to_stop(self, machine, workers, number):
        process, pids = workers
        process.send_signal(number)
        self.ended(machine, process, pids, 1)  # what torchrun says after SIGTERM
        assert "launcher: it was asked to stop (SIGTERM)" in lines_of(machine.log)

    def test_killed(self, machine, workers):
        process, pids = workers
        os.kill(int(machine.pid_file.read_text()), signal.SIGKILL)
        self.ended(machine, process, pids, 137)

    def test_a_worker_is_killed(self, machine, workers):
        process, pids = workers
        os.kill(pids[0], signal.SIGKILL)
        self.ended(machine, process, pids, 1)

    def test_the_program_that_follows_is_killed(self, machine, workers):
        """Then it is ``--stop`` that ends the run."""
        process, pids = workers
        process.kill()
        process.communicate(timeout=900)
        assert all(map(is_alive, pids))
        assert ": stopped\n" in machine.run("--stop", str(machine.pid_file))[1]
        assert not [pid for pid in pids if is_alive(pid)]
        wait_for(lambda: last_line(machine.log).startswith("exit code"))


class TestStop:
    def test_one_of_two(self, machine, tmp_path):
        machine.programs(SLEEPS)
        pid = machine.begin()
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

    def test_such_a_number_while_the_run_goes_on(self, machine):
        """The run is stopped all the same, by its mark; the other program is not."""
        machine.programs(SLEEPS)
        pid = machine.begin()
        stranger = subprocess.Popen(["sleep", "300"], start_new_session=True)
        try:
            machine.pid_file.write_text(f"{stranger.pid}\n")
            assert machine.run("--stop", str(machine.pid_file))[1] == f"{machine.pid_file}: stopped\n"
            assert not is_alive(pid) and stranger.poll() is None
        finally:
            stranger.kill()
            stranger.wait()
