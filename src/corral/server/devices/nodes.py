"""Device nodes for containers: made below the instance's devices directory and mounted at their path inside.

A node's file is `unix.DEVICE.PATH`. Where another device of the instance already shows something at the same path, the
file is made and not mounted: what came first stays.
"""

import asyncio
import contextlib
import os
import stat
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from corral.errors import InvalidRequest, NotSupported, Unavailable
from corral.server.devices.model import Attachment, DeviceContext, Mount, encode_path
from corral.server.host.filesystems import inside, mount
from corral.server.host.threads import in_thread, in_thread_abandonable

VISIT_TIMEOUT_S = 30.0
"""How long the container's file systems may take to let a mount be made or removed."""
DEFAULT_MODE = 0o660


@dataclass(frozen=True, slots=True)
class Node:
    """A device node as an instance shall see it. `path` is absolute inside, the ids are the container's."""

    path: str
    is_block: bool
    major: int
    minor: int
    mode: int = DEFAULT_MODE
    uid: int = 0
    gid: int = 0

    @property
    def rule(self) -> str:
        """The control group's rule that allows its use."""
        return f"{'b' if self.is_block else 'c'} {self.major}:{self.minor} rwm"


def of_path(source: str, path: str, config: Mapping[str, str]) -> Node | None:
    """The node for a device file of the host, with the config's numbers and owner; None where there is none."""
    try:
        found = os.stat(source)
    except OSError:
        return None
    if not stat.S_ISBLK(found.st_mode) and not stat.S_ISCHR(found.st_mode):
        raise InvalidRequest(f'"{source}" is not a device')
    return Node(
        path=path,
        is_block=stat.S_ISBLK(found.st_mode),
        major=int(config.get("major") or os.major(found.st_rdev)),
        minor=int(config.get("minor") or os.minor(found.st_rdev)),
        mode=_mode_of(config, DEFAULT_MODE),
        uid=int(config.get("uid") or 0),
        gid=int(config.get("gid") or 0),
    )


def of_numbers(path: str, is_block: bool, numbers: tuple[int, int], config: Mapping[str, str]) -> Node:
    """The node of a device known by its numbers."""
    owner = int(config.get("uid") or 0), int(config.get("gid") or 0)
    return Node(path, is_block, *numbers, _mode_of(config, DEFAULT_MODE), *owner)


def _mode_of(config: Mapping[str, str], default: int) -> int:
    return int(config["mode"], 8) if config.get("mode") else default


def file_name(device: str, path: str) -> str:
    """The name of a node's file."""
    return f"unix.{encode_path(device)}.{encode_path(path.lstrip('/'))}"


def _files(device: DeviceContext) -> list[Path]:
    prefix = f"unix.{encode_path(device.device)}."
    with contextlib.suppress(FileNotFoundError):
        return sorted(path for path in device.devices_dir.iterdir() if path.name.startswith(prefix))
    return []


def _is_shown_by_another(device: DeviceContext, encoded: str) -> bool:
    names = [encode_path(name) for name in device.devices if name != device.device]
    return any((device.devices_dir / f"unix.{name}.{encoded}").exists() for name in names)


def _make(device: DeviceContext, node: Node) -> tuple[Path, bool]:
    """Make a node's file; tells whether it is to be mounted."""
    path = device.devices_dir / file_name(device.device, node.path)
    shown = _is_shown_by_another(device, encode_path(node.path.lstrip("/")))
    path.parent.mkdir(mode=0o711, parents=True, exist_ok=True)
    _remove(path)
    uid, gid = node.uid, node.gid
    if device.idmap is not None:
        uid, gid = device.idmap.outside_uid(uid) or 0, device.idmap.outside_gid(gid) or 0
    try:
        os.mknod(
            path, node.mode | (stat.S_IFBLK if node.is_block else stat.S_IFCHR), os.makedev(node.major, node.minor)
        )
    except PermissionError as error:
        raise NotSupported(
            f'Failed to start device "{device.device}": this server may not make device nodes (is it itself in a user '
            "namespace?)"
        ) from error
    os.chown(path, uid, gid)
    os.chmod(path, node.mode)
    return path, not shown


def _remove(path: Path) -> None:
    mount.ensure_unmounted(path)
    path.unlink(missing_ok=True)


def _remove_all(device: DeviceContext) -> None:
    for path in _files(device):
        _remove(path)
    with contextlib.suppress(OSError):
        device.devices_dir.rmdir()


async def attach(device: DeviceContext, nodes: Sequence[Node]) -> Attachment:
    """Make the nodes for a start."""
    await in_thread(_remove_all, device)
    mounts, rules = [], []
    for node in nodes:
        path, is_shown = await in_thread(_make, device, node)
        rules.append(node.rule)
        if is_shown:
            mounts.append(Mount(path, node.path, ("bind", "create=file")))
    return Attachment(mounts=tuple(mounts), rules=tuple(rules), release=partial(detach, device))


async def detach(device: DeviceContext) -> None:
    """Remove the nodes after a stop."""
    await in_thread(_remove_all, device)


async def plug(device: DeviceContext, nodes: Sequence[Node]) -> None:
    """Show nodes in a running container."""
    for node in nodes:
        path, is_shown = await in_thread(_make, device, node)
        try:
            if device.allow is not None:
                await in_thread(device.allow, node.rule, True)
            if is_shown:
                await show(device, Shown(path, node.path))
        except BaseException:
            await in_thread(_remove, path)
            raise


async def unplug(device: DeviceContext) -> None:
    """Take all nodes of the device out of a running container."""
    for path in await in_thread(_files, device):
        await _hide(device, path)
    await in_thread(_remove_all, device)


async def refresh(device: DeviceContext, nodes: Sequence[Node]) -> None:
    """Bring what a running container shows in line with the nodes that there are now."""
    wanted = {file_name(device.device, node.path): node for node in nodes}
    present = {path.name: path for path in await in_thread(_files, device)}
    for name, path in present.items():
        if name not in wanted:
            await _hide(device, path)
            await in_thread(_remove, path)
    await plug(device, [node for name, node in wanted.items() if name not in present])


async def _hide(device: DeviceContext, path: Path) -> None:
    encoded = path.name.removeprefix(f"unix.{encode_path(device.device)}.")
    found = await in_thread(os.lstat, path)
    if device.allow is not None and found.st_rdev:
        letter = "b" if stat.S_ISBLK(found.st_mode) else "c"
        rule = f"{letter} {os.major(found.st_rdev)}:{os.minor(found.st_rdev)} rwm"
        await in_thread(device.allow, rule, False)
    if not await in_thread(_is_shown_by_another, device, encoded):
        await hide(device, "/" + decode_path(encoded))


def decode_path(encoded: str) -> str:
    """The path of which `encode_path` made a file name."""
    return "-".join(part.replace("-", "/") for part in encoded.split("--"))


@dataclass(frozen=True, slots=True)
class Shown:
    """A file or directory of the host to show in a container at `target`; `shifted` with the ids that it has inside.

    `propagation` are flags of mount(2).
    """

    source: Path
    target: str
    recursive: bool = False
    read_only: bool = False
    shifted: bool = False
    propagation: Sequence[int] = ()


async def show(device: DeviceContext, shown: Shown) -> None:
    """Mount something of the host in the running container."""
    target = shown.target
    try:
        async with asyncio.timeout(VISIT_TIMEOUT_S):
            await in_thread_abandonable(_show, device, shown)
    except TimeoutError:
        raise Unavailable(f'The container did not let "{target}" be mounted within {VISIT_TIMEOUT_S:g} s') from None
    except OSError as error:
        raise InvalidRequest(
            f'Failed to start device "{device.device}": Failed to mount "{shown.source}" on "{target}": '
            f"{error.strerror or error}"
        ) from error


def _show(device: DeviceContext, shown: Shown) -> None:
    tree = mount.open_tree(shown.source, recursive=shown.recursive)
    try:
        if shown.shifted and device.idmap is not None:
            namespace = os.open(f"/proc/{device.pid}/ns/user", os.O_RDONLY | os.O_CLOEXEC)
            try:
                mount.set_tree_idmap(tree, namespace, recursive=shown.recursive)
            finally:
                os.close(namespace)
        if shown.read_only:
            mount.set_tree_read_only(tree, recursive=shown.recursive)
        inside.attach(device.pid, tree, shown.target, device.owner, shown.propagation)
    finally:
        os.close(tree)


async def hide(device: DeviceContext, target: str) -> None:
    """Unmount a path of the running container; nothing where the container just ended."""
    try:
        async with asyncio.timeout(VISIT_TIMEOUT_S):
            await in_thread_abandonable(inside.detach, device.pid, target, device.owner)
    except ProcessLookupError:
        return
    except TimeoutError:
        raise Unavailable(f'The container did not let "{target}" be unmounted within {VISIT_TIMEOUT_S:g} s') from None
