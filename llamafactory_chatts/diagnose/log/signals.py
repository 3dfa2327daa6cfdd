"""Processes that were ended by a signal: who may have sent it, and what the log shows of that."""

from .diagnosis import Diagnosis
from .facts import Facts
from .lines import Line


HANGUP, INTERRUPT, ABORT, BUS, KILL, SEGFAULT, TERM = 1, 2, 6, 7, 9, 11, 15
FROM_OUTSIDE = (HANGUP, INTERRUPT, KILL, TERM)
"""Signals that a process gets from others; it says nothing then, and earlier tracebacks of it were survived."""

_FATAL = {SEGFAULT: "SIGSEGV, a segmentation fault", BUS: "SIGBUS", ABORT: "SIGABRT", 4: "SIGILL", 8: "SIGFPE"}


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

    return 256 - code if 192 < code < 255 and 256 - code in (KILL, TERM, SEGFAULT, ABORT, BUS, 2) else 0


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
        rank = facts.root["rank"][1].split()[0] if "rank" in facts.root else "?"
        return signal_of(int(text.split()[0])), line, f"rank {rank}"

    for line, single in facts.codes:
        return signal_of(single), line, "one of the processes"

    if signal_of(code):
        return signal_of(code), facts.code[0] if facts.code else None, "the process"

    if facts.shell is not None:
        return facts.shell[1], facts.shell[0], "the process"

    return 0, None, ""


def explain_signal(facts: Facts, code: int | None) -> Diagnosis | None:
    """Return what a signal says about the end of the run, None when it was not ended by one."""
    number, line, who = ended_by_signal(facts, code)
    if not number:
        return None

    phase = f" {facts.phase}" if facts.phase else ""
    evidence = quote(line) if line is not None else f"exit code {code}"
    peers = ". The other ranks were ended by the launcher after that" if who.startswith("rank") else ""
    if number == KILL:
        return _killed(facts, who, phase, evidence, peers)

    if number == HANGUP:
        return Diagnosis(
            f"{who} got SIGHUP{phase}: the terminal or the ssh connection it was started from was closed",
            evidence,
            "Start it so that it outlives the terminal: a launcher of shell/, or `setsid nohup COMMAND > run.log "
            "2>&1 &`, "
            "or tmux; then resume_from_checkpoint: true",
        )

    if number == TERM:
        return Diagnosis(
            f"{who} got SIGTERM{phase}: something outside the training ended it (a scheduler's time limit, `kill`, a "
            "shutdown, or the launcher of another node)",
            evidence,
            "Look into the scheduler's record (`sacct -j JOB`, `kubectl describe pod`) and the other nodes' "
            "logs; then "
            "resume_from_checkpoint: true" + peers,
        )

    if number == INTERRUPT:
        return interrupted(phase, evidence)

    if number in _FATAL:
        return _crashed(facts, number, who, phase, evidence, peers)

    return Diagnosis(f"{who} was ended by signal {number}{phase}", evidence, "Find out what sent it", "likely")


def out_of_host_memory(facts: Facts) -> Diagnosis:
    """Return that the kernel's out-of-memory killer ended a process, where the log shows that and no exit code."""
    return _killed(facts, "a process", f" {facts.phase}" if facts.phase else "", "", "")


def interrupted(phase: str, evidence: str) -> Diagnosis:
    return Diagnosis(
        f"interrupted by the user (Ctrl-C){phase}",
        evidence,
        "Nothing is broken; go on with resume_from_checkpoint: true if a checkpoint was saved",
    )


def _killed(facts: Facts, who: str, phase: str, evidence: str, peers: str) -> Diagnosis:
    if facts.oom is not None:
        return Diagnosis(
            f"{who} was ended by the kernel's out-of-memory killer{phase}: host memory ran out, not GPU memory",
            quote(facts.oom),
            "Give it more host memory or need less: DeepSpeed's offloading pins up to twice the weights' size "
            "(ds_z3_offload_unpinned.json takes less), QLoRA by llamafactory-cli needs a few GiB; lower "
            "dataloader_num_workers and preprocessing_num_workers; "
            "`lmf-chatts plan RECIPE.yaml` predicts the need" + peers,
        )

    return Diagnosis(
        f"{who} was ended by SIGKILL{phase}; the log does not show who sent it",
        evidence,
        "The kernel's out-of-memory killer is one sender, `kill -9` and a scheduler's limit are others. Evidence: "
        "`dmesg -T | grep -iE 'oom|killed process'`, `cat /sys/fs/cgroup/memory.events` (oom_kill above 0), `sacct -j "
        "JOB`. If it was memory: `lmf-chatts plan RECIPE.yaml` predicts the host memory this launcher needs" + peers,
        "likely",
    )


def _crashed(facts: Facts, number: int, who: str, phase: str, evidence: str, peers: str) -> Diagnosis:
    if facts.finished:
        return Diagnosis(
            f"{who} crashed ({_FATAL[number]}) while Python shut down; the training had ended and was saved before",
            evidence,
            "The results are complete: check that output_dir holds the weights; no need to train again",
            "likely",
        )

    if number == BUS:
        return Diagnosis(
            f"{who} crashed with SIGBUS{phase}: a mapped file or shared memory could not be read or written",
            evidence,
            "`df -h /dev/shm` and the disk of model and cache show whether one is full; in a container --shm-size=16g"
            + peers,
            "likely",
        )

    return Diagnosis(
        f"{who} crashed inside compiled code ({_FATAL[number]}){phase}; the log does not say where",
        evidence,
        "Run again with PYTHONFAULTHANDLER=1, which prints the Python lines; packages built for another torch are the "
        "usual reason: `lmf-chatts doctor`" + peers,
        "likely",
    )
