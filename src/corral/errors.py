"""Every exception that a user can see, with its HTTP status.

    CorralError
     +- InvalidRequest 400      +- Conflict 409            +- TooLarge 413
     +- Forbidden 403           |   +- AlreadyExists       +- NotSupported 501
     +- NotFound 404            |   +- Busy                +- Unavailable 503
                                +- PreconditionFailed 412  +- InternalError 500
                                                               +- CommandFailed

The message is the whole story for the user: what happened, to which thing, and what to do. Any other exception
that reaches the edge is a defect of Corral: it is logged with its traceback and the user sees "Internal error".
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence


class CorralError(Exception):
    """An error with a message for the user and the HTTP status that carries it."""

    status = 500

    def __str__(self) -> str:
        return str(self.args[0]) if self.args else self.__class__.__name__


class InvalidRequest(CorralError):
    status = 400


class Forbidden(CorralError):
    status = 403


class NotFound(CorralError):
    status = 404


class Conflict(CorralError):
    status = 409


class AlreadyExists(Conflict):
    pass


class Busy(Conflict):
    """Another operation holds the thing."""


class PreconditionFailed(CorralError):
    status = 412


class TooLarge(CorralError):
    status = 413


class NotSupported(CorralError):
    """The server, its kernel or its drivers cannot do this."""

    status = 501


class Unavailable(CorralError):
    status = 503


class OutOfSpace(CorralError):
    """A pool, or the disk below it, is full."""

    status = 500


class InternalError(CorralError):
    status = 500


class CommandFailed(InternalError):
    """A program exited with a failure, was killed by its deadline, or could not be started.

    `exit_code` is negative for a signal and None where the program did not run or did not end in time.
    """

    def __init__(self, argv: Sequence[str], exit_code: int | None, stderr: str, reason: str = "") -> None:
        self.argv = tuple(argv)
        self.exit_code = exit_code
        self.stderr = stderr
        outcome = reason or (f"exit status {exit_code}" if exit_code is not None else "did not run")
        detail = f" ({stderr.strip()})" if stderr.strip() else ""
        super().__init__(f"Failed to run: {' '.join(argv)}: {outcome}{detail}")
