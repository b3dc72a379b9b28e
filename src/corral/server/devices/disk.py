"""Disk devices: the root disk, and directories and files of the host that are mounted in the instance."""

import contextlib
import os
from collections.abc import Mapping
from functools import partial
from pathlib import Path

from corral import units
from corral.errors import InvalidRequest, NotSupported
from corral.server.devices.model import Attachment, DeviceContext, Mount, anything, check_keys
from corral.server.host import mount
from corral.server.host.threads import in_thread
from corral.server.keys import BOOL, SIZE, UNSIGNED
from corral.server.storage import store as storage

_PROPAGATIONS = ("private", "shared", "slave", "unbindable", "rshared", "rslave", "runbindable", "rprivate")


def _propagation(text: str) -> None:
    if text not in _PROPAGATIONS:
        raise InvalidRequest(f"Invalid propagation value. Must be one of: {', '.join(_PROPAGATIONS)}")


_CHECKS = {
    **dict.fromkeys(("required", "optional", "readonly", "recursive", "shift"), BOOL.parse),
    **dict.fromkeys(
        [
            "source",
            "path",
            "pool",
            "limits.read",
            "limits.write",
            "limits.max",
            "raw.mount.options",
            "ceph.cluster_name",
            "ceph.user_name",
        ],
        anything,
    ),
    "size": SIZE.parse,
    "size.state": SIZE.parse,
    "propagation": _propagation,
    "boot.priority": UNSIGNED.parse,
}


class Disk:
    """A disk. The root disk's volume belongs to the instance and is made with it."""

    live_keys = frozenset({"size", "size.state", "limits.read", "limits.write", "limits.max"})

    def validate(self, config: Mapping[str, str], others: Mapping[str, Mapping[str, str]]) -> None:
        check_keys(config, _CHECKS)
        _check_combinations(config)
        path = config.get("path", "")
        if path and sum(other.get("type") == "disk" and other.get("path") == path for other in others.values()) > 1:
            raise InvalidRequest(f'More than one disk device uses the same path "{path}"')

    async def prepare(self, device: DeviceContext) -> Mapping[str, str | None]:
        config = device.config
        pool = config.get("pool")
        if pool:
            await device.context.db.read(storage.get_pool, pool)
            return {}
        source = config.get("source", "")
        if _is_required(config) and source.startswith("/") and not await in_thread(os.path.lexists, source):
            raise InvalidRequest(f'Missing source path "{source}" for disk "{device.device}"')
        return {}

    async def attach(self, device: DeviceContext) -> Attachment:
        config = device.config
        if is_root_disk(config):
            return Attachment()
        source = config.get("source", "")
        if config.get("pool") or not source.startswith("/"):
            raise NotSupported(
                f'Failed to start device "{device.device}": disks of this kind (source {source!r}) are not supported '
                "by this server yet"
            )
        if any(config.get(key) for key in ("limits.read", "limits.write", "limits.max")):
            raise NotSupported(f'Failed to start device "{device.device}": disk I/O limits are not supported yet')
        return await in_thread(_bind, device)

    async def update(self, device: DeviceContext, old: Mapping[str, str]) -> None:
        return

    async def detach(self, device: DeviceContext) -> None:
        if not is_root_disk(device.config) and device.config.get("path"):
            await in_thread(_unbind, device)

    async def remove(self, device: DeviceContext) -> None:
        return


def is_root_disk(config: Mapping[str, str]) -> bool:
    """Whether a device is the instance's root."""
    return config.get("type") == "disk" and config.get("path") == "/" and not config.get("source")


def _is_required(config: Mapping[str, str]) -> bool:
    required, optional = config.get("required", ""), config.get("optional", "")
    return (required == "" or units.is_true(required)) and not units.is_true(optional)


def _check_combinations(config: Mapping[str, str]) -> None:
    source, path = config.get("source", ""), config.get("path", "")
    if config.get("required") and config.get("optional"):
        raise InvalidRequest('Cannot use both "required" and deprecated "optional" properties at the same time')
    if not source and path != "/":
        raise InvalidRequest('Disk entry is missing the required "source" or "path" property')
    if path == "/" and source:
        raise InvalidRequest('Root disk entry may not have a "source" property set')
    if path == "/" and not config.get("pool"):
        raise InvalidRequest('Root disk entry must have a "pool" property set')
    if config.get("size") and path != "/":
        raise InvalidRequest("Only the root disk may have a size quota")
    if config.get("size.state") and path != "/":
        raise InvalidRequest("Only the root disk may have a migration size quota")
    if config.get("recursive") and path == "/":
        raise InvalidRequest("The recursive option is only supported for additional bind-mounted paths")
    if units.is_true(config.get("recursive")) and units.is_true(config.get("readonly")):
        raise InvalidRequest("Recursive read-only bind-mounts aren't currently supported by the kernel")
    _check_source(config, source)


def _check_source(config: Mapping[str, str], source: str) -> None:
    remote = source.startswith(("ceph:", "cephfs:"))
    if not remote and (config.get("ceph.cluster_name") or config.get("ceph.user_name")):
        raise InvalidRequest(f'Invalid options ceph.cluster_name/ceph.user_name for source "{source}"')
    if config.get("pool"):
        if config.get("shift"):
            raise InvalidRequest(
                'The "shift" property cannot be used with custom storage volumes (set "security.shifted=true" on the '
                "volume instead)"
            )
        if source.startswith("/"):
            raise InvalidRequest("Storage volumes cannot be specified as absolute paths")
    elif source and not remote and source != "cloud-init:config" and not source.startswith("/"):
        raise InvalidRequest("Source path must be absolute for local sources")


def _bind(device: DeviceContext) -> Attachment:
    """Mount the source where the container's root can reach it, whoever may pass the directories above it."""
    config = device.config
    source = Path(config["source"])
    recursive = units.is_true(config.get("recursive"))
    try:
        is_directory = source.is_dir()
        if not is_directory:
            source.lstat()
    except OSError as error:
        if not _is_required(config):
            return Attachment()
        raise InvalidRequest(
            f'Failed to start device "{device.device}": Missing source path "{source}": {error.strerror}'
        ) from error
    target = _mount_path(device)
    _make_target(target, is_directory)
    mount.ensure_unmounted(target)
    mount.bind(source, target, recursive=recursive)
    options = ["rbind" if recursive else "bind"]
    if units.is_true(config.get("readonly")):
        options.append("ro")
    if config.get("propagation"):
        options.append(config["propagation"])
    if config.get("raw.mount.options"):
        options += [word for word in config["raw.mount.options"].split(",") if word]
    options.append("create=dir" if is_directory else "create=file")
    shifted = units.is_true(config.get("shift")) and not device.privileged
    return Attachment(
        mounts=(Mount(target, config["path"], tuple(options), shifted=shifted),),
        release=partial(in_thread, _unbind, device),
    )


def _mount_path(device: DeviceContext) -> Path:
    """devices/INSTANCE/disk.DEVICE.PATH, with slashes as dashes and dashes doubled."""

    def encode(text: str) -> str:
        return text.replace("-", "--").replace("/", "-")

    return device.devices_dir / f"disk.{encode(device.device)}.{encode(device.config['path'].lstrip('/'))}"


def _make_target(target: Path, is_directory: bool) -> None:
    target.parent.mkdir(mode=0o711, parents=True, exist_ok=True)
    if is_directory:
        target.mkdir(mode=0o711, exist_ok=True)
    else:
        target.touch(0o600)


def _unbind(device: DeviceContext) -> None:
    target = _mount_path(device)
    if not os.path.lexists(target):
        return
    mount.ensure_unmounted(target)
    if target.is_dir():
        target.rmdir()
    else:
        target.unlink()
    with contextlib.suppress(OSError):
        target.parent.rmdir()
