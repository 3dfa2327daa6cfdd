"""How tracebacks reach a log: without head, boxed, from notebooks, prefixed, interleaved, shortened, on Windows."""

import pytest

from llamafactory_chatts.diagnose.log.diagnose import diagnose_log
from llamafactory_chatts.diagnose.log.lines import clean
from llamafactory_chatts.diagnose.log.reading import read
from llamafactory_chatts.diagnose.log.traces import Frame


SITE = "/home/user/env/lib/python3.11/site-packages"
FRAMES = f'''  File "/home/user/run/train.py", line 7, in <module>
    main()
  File "{SITE}/transformers/trainer.py", line 2206, in train
    return inner_training_loop(
           ^^^^^^^^^^^^^^^^^^^^
'''
ODD = "FluxError: the flux is reversed"
KNOWN = "ValueError: File /x/a.jsonl not found."
PLAIN = f"Traceback (most recent call last):\n{FRAMES}{KNOWN}\n"
RICH = """╭───────────────────── Traceback (most recent call last) ──────────────────────╮
│ /home/user/run/train.py:7 in main                                            │
│                                                                              │
│     4 def main():                                                            │
│ ❱   7     trainer.train()                                                    │
│                                                                              │
│ /home/user/env/lib/python3.11/site-packages/transfor │
│ mers/trainer.py:2206 in train                                                │
│ ❱ 2206         return inner_training_loop(                                   │
╰──────────────────────────────────────────────────────────────────────────────╯
ValueError: File /x/a.jsonl not found.
"""
NOTEBOOK = f"""---------------------------------------------------------------------------
ValueError                                Traceback (most recent call last)
Cell In[5], line 3
      1 from llamafactory.train.tuner import run_exp
----> 3 run_exp(dict(stage="sft"))

File ~/run/helpers.py:40, in start(args, callbacks)
     38     config = dict(args)
---> 40     return run(config)

File {SITE}/llamafactory/data/loader.py:82, in _load_single_dataset(dataset_attr)
     80         data_path = local
---> 82     raise ValueError("File not found.")

ValueError: File /x/a.jsonl not found.
"""
OLD_NOTEBOOK = f"""ValueError                                Traceback (most recent call last)
<ipython-input-5-7aa3c1> in <module>
----> 1 run_exp()

{SITE}/llamafactory/data/loader.py in _load_single_dataset(dataset_attr)
     81
---> 82     raise ValueError("File not found.")

ValueError: File /x/a.jsonl not found.
"""
WINDOWS = """Traceback (most recent call last):
  File "C:\\Users\\user\\run\\train.py", line 7, in <module>
    main()
  File "C:\\envs\\x\\Lib\\site-packages\\llamafactory\\data\\loader.py", line 82, in _load_single_dataset
    raise ValueError(
ValueError: File /x/a.jsonl not found.
"""


def prefixed(text: str, prefix: str) -> str:
    return "".join(f"{prefix}{line}\n" for line in text.splitlines())


def interleaved(*texts: str) -> str:
    """Return the lines of several texts in turns, as processes write them into one file."""
    lines = [text.splitlines() for text in texts]
    longest = max(map(len, lines))
    return "".join(f"{part[n]}\n" for n in range(longest) for part in lines if n < len(part))


FORMS = {
    "plain": PLAIN,
    "without head": PLAIN.split("\n", 1)[1],
    "last line only": KNOWN + "\n",
    "last frames only": "\n".join(PLAIN.splitlines()[3:]) + "\n",
    "rich": RICH,
    "notebook": NOTEBOOK,
    "older notebook": OLD_NOTEBOOK,
    "windows": WINDOWS,
    "windows line ends": PLAIN.replace("\n", "\r\n"),
    "[rank0]": prefixed(PLAIN, "[rank0]: "),
    "[default1]": prefixed(PLAIN, "[default1]:"),
    "ray": prefixed(PLAIN, "(RayTrainWorker pid=4711, ip=10.0.0.7) "),
    "mpirun": prefixed(PLAIN, "[1,0]<stderr>:"),
    "pdsh": prefixed(PLAIN, "worker-3: "),
    "addresses": prefixed(PLAIN, "10.0.0.7: "),
    "compose": prefixed(PLAIN, "trainer-1  | "),
    "srun": prefixed(PLAIN, "0: "),
    "pod and rank": prefixed(PLAIN, "[pod/train-0/main] [rank2]: "),
    "time and rank": prefixed(PLAIN, "2025-06-01T10:00:00.123456Z [rank2]: "),
    "clock": prefixed(PLAIN, "[10:22:33] "),
    "slashes": prefixed(PLAIN, "2025/06/01 10:00:00 "),
    "logger": "ERROR:root:training failed\n" + PLAIN,
    "own prefix on every line": prefixed(PLAIN, "train.log> "),
    "indented": prefixed(PLAIN, "      "),
    "shortened": PLAIN.replace('  File "/home/user/env', '...\n[... 12 lines omitted ...]\n  File "/home/user/env'),
    "shortened by words": PLAIN.replace(
        "    main()\n", "    main()\n  [Previous line repeated 3 more times]\n(omitted)\n"
    ),
    "two ranks in turns": interleaved(PLAIN, PLAIN),
    "a bar inside": PLAIN.replace("    main()\n", "    main()\n  3%|x   | 12/400 [00:40<21:40,  3.35s/it]\n"),
    "data loader": (
        "Traceback (most recent call last):\n"
        + FRAMES
        + "ValueError: Caught ValueError in DataLoader worker process 0.\n"
        "Original Traceback (most recent call last):\n" + FRAMES + KNOWN + "\n"
    ),
    "group": prefixed(PLAIN, "  | "),
}


@pytest.fixture
def write(tmp_path):
    def run(text: str):
        path = tmp_path / "run.log"
        path.write_bytes(text.encode())
        return path

    return run


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("end", ["", "exit code 1\n"])
def test_the_cause_is_found_in_every_form(write, form, end):
    found = diagnose_log(write("some line\n" + FORMS[form] + end))
    assert found and "/x/a.jsonl is not there" in found[0].cause, found


@pytest.mark.parametrize(
    ("form", "last"),
    [
        ("rich", Frame(f"{SITE}/transformers/trainer.py", "2206", "train")),
        ("notebook", Frame(f"{SITE}/llamafactory/data/loader.py", "82", "_load_single_dataset")),
        ("older notebook", Frame(f"{SITE}/llamafactory/data/loader.py", "", "_load_single_dataset")),
        (
            "windows",
            Frame("C:\\envs\\x\\Lib\\site-packages\\llamafactory\\data\\loader.py", "82", "_load_single_dataset"),
        ),
        ("without head", Frame(f"{SITE}/transformers/trainer.py", "2206", "train")),
        ("pod and rank", Frame(f"{SITE}/transformers/trainer.py", "2206", "train")),
    ],
)
def test_the_innermost_frame_is_read(write, form, last):
    assert read(write(FORMS[form])).traces.all()[-1].frames[-1] == last


@pytest.mark.parametrize(
    "text",
    [
        "0 errors: none",
        "gpu: NVIDIA",
        "12345: number",
        "host: a",
        "master: b",
        "time: 12:00:00 later",
        "(pid=7)",
        "rank: 0",
    ],
)
def test_what_only_looks_like_a_prefix_stays(text):
    assert clean(text)[0] == text


class TestWhatNoRuleKnows:
    @pytest.fixture
    def unknown(self, write):
        def run(text: str):
            (found,) = diagnose_log(write(text + "exit code 1\n"))
            assert found.cause.startswith("cause not recognised") and found.certainty == "likely"
            return found

        return run

    def test_the_users_innermost_line_the_library_and_its_version(self, unknown):
        found = unknown(f"- Transformers version: 5.5.4\nTraceback (most recent call last):\n{FRAMES}{ODD}\n")
        assert "own code is /home/user/run/train.py:7" in found.fix and "raised in transformers 5.5.4" in found.fix
        assert f"{SITE}/transformers/trainer.py:2206 in train" in found.fix and "FluxError" in found.evidence

    @pytest.mark.parametrize("line", ["transformers==5.5.4", "transformers 5.5.4", "Transformers version: 5.5.4"])
    def test_ways_to_write_a_version(self, write, line):
        assert read(write(f"{line}\n")).facts.versions == {"transformers": "5.5.4"}

    def test_an_error_of_the_users_own_code_is_not_the_librarys(self, unknown):
        own = '  File "/home/user/run/train.py", line 40, in on_step_end\n    raise FluxError\n'
        found = unknown(f"Traceback (most recent call last):\n{FRAMES}{own}{ODD}\n")
        assert "raised in your own code, called by transformers" in found.fix

    @pytest.mark.parametrize(
        ("error", "family"),
        [
            ("FluxError: tokenizer has no vocab for the checkpoint", "the base, its tokenizer or an adapter"),
            ("FluxError: gloo rank 3 left the process group", "several processes"),
            ("FluxError: cudnn kernel of the device", "GPU, driver or CUDA"),
            ("FluxError: column of the dataset has rows of other length", "the dataset"),
        ],
    )
    def test_three_families_are_named_the_likeliest_first(self, unknown, error, family):
        found = unknown(f"Traceback (most recent call last):\n{FRAMES}{error}\n")
        families = found.fix.partition("Most likely: ")[2].split("; ")
        assert len(families) == 3 and families[0].startswith(family)
