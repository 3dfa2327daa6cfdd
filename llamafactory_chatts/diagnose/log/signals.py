"""Processes that were ended by a signal: who may have sent it, and what the log shows of that."""

from .facts import Facts
from .lines import Line
from .table import Diagnosis


HANGUP, INTERRUPT, ABORT, BUS, KILL, SEGFAULT, TERM = 1, 2, 6, 7, 9, 11, 15
FROM_OUTSIDE = (HANGUP, INTERRUPT, KILL, TERM)
"""Signals that a process gets from others; it says nothing then, and earlier tracebacks of it were survived."""

_CRASHES = {SEGFAULT: "SIGSEGV, a segmentation fault", BUS: "SIGBUS", ABORT: "SIGABRT", 4: "SIGILL", 8: "SIGFPE"}

# fmt: off
_ENDS = {
    HANGUP: (
        "{who} got SIGHUP{during}: the terminal or the ssh connection it was started from was closed",
        "Start it so that it outlives the terminal: a launcher of shell/, or `setsid nohup COMMAND > run.log 2>&1 &`, "
        "or tmux; then resume_from_checkpoint: true", "certain"),
    TERM: (
        "{who} got SIGTERM{during}: something outside the training ended it (a scheduler's time limit, `kill`, a "
        "shutdown, or the launcher of another node)",
        "Look into the scheduler's record (`sacct -j JOB`, `kubectl describe pod`) and the other nodes' logs; then "
        "resume_from_checkpoint: true{peers}", "certain"),
    INTERRUPT: (
        "interrupted by the user (Ctrl-C){during}",
        "Nothing is broken; go on with resume_from_checkpoint: true if a checkpoint was saved", "certain"),
    KILL: (
        "{who} was ended by SIGKILL{during}; the log does not show who sent it",
        "The kernel's out-of-memory killer is one sender, `kill -9` and a scheduler's limit are others. Evidence: "
        "`dmesg -T | grep -iE 'oom|killed process'`, `cat /sys/fs/cgroup/memory.events` (oom_kill above 0), `sacct -j "
        "JOB`. If it was memory: `lmf-chatts plan RECIPE.yaml` predicts the host memory this launcher needs{peers}",
        "likely"),
    "memory": (
        "{who} was ended by the kernel's out-of-memory killer{during}: host memory ran out, not GPU memory",
        "Give it more host memory or need less: DeepSpeed's offloading pins up to twice the weights' size "
        "(ds_z3_offload_unpinned.json takes less), QLoRA by llamafactory-cli needs a few GiB; lower "
        "dataloader_num_workers and preprocessing_num_workers; `lmf-chatts plan RECIPE.yaml` predicts the need{peers}",
        "certain"),
    "shutdown": (
        "{who} crashed ({signal}) while Python shut down; the training had ended and was saved before",
        "The results are complete: check that output_dir holds the weights; no need to train again", "likely"),
    BUS: (
        "{who} crashed with SIGBUS{during}: a mapped file or shared memory could not be read or written",
        "`df -h /dev/shm` and the disk of model and cache show whether one is full; in a container --shm-size=16g"
        "{peers}", "likely"),
    "crash": (
        "{who} crashed inside compiled code ({signal}){during}; the log does not say where",
        "Run again with PYTHONFAULTHANDLER=1, which prints the Python lines; packages built for another torch are the "
        "usual reason: `lmf-chatts doctor`{peers}", "likely"),
    "other": ("{who} was ended by signal {signal}{during}", "Find out what sent it", "likely"),
}
# fmt: on
"""Signal, or what else tells the kind of end: what happened, what to change, certainty."""


def signal_of(code: int | None) -> int:
    """Return the signal that an exit code stands for, 0 for none.

    Codes come as ``-9`` (Python, torchrun, DeepSpeed), ``137`` (128 + 9, shells) and ``247`` (-9 cut to a byte, what
    some wrappers make of it). 255 is any -1, no signal.
    """
    if code is None:
        return 0

    if -65 < code < 0:
        return -code

    if 128 < code <= 128 + 64:
        return code - 128

    return 256 - code if 192 < code < 255 and 256 - code in (*FROM_OUTSIDE[1:], SEGFAULT, ABORT, BUS) else 0


def quote(line: Line, decisive: int = 0) -> str:
    """Return a line as evidence; a long one whose ``decisive`` part begins late is shown from there on."""
    text = " ".join(line.text.split())
    if len(text) > 240 and decisive > 80:
        text = " ".join(line.text[decisive:].split())

    rank = f"[rank {line.rank}] " if line.rank is not None else ""
    return f"line {line.number}: {rank}{text if len(text) <= 240 else text[:237] + '...'}"


def ended_by_signal(facts: Facts, code: int | None) -> tuple[int, Line | None, str]:
    """Return the signal that ended the run first (0: none), the line that shows it, and which process it was."""
    if facts.agent is not None:
        return facts.agent[1], facts.agent[0], "the launcher"

    if "exitcode" in facts.root:
        line, text = facts.root["exitcode"]
        return signal_of(int(text.split()[0])), line, f"rank {facts.first_rank or '?'}"

    if facts.codes:
        return signal_of(facts.codes[0][1]), facts.codes[0][0], "one of the processes"

    if signal_of(code):
        return signal_of(code), facts.code[0] if facts.code else None, "the process"

    return (facts.shell[1], facts.shell[0], "the process") if facts.shell is not None else (0, None, "")


def explain_signal(facts: Facts, code: int | None) -> Diagnosis | None:
    """Return what a signal says about the end of the run, None when it was not ended by one."""
    number, line, who = ended_by_signal(facts, code)
    if not number:
        return None

    if number == KILL and facts.oom is not None:
        return out_of_host_memory(facts, who)

    kind: int | str = number if number in _ENDS else "other"
    if number in _CRASHES and (facts.finished or number != BUS):
        kind = "shutdown" if facts.finished else "crash"

    return _ended(facts, kind, quote(line) if line else f"exit code {code}", who, _CRASHES.get(number, str(number)))


def out_of_host_memory(facts: Facts, who: str = "a process") -> Diagnosis:
    """Return that the kernel's out-of-memory killer ended a process, as the log shows."""
    return _ended(facts, "memory", quote(facts.oom) if facts.oom else "", who)


def interrupted(facts: Facts, line: Line) -> Diagnosis:
    """Return that the user ended the run with Ctrl-C, as a line shows."""
    return _ended(facts, INTERRUPT, quote(line))


def _ended(facts: Facts, kind: int | str, evidence: str, who: str = "", signal: str = "") -> Diagnosis:
    what, fix, certainty = _ENDS[kind]
    peers = ". The other ranks were ended by the launcher after that" if who.startswith("rank") else ""
    said = what.format(who=who, during=facts.during, signal=signal)
    return Diagnosis(said, evidence, fix.format(peers=peers), certainty)
