"""Writing to standard output and error as bytes, whatever the locale."""

from __future__ import annotations

import sys


def write(text: str) -> None:
    """Text to standard output."""
    sys.stdout.buffer.write(text.encode("utf-8", "surrogateescape"))


def write_bytes(data: bytes) -> None:
    """Bytes to standard output."""
    sys.stdout.buffer.write(data)


def line(text: str = "") -> None:
    """A line to standard output."""
    write(text + "\n")


def warn(text: str) -> None:
    """A line to standard error, after what standard output still holds."""
    sys.stdout.flush()
    sys.stderr.buffer.write((text + "\n").encode("utf-8", "surrogateescape"))
    sys.stderr.flush()


def flush() -> None:
    """Hand everything over."""
    sys.stdout.flush()
