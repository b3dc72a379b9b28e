"""Loads the kernel modules that a container wants (`linux.kernel_modules`)."""

import os
from collections.abc import Mapping

from corral.errors import CorralError, InvalidRequest
from corral.server.host.programs import command
from corral.server.host.threads import in_thread

KEY = "linux.kernel_modules"
_TIMEOUT_S = 30.0


async def load(config: Mapping[str, str]) -> None:
    """Load what is not there yet. Raises InvalidRequest that names the module which cannot be."""
    for module in (word.strip() for word in config.get(KEY, "").split(",")):
        if not module or await in_thread(os.path.isdir, f"/sys/module/{module.replace('-', '_')}"):
            continue
        try:
            await command.run(["modprobe", "-b", "--", module], timeout_s=_TIMEOUT_S)
        except CorralError as error:
            raise InvalidRequest(f"Failed to load kernel module '{module}': {error}") from error
