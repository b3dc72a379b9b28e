"""unix-char and unix-block: device files of the host, and unix-hotplug: those of hardware by its vendor and product."""

import os
from collections.abc import Mapping
from functools import partial

from corral import units
from corral.errors import InvalidRequest
from corral.server.devices import nodes
from corral.server.devices.followers import NodeDevice
from corral.server.devices.model import (
    Check,
    DeviceContext,
    anything,
    check_device_number,
    check_hardware_id,
    check_id,
    check_mode,
)
from corral.server.devices.nodes import Node
from corral.server.host import uevents
from corral.server.keys import BOOL

OWNER_CHECKS: dict[str, Check] = {"uid": check_id, "gid": check_id, "mode": check_mode}
_CHECKS: dict[str, Check] = {
    "source": anything,
    "path": anything,
    "major": check_device_number,
    "minor": check_device_number,
    **OWNER_CHECKS,
    "required": BOOL.parse,
}
_HOTPLUG_CHECKS: dict[str, Check] = {
    "vendorid": check_hardware_id,
    "productid": check_hardware_id,
    **OWNER_CHECKS,
    "required": BOOL.parse,
}
MISSING = "The required device path doesn't exist and the major and minor settings are not specified"


def source_of(config: Mapping[str, str]) -> str:
    """The host's path of a device file."""
    return config.get("source") or config.get("path", "")


def _path_of(config: Mapping[str, str]) -> str:
    return config.get("path") or config.get("source", "")


def _is_required(config: Mapping[str, str]) -> bool:
    return config.get("required", "") == "" or units.is_true(config["required"])


def _check(config: Mapping[str, str]) -> None:
    if not config.get("source") and not config.get("path"):
        raise InvalidRequest('Unix device entry is missing the required "source" or "path" property')


def _check_source(device: DeviceContext) -> None:
    """Sources lie where the server looks for devices: /dev, or another directory for tests."""
    directory = os.environ.get(f"{device.context.member.product.prefix}_DEVMONITOR_DIR") or "/dev"
    source = device.config.get("source", "")
    inner = os.path.normpath(source)
    if source and inner != directory and not inner.startswith(directory.rstrip("/") + "/"):
        raise InvalidRequest(f'Invalid value for device option "source": Path needs to be in {directory}')


def _find(is_block: bool, config: Mapping[str, str], name: str) -> list[Node]:
    kind = "unix-block" if is_block else "unix-char"
    found = nodes.of_path(source_of(config), _path_of(config), config)
    if found is not None:
        if found.is_block != is_block:
            raise InvalidRequest(f'Failed to start device "{name}": Path specified is not a {kind} device')
        return [found]
    if config.get("major") and config.get("minor"):
        return [nodes.of_numbers(_path_of(config), is_block, (int(config["major"]), int(config["minor"])), config)]
    return []


def _follows(config: Mapping[str, str]) -> tuple[str, ...] | None:
    return None if _is_required(config) else (source_of(config),)


def _unix(is_block: bool) -> NodeDevice:
    return NodeDevice(_CHECKS, partial(_find, is_block), MISSING, _is_required, _follows, _check, _check_source)


UNIX_CHAR = _unix(False)
UNIX_BLOCK = _unix(True)


def _check_hotplug(config: Mapping[str, str]) -> None:
    if not config.get("vendorid") and not config.get("productid"):
        raise InvalidRequest("Unix hotplug devices require a vendorid or a productid")


def is_wanted(config: Mapping[str, str], hardware: uevents.Hardware) -> bool:
    """Whether a device of the host has the vendor and the product that a config asks for."""
    return config.get("vendorid", hardware.vendor).lower() == hardware.vendor and (
        config.get("productid", hardware.product).lower() == hardware.product
    )


def _find_hotplug(config: Mapping[str, str], name: str) -> list[Node]:
    wanted = {key: value for key, value in config.items() if value}
    return [
        nodes.of_numbers(one.path, one.is_block, (one.major, one.minor), config)
        for one in uevents.list_hardware()
        if not one.subsystem.startswith("usb") and is_wanted(wanted, one)
    ]


def is_required_only_if_told(config: Mapping[str, str]) -> bool:
    """Hardware that comes and goes is not required unless the config says so."""
    return units.is_true(config.get("required"))


UNIX_HOTPLUG = NodeDevice(
    _HOTPLUG_CHECKS,
    _find_hotplug,
    "Required Unix Hotplug device not found",
    is_required_only_if_told,
    lambda config: (),
    _check_hotplug,
)


def _find_usb(config: Mapping[str, str], name: str) -> list[Node]:
    wanted = {key: value for key, value in config.items() if value}
    return [
        nodes.of_numbers(one.path, False, (one.major, one.minor), config)
        for one in uevents.list_usb()
        if is_wanted(wanted, one)
    ]


USB = NodeDevice(
    _HOTPLUG_CHECKS,
    _find_usb,
    "Required USB device not found",
    is_required_only_if_told,
    lambda config: (),
)
