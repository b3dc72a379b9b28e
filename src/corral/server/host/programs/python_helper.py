"""Runs the short programs of corral.helper with an interpreter that sees nothing of the caller's environment."""

import sys
from pathlib import Path

import corral
from corral.server.host.programs import command
from corral.server.host.programs.command import Completed

_ENVIRONMENT = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C.UTF-8"}


async def run(
    module: str, request: str, *, stdin: int | None = None, stdout: int | None = None, timeout_s: float
) -> Completed:
    """Run `corral.helper.MODULE REQUEST`; descriptors and errors as `command.run` has them."""
    root = str(Path(str(corral.__file__)).parent.parent)
    return await command.run(
        [sys.executable, "-s", "-S", "-P", "-m", f"corral.helper.{module}", request],
        stdin=stdin,
        stdout=stdout,
        env={"PYTHONPATH": root, **_ENVIRONMENT},
        timeout_s=timeout_s,
    )
