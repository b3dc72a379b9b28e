"""Where every program starts: the name it was called by says which one it is.

`corral` and `lxc` are the command line; `corrald` and `lxd` are the daemon, whose sub-commands (waitready, init, ...)
are clients of a running one. Only what the chosen program needs is imported: the user waits for this.
"""

import os
import sys


def main() -> int:
    """Run the program that `sys.argv[0]` names and return its exit status."""
    program = os.path.basename(sys.argv[0])
    if program not in ("corrald", "lxd"):
        from corral.cli.main import main as command_line

        return command_line(sys.argv[1:])
    from corral.cli.daemon.main import main as daemon_commands

    status = daemon_commands(sys.argv[1:])
    if status is not None:
        return status
    from corral.server.main import main as daemon

    return daemon(sys.argv)
