"""Every error that this package raises is recognised in a log, however it got there."""

import ast
import multiprocessing
import re
import traceback
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import pytest

import llamafactory_chatts
from llamafactory_chatts import cli
from llamafactory_chatts.core.errors import ChatTSError, Problems
from llamafactory_chatts.diagnose.log.diagnose import diagnose_log
from llamafactory_chatts.host import compat, gate


PACKAGE = Path(llamafactory_chatts.__file__).parent
FILLED = {"what": "a thing of seven parts is broken here", "where": "some/file.jsonl:7", "fix": "Mend the seven parts"}


def filled(node: ast.expr | None, otherwise: str | None) -> str | None:
    """Return the text of an expression in the source, with a word in place of each field."""
    if node is None or isinstance(node, ast.Constant):
        return node.value if node is not None else None

    if isinstance(node, ast.JoinedStr):
        return "".join(part.value if isinstance(part, ast.Constant) else "x7" for part in node.values)

    if isinstance(node, ast.BinOp):
        return f"{filled(node.left, 'x7')}{filled(node.right, 'x7')}"

    return filled(node.body, otherwise) if isinstance(node, ast.IfExp) else otherwise


def raised() -> dict[str, ChatTSError]:
    """Return one error for each place that raises one, under its file and line."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call):
                call = node.exc
                if getattr(call.func, "id", "") == "ChatTSError":
                    given = dict(zip(("what", "where", "fix"), call.args))
                    given |= {item.arg: item.value for item in call.keywords}
                    texts = {key: filled(value, FILLED[key]) for key, value in given.items()}
                    found[f"{path.relative_to(PACKAGE)}:{node.lineno}"] = ChatTSError(**texts)

    return found


ERRORS = raised()


def as_traceback(error: BaseException) -> str:
    try:
        raise error
    except type(error) as err:
        return "".join(traceback.format_exception(err))


@pytest.fixture
def diagnose(tmp_path):
    def run(text: str, exit_code: int | None = None):
        path = tmp_path / "run.log"
        path.write_text(text, encoding="utf-8")
        return diagnose_log(path, exit_code)

    return run


def first_words(error: ChatTSError) -> str:
    return " ".join(error.what.split("\n")[0].split()).partition(". ")[0].rstrip(".:")[:60]


def test_there_are_many():
    assert len(ERRORS) > 200


@pytest.mark.parametrize("place", ERRORS)
class TestEveryError:
    def test_as_a_traceback(self, diagnose, place):
        found = diagnose(as_traceback(ERRORS[place]))
        assert found and first_words(ERRORS[place]) in found[0].cause, found

    def test_as_the_line_that_lmf_chatts_prints(self, diagnose, place):
        found = diagnose(f"$ lmf-chatts do\n{ERRORS[place]}\nexit code 2\n")
        assert found and not found[0].cause.startswith("cause not recognised"), found

    def test_as_the_last_line_that_somebody_copied(self, diagnose, place):
        found = diagnose(f"llamafactory_chatts.core.errors.ChatTSError: {ERRORS[place]}\n")
        assert found and first_words(ERRORS[place]) in found[0].cause, found


def fail() -> None:
    raise ChatTSError("a series holds null at point 512", "plant.jsonl:77", "Every point must be a number")


class TestWorkers:
    def test_pool(self, diagnose):
        with multiprocessing.get_context("fork").Pool(1) as pool, pytest.raises(ChatTSError) as caught:
            pool.apply(fail)

        (found,) = diagnose(as_traceback(caught.value))
        assert found.cause == "plant.jsonl:77: a series holds null at point 512"
        assert found.fix == "Every point must be a number."

    def test_executor(self, diagnose):
        with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("fork")) as pool:
            with pytest.raises(ChatTSError) as caught:
                pool.submit(fail).result()

        assert diagnose(as_traceback(caught.value))[0].cause == "plant.jsonl:77: a series holds null at point 512"

    def test_a_rank_and_the_launcher_around_it(self, diagnose):
        lines = as_traceback(ChatTSError("a is wrong", "b", "Mend it")).splitlines()
        text = "".join(f"[rank0]: {line}\n" for line in lines)
        launcher = (
            "Traceback (most recent call last):\n"
            '  File "/x/site-packages/torch/distributed/launcher/api.py", line 138, in launch_agent\n'
            "torch.distributed.elastic.multiprocessing.errors.ChildFailedError: \n"
            "Root Cause (first observed failure):\n[0]:\n  rank      : 0 (local_rank: 0)\n  exitcode  : 1 (pid: 7)\n"
        )
        assert diagnose(text + launcher + "exit code 1\n")[0].cause == "b: a is wrong"

    def test_raised_from_another_error_and_raised_again(self, diagnose):
        try:
            try:
                raise OSError("odd")
            except OSError as err:
                raise ChatTSError("the label file cannot be used", "a.json", "Mend it") from err
        except ChatTSError as err:
            inner = err

        try:
            raise RuntimeError("map failed") from inner
        except RuntimeError as err:
            text = "".join(traceback.format_exception(err))

        assert diagnose(text)[0].cause == "a.json: the label file cannot be used"


def test_many_rows_at_once(diagnose):
    problems = Problems()
    problems.add("a.jsonl:4", "3 <ts><ts/> but 2 series", "Add a series or remove a placeholder")
    problems.add("a.jsonl:9", "a series is empty", "Give it a point")
    with pytest.raises(ChatTSError) as caught:
        problems.raise_if_any("a.jsonl", 12)

    for text in (as_traceback(caught.value), f"{caught.value}\n"):
        found = diagnose(text)
        assert "2 of 12 rows cannot be used: a.jsonl:4: 3 <ts><ts/> but 2 series" in found[0].cause
        assert "Add a series or remove a placeholder" in found[0].fix


class TestImportErrors:
    @pytest.mark.parametrize("version", ["4.57.1", None])
    def test_versions(self, diagnose, monkeypatch, version):
        def lookup(package):
            if version is None:
                raise gate.metadata.PackageNotFoundError(package)
            return version

        monkeypatch.setattr(gate.metadata, "version", lookup)
        with pytest.raises(ImportError) as caught:
            gate.check_versions()

        (found,) = diagnose(as_traceback(caught.value))
        assert "the plug-in needs llamafactory>=0.9.5" in found.cause and "pip install 'llamafactory" in found.fix

    def test_a_name_that_the_host_has_no_more(self, diagnose):
        with pytest.raises(ImportError) as caught:
            compat.resolve(compat, "NoSuchThing.method")

        assert "NoSuchThing" in diagnose(as_traceback(caught.value))[0].cause

    @pytest.mark.parametrize(
        "text",
        [
            "llamafactory-chatts cannot add llamafactory.data.loader:get_dataset to this LLaMA-Factory: no such thing",
            "llamafactory.data.loader was imported before llamafactory-chatts could add to it. Call "
            "llamafactory_chatts.register.register() first, or leave LLAMAFACTORY_CHATTS unset.",
        ],
    )
    def test_rows_of_the_table(self, diagnose, text):
        source = (PACKAGE / "register.py").read_text(encoding="utf-8")
        assert re.search(r"could add to it\. ", source) and "cannot add {row.target} to this" in source
        (found,) = diagnose(as_traceback(ImportError(text)))
        assert "llamafactory.data.loader" in found.cause and "not recognised" not in found.cause


class TestCommand:
    def test_errors_that_the_command_really_prints(self, diagnose, capsys, tmp_path):
        for arguments in (
            ["doctr"],
            ["doctor", "lora_rank=8"],
            ["doctor", str(tmp_path / "gone.log")],
            ["check", "--dataset-dir", str(tmp_path), "gone"],
            ["plan", str(tmp_path / "gone.yaml")],
        ):
            try:
                code = cli.main(arguments)
            except SystemExit as end:  # argparse's own
                code = end.code

            said = capsys.readouterr().err
            found = diagnose(f"{said}exit code {code}\n")
            assert code == 2 and found and not found[0].cause.startswith("cause not recognised"), (
                arguments,
                said,
                found,
            )

    def test_words_that_argparse_refuses(self, diagnose):
        text = "usage: lmf-chatts plan [-h]\nlmf-chatts plan: error: unrecognized arguments: --vramm 11\n"
        (found,) = diagnose(text + "exit code 2\n")
        assert "--vramm 11" in found.cause and "--help" in found.fix


@pytest.mark.parametrize(
    "line", ["loading file tokenizer.json", "{'loss': '1.2', 'grad_norm': '3'}", "the run was fine. Set nothing.", ""]
)
def test_other_lines_are_no_errors_of_ours(diagnose, line):
    assert diagnose(f"{line}\n") == []
