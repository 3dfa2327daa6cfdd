"""Whether the installed LLaMA-Factory and transformers are let in: by their versions, else by the names we rely on."""

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import metadata

from ..core.contract import SWITCH
from ..core.installs import SUPPORTED, TESTED, Ruling, ruling
from .compat import PRIVATE_NAMES
from .signatures import parameters


SAID = "LLAMAFACTORY_CHATTS_UNTESTED"
"""Environment variable: the untested versions that were named, so that the processes of one command say it once."""

_MOST_SHOWN = 3


@dataclass(frozen=True)
class Verdict:
    """What is known of one installed package.

    Attributes:
        package: ``llamafactory`` or ``transformers``.
        version: the installed one, None without.
        ruling: ``tested``, ``untested`` (all names are unchanged) or ``unsupported``.
        need: what to install instead, ``package`` with a range; "" unless it is unsupported.
        detail: what was compared, or which names are different, one line; "" where the version decides alone.
    """

    package: str
    version: str | None
    ruling: Ruling
    need: str = ""
    detail: str = ""


def judge(targets: Sequence[str] = ()) -> list[Verdict]:
    """Return a verdict for each package of ``TESTED``. Names are compared only where a version is untested.

    Args:
        targets: ``module:name`` of symbols that must be there, beside those of ``PRIVATE_NAMES``.
    """
    versions = {package: _installed(package) for package in TESTED}
    rulings = {name: ruling(name, version) if version else "unsupported" for name, version in versions.items()}
    changed, count = {}, 0
    if "untested" in rulings.values() and "unsupported" not in rulings.values():
        count = len({*PRIVATE_NAMES, *targets})
        changed = different_names(targets)

    found = []
    for package, version in versions.items():
        said, need, detail = rulings[package], "", ""
        if said == "unsupported":
            need = package + SUPPORTED[package]
        elif said == "untested":
            ours = [line for path, line in changed.items() if path.startswith(f"{package}.") or _alone(rulings, path)]
            detail = f"all {count} names that llamafactory-chatts relies on are unchanged"
            if ours:
                said, need = "unsupported", f"{package}=={TESTED[package]}" + ".*" * (TESTED[package].count(".") < 2)
                more = f" and {len(ours) - _MOST_SHOWN} more" if len(ours) > _MOST_SHOWN else ""
                detail = "; ".join(ours[:_MOST_SHOWN]) + more

        found.append(Verdict(package, version, said, need, detail))

    return found


def _installed(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _alone(rulings: dict[str, Ruling], path: str) -> bool:
    """Tell whether the package of a changed name was tested, so that the only untested one has changed it."""
    package = path.partition(".")[0]
    return rulings.get(package) != "untested" and list(rulings.values()).count("untested") == 1


def different_names(targets: Sequence[str] = ()) -> dict[str, str]:
    """Return ``module:name`` -> what is different, of pinned names and targets in the files to be imported."""
    found = {}
    for path in (*PRIVATE_NAMES, *(target for target in targets if target not in PRIVATE_NAMES)):
        name = path.replace(":", ".")
        try:
            have = parameters(path)
        except (LookupError, OSError, SyntaxError):
            found[path] = f"{name} is missing"
            continue

        pinned = PRIVATE_NAMES.get(path, have)
        if have != pinned:
            found[path] = f"{name} takes ({', '.join(have)}) and not ({', '.join(pinned)})"

    return found


def check_versions(targets: Sequence[str] = ()) -> None:
    """Let the installed versions in, with one line (rank 0) when one of them is untested.

    Args:
        targets: as for :func:`judge`.

    Raises:
        ImportError: a version is not supported, or a name that we rely on is different there.
    """
    verdicts = judge(targets)
    for one in verdicts:
        if one.ruling == "unsupported":
            have = f"{one.version} is installed" if one.version else "is not installed"
            where = f": {one.detail}" if one.detail else ""
            raise ImportError(
                f"llamafactory-chatts needs {one.need}, but {have}{where}. "
                f"Run: pip install '{one.need}'  (or set {SWITCH}=0 to run without ChatTS)"
            )

    untested = [one for one in verdicts if one.ruling == "untested"]
    text = ", ".join(f"{one.package} {one.version}" for one in untested)
    if untested and os.environ.get(SAID) != text:
        os.environ[SAID] = text
        if os.environ.get("RANK", "0") in ("0", "-1"):
            tested = ", ".join(TESTED[one.package] for one in untested)
            line = f"{text} is newer than {tested}, which this was tested with; {untested[0].detail}, so it goes on"
            print(f"ChatTS: warning: {line}", file=sys.stderr, flush=True)
