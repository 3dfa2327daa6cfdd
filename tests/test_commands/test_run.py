"""``lmf-chatts run`` with stand-ins for the training: log, exit code, PID file, refusals, two commands."""

import os
import socket
import subprocess
import sys
import time

import pytest
from shell_runs import ROOT, TRAIN, Runs, end_all, is_alive, last_line, lines_of, read_until, wait_for

from llamafactory_chatts.cli import main


SLEEPS = "echo begun; exec sleep 300"


@pytest.fixture
def machine(tmp_path):
    yield Runs(tmp_path)
    end_all(tmp_path)


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
        machine.begin()
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


class TestRefuses:
    def refused(self, machine, *options, **variables):
        code, printed = machine.run(*options, **variables)
        assert code == 2 and printed.count("\n") == 1, printed
        assert not machine.log.exists() and not machine.pid_file.exists(), "nothing was started"
        return printed

    def test_an_absent_gpu(self, machine):
        assert "there is no GPU 7. Set GPUS to some of: 0 1 2 3" in self.refused(machine, "--gpus", "0,7")

    def test_no_gpu(self, machine):
        machine.cards = []
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
        assert "cannot be written" in self.refused(machine, "--log", f"{machine.bin}/torchrun/x.log")

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
        pid = machine.begin()
        code, printed = machine.run()
        assert code == 2 and "under way" in printed
        assert is_alive(pid) and int(machine.pid_file.read_text()) == pid

    def test_two_starts_at_once(self, machine):
        """Each looks for the other once more when nothing but the start is left to do."""
        machine.programs(SLEEPS)
        both = [machine.start("--background") for _ in range(2)]
        printed = [process.communicate(timeout=900)[0] for process in both]
        assert sorted(process.returncode for process in both) == [0, 2], printed
        assert "under way" in "".join(printed)
        wait_for(lambda: "begun" in machine.log.read_text())
        assert lines_of(machine.log).count("begun") == 1

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


def test_the_log_stands_beside_the_output_folder(machine, tmp_path):
    recipe = tmp_path / "r.yaml"
    recipe.write_text(f"output_dir: {tmp_path}/saves/from the recipe\n")
    words = [*machine.words("--background"), f"output_dir={tmp_path}/saves/named/"]
    for words in (["llamafactory-cli", "train", str(recipe)], [*TRAIN[1:], f"output_dir={tmp_path}/saves/named/"]):
        assert super(Runs, machine).start("lmf-chatts", "run", "--", *words).wait(900) == 0

    assert {path.name for path in (tmp_path / "saves").glob("[!.]*")} == {"from the recipe.log", "named.log"}


def test_it_imports_nothing_heavy(machine):
    code = "import sys; from llamafactory_chatts.cli import main; main(sys.argv[1:]); print('loaded', *sys.modules)"
    command = [sys.executable, "-c", code, *machine.words("--", "true")]
    done = subprocess.run(command, env=machine.environment(), capture_output=True, text=True, timeout=900)
    assert lines_of(machine.log)[-1] == "exit code 0", done.stderr
    loaded = {name.split(".")[0] for name in done.stdout.split("loaded ")[1].split()}
    assert "psutil" in loaded
    assert not loaded & {"torch", "transformers", "llamafactory", "datasets", "pandas", "numpy", "yaml", "omegaconf"}
