"""Asks liblxc whether it takes the lines of a `raw.lxc`, before a container keeps them."""

import tempfile
from pathlib import Path

from corral.errors import CommandFailed, InvalidRequest
from corral.server.host.programs import command
from corral.server.host.threads import in_thread
from corral.server.instances.container.runtime import program_path

KEY = "raw.lxc"
_NAME = "check"
_TIMEOUT_S = 10.0


async def check(text: str) -> None:
    """Raise InvalidRequest that names the line which liblxc does not take."""
    with tempfile.TemporaryDirectory() as directory:
        config = Path(directory, _NAME, "config")
        await in_thread(_write, config, text)
        argv: list[str | Path] = [program_path("lxc-info"), "-n", _NAME, "-P", directory, "-c", "lxc.arch"]
        try:
            await command.run(argv, timeout_s=_TIMEOUT_S)
        except CommandFailed as error:
            raise InvalidRequest(f"Failed to load raw.lxc: {find_reason(error.stderr) or error}") from error


def _write(config: Path, text: str) -> None:
    config.parent.mkdir()
    config.write_text(f"{text}\n")


def find_reason(output: str) -> str:
    """What liblxc says of the first line that it does not take. Pure."""
    reasons = [line.split(": ", 4)[-1] for line in output.splitlines() if ".c: " in line]
    return "; ".join(reason for reason in reasons if "Failed to parse config file" not in reason) or next(
        (f"at line {reason.partition(' at line ')[2]}" for reason in reasons), ""
    )
