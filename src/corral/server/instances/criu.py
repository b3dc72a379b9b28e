"""Whether CRIU can save and restore the state of running containers here: asked once, when somebody wants it."""

from dataclasses import dataclass

from corral.errors import CommandFailed
from corral.server.context import Context
from corral.server.host.programs import command

_CHECK_TIMEOUT_S = 30.0


@dataclass(slots=True)
class Criu:
    """What `criu check` said; None before it was asked. One part of the daemon."""

    reason: str | None = None


async def why_not(context: Context) -> str:
    """Why the state of a running container cannot be saved on this machine; "" where it can."""
    known = context.parts[Criu]
    if known.reason is None:
        known.reason = await _check()
    return known.reason


async def _check() -> str:
    try:
        await command.run(["criu", "check"], timeout_s=_CHECK_TIMEOUT_S)
    except CommandFailed as error:
        if error.exit_code is None and not error.stderr:
            return "CRIU is not installed or does not answer on this server"
        return f"CRIU does not work on this server's kernel: {explain(error.stderr)}"
    return ""


def explain(stderr: str) -> str:
    """The first error of CRIU's output, without its time and place. Pure."""
    for line in stderr.splitlines():
        text = line.strip()
        if "Error" in text:
            return text.partition("): ")[2].strip() or text
    lines = [line.strip() for line in stderr.splitlines() if line.strip()]
    return lines[0] if lines else "criu check failed"
