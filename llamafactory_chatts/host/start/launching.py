"""``llamafactory-cli train`` with several processes: the words of its command line stay whole."""

import sys
from types import SimpleNamespace
from typing import Any

from ..compat import patch


def keep_words_whole(launcher: Any, name: str) -> None:
    """Keep words with spaces in one piece.

    The host writes torchrun's command as one text and splits it at spaces, so that the recipe ``my runs/a.yaml``, or
    an installation below such a folder, arrives as two words.
    """

    def build(original: Any) -> Any:
        def launch() -> None:
            real = launcher.subprocess

            def run(command: list[str], *args: Any, **kwargs: Any) -> Any:
                tail = [launcher.__file__, *sys.argv[1:]]
                split = " ".join(tail).split()
                if command[-len(split) :] == split:
                    command = command[: -len(split)] + tail

                return real.run(command, *args, **kwargs)

            launcher.subprocess = SimpleNamespace(run=run)
            try:
                original()
            finally:
                launcher.subprocess = real

        return launch

    patch(launcher, name, build)
