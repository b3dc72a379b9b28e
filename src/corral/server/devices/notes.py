"""Notes in an instance's devices directory: what is about to be done, for the next daemon if this one dies over it.

They concern only what dies with the host, so they need not outlast that. All of this sleeps: call it in a thread.
"""

import contextlib
from pathlib import Path


def write(file: Path, text: str) -> None:
    """Write a note, whole or not at all; the directory is made where it is missing."""
    file.parent.mkdir(mode=0o711, parents=True, exist_ok=True)
    new = _being_made(file)
    new.touch(0o600)
    new.write_text(text)
    new.replace(file)


def remove(file: Path) -> None:
    """Remove a note, also one that was only being made, and the directory where it was the last in it. Repeatable."""
    for path in (_being_made(file), file):
        path.unlink(missing_ok=True)
    with contextlib.suppress(OSError):
        file.parent.rmdir()


def _being_made(file: Path) -> Path:
    # Begins as no note does: the names of devices, which end them, may be anything.
    return file.with_name(f".{file.name}.new")
