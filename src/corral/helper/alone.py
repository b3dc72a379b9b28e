"""How a helper that outlives the daemon goes on by itself.

The daemon holds the other end of a pipe, the leash, and lets go of it with a byte once it has noted the helper's pid.
Where the daemon died before, nobody would ever end the helper: it ends itself.
"""

import os
import select


def is_orphan(leash: int) -> bool:
    """Whether the daemon died already; asked before anything is made."""
    poll = select.poll()
    poll.register(leash, select.POLLIN)
    return any(events & select.POLLHUP for _, events in poll.poll(0))


def go_on_alone(log: str, leash: int) -> bool:
    """Leave a child behind that serves, tell its pid and end: who started this process waits only so long.

    What goes wrong from here on is written to `log`. Returns False where nobody knows of the child: it has to clean up
    and to end.
    """
    errors = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    pid = os.fork()
    if pid:
        print(pid, flush=True)
        os._exit(0)
    nothing = os.open("/dev/null", os.O_RDWR)
    os.dup2(nothing, 0)
    os.dup2(nothing, 1)
    os.dup2(errors, 2)
    is_known = os.read(leash, 1) != b""
    os.close(leash)
    return is_known
