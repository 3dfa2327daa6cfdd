"""What the start-up file (``*.pth``) imports in every Python process.

It only puts one finder in front of the import system, which waits for ``llamafactory`` and then arms the
table of :mod:`llamafactory_chatts.register`. Nothing else is imported until then.
"""

import os
import sys


class _HostWaiter:
    """Arms the table the first time ``llamafactory`` is looked for; finds nothing itself."""

    def find_spec(self, name, path=None, target=None):
        if name == "llamafactory" and not switched_off():
            from . import register

            register.arm()
            sys.meta_path.remove(self)  # only now: after a failure the next import fails again

        return None


def switched_off() -> bool:
    """Tell whether ``LLAMAFACTORY_CHATTS`` says 0."""
    return os.environ.get("LLAMAFACTORY_CHATTS", "1").strip().lower() in ("0", "false", "off", "no")


if not switched_off() and "llamafactory" not in sys.modules:
    sys.meta_path.insert(0, _HostWaiter())
