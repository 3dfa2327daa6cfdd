"""What the start-up file (``*.pth``) imports in every Python process.

It only puts one finder in front of the import system, which waits for ``llamafactory`` and then arms the
table of :mod:`llamafactory_chatts.register`. Nothing else is imported until then.
"""

import os
import sys


class _HostWaiter:
    """Arms the table whenever ``llamafactory`` is looked for; finds nothing itself.

    It stays where it is: who takes itself out while Python goes through ``sys.meta_path`` makes it skip the next one.
    """

    def find_spec(self, name, path=None, target=None):
        if name == "llamafactory" and not switched_off():
            from . import register

            register.arm()

        return None


def switched_off() -> bool:
    """Tell whether ``LLAMAFACTORY_CHATTS`` says 0."""
    return os.environ.get("LLAMAFACTORY_CHATTS", "1").strip().lower() in ("0", "false", "off", "no")


def is_waiting() -> bool:
    """Tell whether the finder is in place, also that of an earlier load of this module."""
    return any(type(finder).__name__ == _HostWaiter.__name__ for finder in sys.meta_path)


if not switched_off() and "llamafactory" not in sys.modules and not is_waiting():
    sys.meta_path.insert(0, _HostWaiter())
