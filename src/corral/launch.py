"""Where every program starts: the name it was called by says which one it is.

`corral` and `lxc` are the command line; `corrald` and `lxd` are the daemon, whose sub-commands (waitready, init, ...)
are clients of a running one; `fuidshift` changes owners on a disk. Only what the chosen program needs is imported: the
user waits for this.
"""

from __future__ import annotations

import os
import sys


def main() -> int:
    """Run the program that `sys.argv[0]` names and return its exit status.

    The command line does not return: it leaves at once, since taking an interpreter down takes time too.
    """
    name = sys.argv[0].rpartition("/")[2]
    if name == "fuidshift":
        from corral.helper.fuidshift import main as shift

        return shift(sys.argv)
    if name not in ("corrald", "lxd"):
        from corral.cli.main import main as command_line

        _leave(command_line(sys.argv))
    from corral.cli.daemon.main import main as daemon_commands

    status = daemon_commands(sys.argv)
    if status is not None:
        return status
    from corral.server.main import main as daemon

    return daemon(sys.argv)


def _leave(status: int) -> None:
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    except OSError:
        status = status or 1  # Whoever was to read it is gone.
    os._exit(status)
