"""How a helper that outlives the daemon goes on by itself."""

import os


def go_on_alone(log: str) -> None:
    """Leave a child behind that serves, tell its pid and end: who started this process waits only so long.

    What goes wrong from here on is written to `log`.
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
