"""Asks liblxc whether it takes the lines of a `raw.lxc`, before a container keeps them."""

import re
import tempfile
from pathlib import Path

from corral.errors import CommandFailed, InvalidRequest
from corral.server.host.programs import command
from corral.server.host.threads import in_thread
from corral.server.instances.container.runtime import program_path, read_reason

KEY = "raw.lxc"
_NAME = "check"
_TIMEOUT_S = 10.0


async def check(text: str) -> None:
    """Raise InvalidRequest that names the line which liblxc does not take."""
    with tempfile.TemporaryDirectory() as directory:
        config, log = Path(directory, _NAME, "config"), Path(directory, "log")
        await in_thread(_write, config, text)
        argv: list[str | Path] = [program_path("lxc-info"), "-n", _NAME, "-P", directory, "-c", "lxc.arch"]
        try:
            await command.run([*argv, "-o", log, "-l", "ERROR"], timeout_s=_TIMEOUT_S)
        except CommandFailed as error:
            reason = format_reason(await in_thread(read_reason, log))
            raise InvalidRequest(f"Failed to load raw.lxc: {reason or error}") from error


def _write(config: Path, text: str) -> None:
    config.parent.mkdir()
    config.write_text(f"{text}\n")


def format_reason(reason: str) -> str:
    """What liblxc said, without the path of a file that is gone. Pure."""
    return re.sub(r'Failed to parse config file "[^"]*" at line', "Failed to parse line", reason)
