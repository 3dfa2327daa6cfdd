"""What doctor says about PyTorch's out-of-memory message, in all its wordings, and about our own error below it."""

import pytest

from llamafactory_chatts.diagnose.log.diagnose import diagnose_log


CARD = "GPU 1 has a total capacity of 23.69 GiB of which 500.00 MiB is free. "
CUDA = "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate {}. "
OWN = "Including non-PyTorch memory, this process has 9.00 GiB memory in use. "
SPARE = "Of the allocated memory 8.00 GiB is allocated by PyTorch, and {} is reserved by PyTorch but unallocated."
START = 'Traceback (most recent call last):\n  File "a.py", line 3, in f\n'
CHAIN = "\n\nThe above exception was the direct cause of the following exception:\n\n"
OURS = "llamafactory_chatts.core.errors.ChatTSError: out of memory: "
ADVICE = "By estimate these would help most now: `use_unsloth_gc: true` about -3.2 GiB; `a: 1, b: 2` about -0.53 GiB."


@pytest.fixture
def diagnose(tmp_path):
    def run(text: str):
        path = tmp_path / "run.log"
        path.write_text(text + "\nexit code 1\n")
        (found,) = diagnose_log(path)
        return found

    return run


def message(asked: str = "1.00 GiB", others: str = "", spare: str = "10.00 MiB") -> str:
    return CUDA.format(asked) + CARD + others + OWN + SPARE.format(spare)


class TestOtherProcesses:
    def test_come_first_when_they_took_the_room(self, diagnose):
        others = "Process 41 has 9.00 GiB memory in use. Process 42 has 300.00 MiB memory in use. "
        found = diagnose(START + message(others=others))
        assert found.cause.endswith("this process held 9.00 GiB, other processes held 9.00 GiB and 300.00 MiB")
        assert found.fix.startswith("Other processes (41, 42) hold memory of this GPU: see `nvidia-smi`")
        assert "end them or choose another GPU" in found.fix and "Otherwise: Halve per_device" in found.fix

    def test_are_only_named_when_ending_them_would_not_do(self, diagnose):
        found = diagnose(START + message(others="Process 41 has 300.00 MiB memory in use. "))
        assert "other processes held 300.00 MiB" in found.cause and found.fix.startswith("Halve per_device")

    def test_a_message_that_is_cut_names_what_it_has(self, diagnose):
        shown = message(others="Process 41 has 300.00 MiB memory in use. ").partition("Process")[0]
        cut = f"{shown.removeprefix('torch.OutOfMemoryError: ')}Process 41 has 300.00 MiB memory in use. Proc..."
        found = diagnose(f"{OURS}no memory is left on the GPU ({cut}). {ADVICE}")
        assert "other processes held at least 300.00 MiB" in found.cause and "this process held" not in found.cause
        assert found.fix.startswith("Other processes (41) hold") and "use_unsloth_gc: true (-3.2 GiB)" in found.fix


class TestOurError:
    """The sentence around PyTorch's message may change; the sizes come from PyTorch, the settings from us."""

    @pytest.mark.parametrize("head", ["no memory is left on the GPU in a pass of 2 rows and 1,500 tokens", "reworded"])
    def test_its_settings_are_the_fix(self, diagnose, head):
        below = f"{OURS}{head} (CUDA out of memory. Tried to allocate 1.00 GiB. GPU 1 has...). {ADVICE}"
        found = diagnose(START + message() + CHAIN + START + below)
        settings = "use_unsloth_gc: true (-3.2 GiB), a: 1, b: 2 (-0.53 GiB)"
        assert found.fix == f"By estimate these settings free the most: {settings}"
        assert ("in a pass of 2 rows and 1,500 tokens" in found.cause) == (head != "reworded")
        assert "500.00 MiB of 23.69 GiB were free, this process held 9.00 GiB" in found.cause
        assert found.evidence.startswith("line 3: torch.OutOfMemoryError: CUDA out of memory. Tried to allocate")

    def test_each_other_process_counts_once(self, diagnose):
        shown = message(others="Process 41 has 9.00 GiB memory in use. ")
        found = diagnose(START + shown + CHAIN + START + f"{OURS}x ({shown}). {ADVICE}")
        assert found.cause.count("9.00 GiB and") == 0 and found.fix.startswith("Process 41 holds memory")
        assert "Otherwise: By estimate" in found.fix

    def test_without_settings_to_name(self, diagnose):
        below = f"{OURS}no memory is left (CUDA out of memory. Tried to allocate 1.00 GiB...). No setting is left"
        assert diagnose(START + message() + CHAIN + START + below).fix.startswith("Halve per_device_train_batch_size")

    def test_other_errors_of_ours_are_passed_on(self, diagnose):
        found = diagnose(START + "core.errors.ChatTSError: template: it reads no series. Set chatts.")
        assert (found.cause, found.fix) == ("template: it reads no series", "Set chatts.")


class TestHoles:
    def test_fragmented(self, diagnose):
        fix = diagnose(START + message(spare="2.00 GiB")).fix
        assert fix.startswith("Memory is fragmented: export PYTORCH_CUDA_ALLOC_CONF=expandable_segments:True. ")

    def test_a_limit_on_a_card_with_room(self, diagnose):
        found = diagnose(START + message("100.00 MiB").replace("Of the", "6.99 GiB allowed; Of the"))
        assert "a limit allows PyTorch 6.99 GiB" in found.cause and "per_process_memory_fraction" in found.fix
        assert "per_process_memory_fraction" not in diagnose(START + message("100.00 MiB")).fix


def test_the_wording_of_older_versions(diagnose):
    sizes = "(GPU 0; 10.76 GiB total capacity; 9.20 GiB already allocated; 13.44 MiB free; 9.5 GiB reserved in total)"
    found = diagnose(f"{START}torch.cuda.OutOfMemoryError: CUDA out of memory. Tried to allocate 20.00 MiB {sizes}")
    sizes = "20.00 MiB were asked for, 13.44 MiB of 10.76 GiB were free, this process held 9.20 GiB"
    assert found.cause == f"GPU 0 is out of memory, {sizes}"


def test_a_message_without_sizes(diagnose):
    found = diagnose(START + "RuntimeError: CUDA error: out of memory")
    assert found.cause == "the GPU is out of memory" and found.fix.startswith("Halve")
