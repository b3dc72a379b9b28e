"""Disk devices: the root disk, and directories and files of the host that are mounted in the instance."""

import contextlib
import os
import stat
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path

from corral import units
from corral.errors import InvalidRequest, NotSupported
from corral.server.devices import disk_limits, nodes, volume_disks
from corral.server.devices.model import Attachment, DeviceContext, Mount, anything, check_keys, encode_path
from corral.server.devices.volume_disks import Source
from corral.server.host.filesystems import blockdev, mount
from corral.server.host.filesystems.openat2 import RESOLVE_BENEATH, openat2
from corral.server.host.threads import in_thread
from corral.server.keys import BOOL, SIZE, UNSIGNED32
from corral.server.projects import restrictions
from corral.server.projects import store as projects
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
            "raw.mount.options",
            "ceph.cluster_name",
            "ceph.user_name",
        ],
        anything,
    ),
    **dict.fromkeys(disk_limits.KEYS, disk_limits.check_limit),
    "size": SIZE.parse,
    "size.state": SIZE.parse,
    "propagation": _propagation,
    "boot.priority": UNSIGNED32.parse,
}


class Disk:
    """A disk. The root disk's volume belongs to the instance and is made with it."""

    live_keys = frozenset({"size", "size.state", "limits.read", "limits.write", "limits.max"})

    def validate(self, config: Mapping[str, str], others: Mapping[str, Mapping[str, str]]) -> None:
        check_keys(config, _CHECKS)
        _check_combinations(config)
        path = config.get("path", "")
        paths = [os.path.normpath(other["path"]) for other in others.values() if _has_path(other)]
        if path and paths.count(os.path.normpath(path)) > 1:
            raise InvalidRequest(f'More than one disk device uses the same path "{path}"')

    async def prepare(self, device: DeviceContext) -> Mapping[str, str | None]:
        config = device.config
        if config.get("pool"):
            pool = await device.context.db.read(storage.get_pool, config["pool"])
            if not is_root_disk(config):
                await volume_disks.find(device, pool)
            return {}
        source = config.get("source", "")
        if source.startswith("/"):
            await _allowing_path(device, source)
        if _is_required(config) and source.startswith("/") and not await in_thread(os.path.lexists, source):
            raise InvalidRequest(f'Missing source path "{source}" for disk "{device.device}"')
        return {}

    async def attach(self, device: DeviceContext) -> Attachment:
        if is_root_disk(device.config):
            settings = await in_thread(disk_limits.settings_of, device, False)
            return Attachment(settings=tuple(settings))
        source = await _source_of(device)
        if source is None:
            return Attachment()
        target = await in_thread(_hold, device, source)
        config = device.config
        options = ["rbind" if units.is_true(config.get("recursive")) else "bind"]
        if units.is_true(config.get("readonly")):
            options.append("ro")
        if config.get("propagation"):
            options.append(config["propagation"])
        options.append("create=dir" if target.is_dir() else "create=file")
        return Attachment(
            mounts=(Mount(target, config["path"], tuple(options), shifted=source.is_shifted),),
            rules=tuple(await in_thread(_rules_of, device, source)),
            settings=tuple(await in_thread(disk_limits.settings_of, device, False)),
            release=partial(in_thread, _unhold, device),
        )

    async def update(self, device: DeviceContext, old: Mapping[str, str]) -> None:
        if device.cgroup is not None:
            await in_thread(disk_limits.apply, device)

    async def detach(self, device: DeviceContext) -> None:
        if not is_root_disk(device.config) and device.config.get("path"):
            await in_thread(_unhold, device)

    async def remove(self, device: DeviceContext) -> None:
        return

    async def plug(self, device: DeviceContext) -> Mapping[str, str | None]:
        source = None if is_root_disk(device.config) else await _source_of(device)
        if source is None:
            return {}
        config = device.config
        target = await in_thread(_hold, device, source)
        try:
            if device.allow is not None:
                for rule in await in_thread(_rules_of, device, source):
                    await in_thread(device.allow, rule, True)
            shown = nodes.Shown(
                target,
                config["path"],
                recursive=units.is_true(config.get("recursive")),
                read_only=units.is_true(config.get("readonly")),
                shifted=source.is_shifted,
                propagation=_propagation_flags(config.get("propagation", "")),
            )
            await nodes.show(device, shown)
            await in_thread(disk_limits.apply, device)
        except BaseException:
            await in_thread(_unhold, device)
            raise
        return {}

    async def unplug(self, device: DeviceContext) -> None:
        if not is_root_disk(device.config):
            await in_thread(disk_limits.lift, device)
            await nodes.hide(device, device.config["path"])
            await in_thread(_unhold, device)


def _has_path(config: Mapping[str, str]) -> bool:
    return config.get("type") == "disk" and bool(config.get("path"))


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
    if config.get("recursive") and (path == "/" or config.get("pool")):
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


async def _allowing_path(device: DeviceContext, source: str) -> str:
    """The directory by which the project allows a source, "/" where it restricts none. Raises InvalidRequest.

    Links are not looked at: where they lead counts when the disk is mounted.
    """
    project = await device.context.db.read(projects.get_project, device.project)
    if not restrictions.is_restricted(project):
        return "/"
    parent = restrictions.allowed_path(project, source)
    if parent is None:
        raise InvalidRequest(f'Disk source path "{source}" not allowed by project for disk "{device.device}"')
    return parent


async def _allowed_source(device: DeviceContext, source: str) -> tuple[str, Path | None]:
    """A path of the host and the directory that it may not leave, with its links followed where there is one.

    Raises InvalidRequest.
    """
    parent = await _allowing_path(device, source)
    if parent == "/":
        return source, None
    refused = f'Disk source path "{source}" not allowed by project for disk "{device.device}"'
    if units.is_true(device.config.get("shift")):
        raise InvalidRequest('The "shift" property cannot be used with a restricted source path')
    real, allowed = await in_thread(os.path.realpath, source), await in_thread(os.path.realpath, parent)
    if os.path.commonpath([real, allowed]) != allowed:
        raise InvalidRequest(f"{refused}: a link leads out of {parent}")
    return real, Path(allowed)


async def _source_of(device: DeviceContext) -> Source | None:
    """What a disk shows; None where it is not there and not required."""
    config = device.config
    source = config.get("source", "")
    if config.get("pool"):
        return await volume_disks.mount_volume(device)
    if source.startswith(("ceph:", "cephfs:")):
        kind = source.partition(":")[0]
        raise NotSupported(
            f'Failed to start device "{device.device}": {kind} sources need the client of Ceph, which this server does '
            "not have: map or mount it on the host and give its path as the source"
        )
    if source == "cloud-init:config":
        raise InvalidRequest(
            f'Failed to start device "{device.device}": Config drives are for virtual machines; containers read '
            "cloud-init's seed from their templates"
        )
    if not config.get("path"):
        raise InvalidRequest(
            f'Failed to start device "{device.device}": A disk of a container needs a "path" inside it'
        )
    source, beneath = await _allowed_source(device, source)
    shifted = units.is_true(config.get("shift")) and not device.privileged
    try:
        mode = (await in_thread(os.stat, source)).st_mode
    except OSError as error:
        if not _is_required(config):
            return None
        raise InvalidRequest(
            f'Failed to start device "{device.device}": Missing source path "{source}": {error.strerror}'
        ) from error
    if shifted and not await in_thread(mount.supports_idmapped_mounts, source):
        raise NotSupported(
            f'Failed to start device "{device.device}": shift=true needs idmapped mounts, which the kernel does not '
            f'offer for the file system of "{source}"'
        )
    fstype = await blockdev.find_fstype(source) if stat.S_ISBLK(mode) else ""
    return Source(Path(source), shifted, fstype, beneath)


@contextlib.contextmanager
def _opened(source: Source) -> Iterator[Path]:
    """The path to mount: of a restricted source it is held open, so that nobody puts a link in its way meanwhile."""
    if source.beneath is None:
        yield source.path
        return
    root = os.open(source.beneath, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fd = openat2(root, os.path.relpath(source.path, source.beneath), os.O_PATH, resolve=RESOLVE_BENEATH)
    finally:
        os.close(root)
    try:
        yield Path(f"/proc/self/fd/{fd}")
    finally:
        os.close(fd)


def _hold(device: DeviceContext, source: Source) -> Path:
    """Mount the source where the container's root can reach it, whoever may pass the directories above it."""
    config = device.config
    target = _mount_path(device)
    raw = [word for word in config.get("raw.mount.options", "").split(",") if word]
    is_directory = bool(source.fstype) or source.path.is_dir()
    mount.ensure_unmounted(target)
    _make_target(target, is_directory)
    try:
        with _opened(source) as path:
            if source.fstype:
                read_only = ["ro"] if units.is_true(config.get("readonly")) else []
                mount.mount(path, target, source.fstype, [*read_only, *raw])
            else:
                mount.bind(path, target, recursive=units.is_true(config.get("recursive")))
                if raw:
                    mount.remount_bind(target, raw)
    except OSError as error:
        _unhold(device)
        raise InvalidRequest(
            f'Failed to start device "{device.device}": Failed mounting "{source.path}" onto "{target}": '
            f"{error.strerror or error}"
        ) from error
    return target


def _rules_of(device: DeviceContext, source: Source) -> list[str]:
    """What an unprivileged container may use by a disk that shows it a device file, or a directory of such ones.

    Those of a directory below /dev come and go: it may use any.
    """
    if device.privileged or source.fstype or device.config.get("pool"):
        return []
    with _opened(source) as path:
        found = os.stat(path)
        if stat.S_ISCHR(found.st_mode):
            return [f"c {os.major(found.st_rdev)}:{os.minor(found.st_rdev)} rwm"]
        if stat.S_ISDIR(found.st_mode) and found.st_dev == os.stat("/dev").st_dev:
            return ["b *:* rwm", "c *:* rwm"]
    return []


def _propagation_flags(word: str) -> list[int]:
    """The flags of mount(2) for a propagation."""
    if not word:
        return []
    recursive = word.startswith("r")
    kinds = {
        "private": mount.MS_PRIVATE,
        "shared": mount.MS_SHARED,
        "slave": mount.MS_SLAVE,
        "unbindable": mount.MS_UNBINDABLE,
    }
    return [kinds[word.removeprefix("r")] | (mount.MS_REC if recursive else 0)]


def _mount_path(device: DeviceContext) -> Path:
    """devices/INSTANCE/disk.DEVICE.PATH, with slashes as dashes and dashes doubled."""
    return device.devices_dir / f"disk.{encode_path(device.device)}.{encode_path(device.config['path'].lstrip('/'))}"


def _make_target(target: Path, is_directory: bool) -> None:
    target.parent.mkdir(mode=0o711, parents=True, exist_ok=True)
    if is_directory:
        target.mkdir(mode=0o711, exist_ok=True)
    else:
        target.touch(0o600)


def _unhold(device: DeviceContext) -> None:
    target = _mount_path(device)
    if not os.path.lexists(target):
        return
    mount.ensure_unmounted(target)
    with contextlib.suppress(OSError):
        if target.is_dir():
            target.rmdir()
        else:
            target.unlink()
    with contextlib.suppress(OSError):
        target.parent.rmdir()
