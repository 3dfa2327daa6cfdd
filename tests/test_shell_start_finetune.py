"""start_finetune.sh: disjoint GPUs or nothing, each job by its own PID file, never by name."""

import os
import signal
import subprocess

import pytest
from shell_runs import ROOT, Machine, end_all, is_alive, last_line, lines_of, marked, wait_for, write_program


SCRIPT = "start_finetune.sh"
TWO = "a | 0   | lora_rank=8\nb | 1,2 | lora_rank=16 learning_rate=5.0e-5\n"
SLEEPS = 'echo "begun: $*"; exec sleep 300'


@pytest.fixture
def machine(tmp_path):
    machine = Machine(tmp_path)
    machine.programs(SLEEPS)
    yield machine
    end_all(tmp_path)


def logs(machine):
    """Return name -> log of the jobs that were started."""
    return {path.parent.name: path for path in (machine.folder / "jobs").glob("*/*.log")}


def pid_of(machine, name):
    return int((machine.folder / "jobs" / f"{name}.pid").read_text())


def start(machine, jobs=TWO, *words, **variables):
    code, printed = machine.run(SCRIPT, *words, JOBS=jobs, **variables)
    assert code == 0, printed
    wait_for(lambda: all("begun" in path.read_text() for path in logs(machine).values()))
    return printed


def status(machine):
    """Return name -> (GPUs, PID, state)."""
    code, printed = machine.run(SCRIPT, "status")
    assert code == 0
    rows = [line.split() for line in printed.splitlines()[1:]]
    return {row[0]: (row[1], row[2], " ".join(row[3:-1])) for row in rows}


class TestStart:
    def test_two_jobs_from_one_recipe(self, machine):
        printed = start(machine)
        pids = {name: pid_of(machine, name) for name in "ab"}
        for name, path in logs(machine).items():
            assert str(path) in printed and str(pids[name]) in printed and is_alive(pids[name])

        (first, second) = (lines_of(logs(machine)[name]) for name in "ab")
        assert "CUDA_VISIBLE_DEVICES=0 " in first[0] and first[0].endswith(" lora_rank=8")
        assert "CUDA_VISIBLE_DEVICES=1,2 " in second[0] and second[0].endswith(" lora_rank=16 learning_rate=5.0e-5")
        assert all("examples/train_chatts_8b_qlora.yaml" in line for line in (first[0], second[0]))
        assert "MASTER_PORT=29600 " in first[0] and "MASTER_PORT=29601 " in second[0]
        assert status(machine) == {
            "a": ("0", str(pids["a"]), "running"),
            "b": ("1,2", str(pids["b"]), "running"),
        }

    def test_any_launcher_and_the_common_variables(self, machine):
        start(machine, "c | 1,3 |", LAUNCHER="shell/train_chatts_8b_fast.sh", MODEL="m", EXTRA="seed=1")
        command = lines_of(logs(machine)["c"])[0]
        assert "deepspeed --include localhost:1,3 " in command and "model_name_or_path=m" in command
        assert command.endswith("seed=1")

    def test_jobs_from_a_file_and_by_name(self, machine):
        (machine.folder / "jobs.txt").write_text("# the jobs\n\n" + TWO)
        start(machine, "", "start", "b", JOBS_FILE=str(machine.folder / "jobs.txt"))
        assert set(logs(machine)) == {"b"}

    def test_dry_run(self, machine):
        code, printed = machine.run(SCRIPT, JOBS=TWO, DRY_RUN="1")
        assert code == 0 and printed.count("llamafactory-cli train") == 2
        assert not logs(machine) and not marked(machine.folder)

    def test_the_environment_is_activated(self, machine):
        venv = machine.folder / "venv"
        (venv / "bin").mkdir(parents=True)
        (venv / "bin" / "activate").write_text(f"PATH={venv}/bin:$PATH\n")
        write_program(venv / "bin", "llamafactory-cli", "echo begun in the environment; exec sleep 300")
        start(machine, "a | 0 |", VENV=str(venv))
        assert "begun in the environment" in lines_of(logs(machine)["a"])

    def test_conda(self, machine):
        write_program(machine.bin, "conda", "cat <<'END'\nconda() { echo \"conda $*\"; }\nEND")
        assert "conda activate ts" in start(machine, "a | 0 |", CONDA_ENV="ts")

    def test_no_conda(self, machine):
        write_program(machine.bin, "conda", "exit 1")
        code, printed = machine.run(SCRIPT, CONDA_ENV="ts")
        assert code == 2 and "CONDA_ENV=ts is not there" in printed and not logs(machine)

    def test_from_another_folder(self, machine):
        """lmf-chatts jobs itself; the launcher's relative paths are those of its repository."""
        words = ("--folder", "jobs", "--launcher", f"{ROOT}/shell/train_chatts_8b_qlora.sh", "--jobs", "a | 0 |")
        code, printed = machine.run("lmf-chatts", "jobs", *words)
        assert code == 0, printed
        wait_for(lambda: "a" in logs(machine) and "begun" in logs(machine)["a"].read_text())
        assert is_alive(pid_of(machine, "a"))

    def test_a_job_that_is_refused_does_not_keep_the_others(self, machine, tiny_base):
        variables = {"DEVICE": "cpu", "SLOTS": "2", "MODEL": str(tiny_base), "PREFLIGHT": "1"}
        code, printed = machine.run(SCRIPT, JOBS="a | 0 | lora_rnk=1\nb | 1 |\n", **variables)
        assert code == 2 and "lora_rnk" in printed and "preflight" in printed
        wait_for(lambda: "b" in logs(machine))
        assert "a" not in logs(machine) and is_alive(pid_of(machine, "b"))


class TestRefuses:
    def refused(self, machine, jobs, *words, **variables):
        before = set(logs(machine))
        code, printed = machine.run(SCRIPT, *words, JOBS=jobs, **variables)
        assert code == 2, printed
        assert set(logs(machine)) == before, "nothing was started"
        return printed

    def test_two_jobs_on_one_gpu(self, machine):
        assert "b and a would share GPU 1" in self.refused(machine, "a | 0,1 |\nb | 1,2 |")

    def test_one_job_twice_on_a_gpu(self, machine):
        assert "would share GPU 1" in self.refused(machine, "a | 1,1 |")

    def test_a_gpu_that_is_not_there(self, machine):
        printed = self.refused(machine, "a | 0 |\nb | 4 |")
        assert "b: there is no GPU 4" in printed and "0 1 2 3" in printed

    def test_no_driver(self, machine):
        machine.cards = []
        assert "no GPU is found" in self.refused(machine, TWO)

    def test_slots_without_gpus(self, machine):
        assert "there is no GPU 2" in self.refused(machine, "a | 2 |", DEVICE="cpu", SLOTS="2")
        start(machine, "a | 1 |", DEVICE="cpu", SLOTS="2")
        assert "use_cpu=true" in lines_of(logs(machine)["a"])[0]

    def test_a_gpu_of_a_job_that_runs(self, machine):
        start(machine)
        assert "c and b (running) would share GPU 2" in self.refused(machine, "c | 2,3 |")
        assert "a runs already" in self.refused(machine, "a | 3 |")

    def test_a_job_that_ended_keeps_no_gpu(self, machine):
        start(machine)
        os.kill(pid_of(machine, "a"), signal.SIGKILL)
        wait_for(lambda: last_line(logs(machine)["a"]) == "exit code 137")
        machine.run(SCRIPT, JOBS="c | 0 |")
        assert wait_for(lambda: "c" in logs(machine))

    @pytest.mark.parametrize(
        "jobs, words",
        [
            ("a 0 lora_rank=8", "a | 0,1 | lora_rank=8"),
            ("a | x |", "line 1"),
            ("a/b | 0 |", "line 1"),
            ("\na | 0 | lora_rank 8", "line 2: 'lora_rank' is no setting"),
            ("a | 0 |\na | 1 |", "two jobs a"),
            ("# none", "there is no job"),
        ],
    )
    def test_lines_that_cannot_be_read(self, machine, jobs, words):
        assert words in self.refused(machine, jobs)

    def test_names_and_files_that_are_not_there(self, machine):
        assert "there is no job z" in self.refused(machine, TWO, "start", "z")
        assert "none.txt is not there" in self.refused(machine, TWO, JOBS_FILE="none.txt")
        assert "cannot be run" in self.refused(machine, TWO, LAUNCHER="shell/none.sh")
        assert "VENV=none is no virtual environment" in self.refused(machine, TWO, VENV="none")
        assert "no command restart" in self.refused(machine, TWO, "restart")
        assert "no job z was started" in self.refused(machine, TWO, "stop", "z")


class TestStop:
    def test_one_job_without_harm_to_the_other(self, machine):
        start(machine)
        other = pid_of(machine, "b")
        code, printed = machine.run(SCRIPT, "stop", "a")
        assert code == 0 and "a: stopped" in printed
        wait_for(lambda: last_line(logs(machine)["a"]) == "exit code 143")
        assert is_alive(other)
        assert status(machine) == {"a": ("0", "-", "exit code 143"), "b": ("1,2", str(other), "running")}

    def test_all(self, machine):
        start(machine)
        code, printed = machine.run(SCRIPT, "stop")
        assert code == 0 and "a: stopped" in printed and "b: stopped" in printed
        wait_for(lambda: not marked(machine.folder))
        assert "a: not running" in machine.run(SCRIPT, "stop")[1]

    def test_a_number_that_another_program_has_by_now(self, machine):
        """The PID file of a job whose launcher was killed; the system gave its number away."""
        start(machine, "a | 0 |")
        machine.run(SCRIPT, "stop")
        stranger = subprocess.Popen(["sleep", "300"], start_new_session=True)
        try:
            (machine.folder / "jobs" / "a.pid").write_text(f"{stranger.pid}\n")
            assert status(machine)["a"][1:] == ("-", "exit code 143")
            assert "a: not running" in machine.run(SCRIPT, "stop", "a")[1]
            assert stranger.poll() is None
        finally:
            stranger.kill()
            stranger.wait()

    def test_a_job_that_does_not_listen(self, machine):
        machine.programs("trap '' TERM; echo begun; while :; do sleep 0.2; done")
        start(machine, "a | 0 |")
        code, printed = machine.run(SCRIPT, "stop", "a", STOP_SECONDS="1")
        assert code == 0 and "a: stopped, killed after 1 s" in printed
        wait_for(lambda: last_line(logs(machine)["a"]) == "exit code 137")

    def test_a_job_without_a_supervisor(self, machine):
        """Everything but the training was killed: the PID file is enough."""
        start(machine, "a | 0 |")
        pid = pid_of(machine, "a")
        parent = int(open(f"/proc/{pid}/stat").read().rsplit(")", 1)[1].split()[1])
        os.kill(parent, signal.SIGKILL)
        assert status(machine)["a"][2] == "running"
        assert "a: stopped" in machine.run(SCRIPT, "stop", "a")[1]
        assert not is_alive(pid) and status(machine)["a"][2] == "no exit code"
