"""Sends a tree by rsync, or receives one into a directory beyond which it cannot reach. Standard library only.

The conversation with the other side's rsync goes through standard input and output. The argument is JSON: `direction`,
`path`, `options`. Receiving is confined: what comes may be hostile.
"""

import json
import os
import sys
import threading

from corral.helper import confinement

_SIZE = 1 << 16


def main() -> None:
    """Run what was asked for."""
    if sys.argv[1] == "carry":
        carry(int(sys.argv[2]), int(sys.argv[3]))
        return
    request = json.loads(sys.argv[1])
    if request["direction"] == "send":
        send(request["path"], request["options"])
    else:
        receive(request["path"], request["options"])


def send(path: str, options: list[str]) -> None:
    """Be the sending rsync, whose remote shell is this module again: it carries the bytes to our own descriptors."""
    incoming, outgoing = os.dup(0), os.dup(1)
    os.set_inheritable(incoming, True)
    os.set_inheritable(outgoing, True)
    nothing = os.open("/dev/null", os.O_RDWR)
    os.dup2(nothing, 0)
    os.dup2(nothing, 1)
    words = [sys.executable, "-s", "-S", "-P", "-m", "corral.helper.tree_transfer", "carry", incoming, outgoing]
    shell = " ".join(f"'{word}'" for word in words)
    program = confinement.program("rsync")
    os.execv(program, [program, *options, "-e", shell, f"{path}/", "localhost:/target"])


def carry(incoming: int, outgoing: int) -> None:
    """Carry bytes between the rsync that started us and the descriptors of the one that started it."""
    threading.Thread(target=_copy_and_close, args=(0, outgoing), daemon=True).start()
    _copy(incoming, 1)
    # The other rsync has ended, and ours waits only for the end of its remote shell.
    os._exit(0)


def _copy_and_close(source: int, target: int) -> None:
    _copy(source, target)
    os.close(target)


def _copy(source: int, target: int) -> None:
    # Not by splice: it holds the pipe's lock while it waits for the socket, and its reader waits for ever.
    try:
        while data := os.read(source, _SIZE):
            view = memoryview(data)
            while view:
                view = view[os.write(target, view) :]
    except OSError:
        # One side is gone: the other notices by the end of its stream.
        return


def receive(path: str, options: list[str]) -> None:
    """Be the receiving rsync."""
    program = confinement.program("rsync")
    confinement.confine(path)
    os.execve(program, [program, "--server", *options, ".", "/target/"], {"PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8"})


if __name__ == "__main__":
    main()
