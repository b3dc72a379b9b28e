"""TPM devices: need the kernel's virtual TPM proxy and the program swtpm; where they lack the start says so."""

import shutil
from collections.abc import Mapping
from pathlib import Path

from corral.errors import InvalidRequest, NotSupported
from corral.server.devices.model import Attachment, DeviceContext, anything, check_keys

_CHECKS = {"path": anything, "pathrm": anything}


class Tpm:
    """A virtual TPM."""

    live_keys = frozenset[str]()

    def validate(self, config: Mapping[str, str], others: Mapping[str, Mapping[str, str]]) -> None:
        try:
            check_keys(config, _CHECKS, ("path", "pathrm"))
        except InvalidRequest as error:
            raise InvalidRequest(f"Failed to validate config: {error}") from error

    async def prepare(self, device: DeviceContext) -> Mapping[str, str | None]:
        return {}

    async def attach(self, device: DeviceContext) -> Attachment:
        raise _absence(device)

    async def update(self, device: DeviceContext, old: Mapping[str, str]) -> None:
        return

    async def detach(self, device: DeviceContext) -> None:
        return

    async def remove(self, device: DeviceContext) -> None:
        return

    async def plug(self, device: DeviceContext) -> Mapping[str, str | None]:
        raise _absence(device)

    async def unplug(self, device: DeviceContext) -> None:
        return


def _absence(device: DeviceContext) -> NotSupported:
    if shutil.which("swtpm") is None:
        reason = "Required tool 'swtpm' is missing"
    elif not Path("/dev/vtpmx").exists():
        reason = 'Failed to load kernel module "tpm_vtpm_proxy": this kernel does not have it'
    else:
        reason = "Virtual TPMs of containers are not supported by this server"
    return NotSupported(f'Failed to start device "{device.device}": Failed to validate environment: {reason}')
