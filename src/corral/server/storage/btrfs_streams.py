"""Volumes of btrfs as streams of `btrfs send`: frozen to be sent, and put in place after they were received."""

import os
import stat
from collections.abc import Sequence
from pathlib import Path

from corral.errors import InvalidRequest
from corral.server.host.filesystems import btrfs
from corral.server.storage import model
from corral.server.storage.driver import ReceivedPart, SentPart, StoredVolume


def freeze(volume: StoredVolume, snapshots: Sequence[str], scratch: Path) -> list[SentPart]:
    """Read-only copies of a volume's snapshots and of the volume in a scratch subvolume, each the next one's parent."""
    parts: list[SentPart] = []
    parent: Path | None = None
    for number, name in enumerate([*snapshots, ""]):
        origin = model.snapshot_path(volume.path, name) if name else volume.path
        directory = scratch / str(number)
        directory.mkdir(0o700)
        copy = directory / (name or "volume")
        btrfs.snapshot_tree(origin, copy)
        btrfs.seal_tree(copy)
        parts += _parts(name, origin, copy, parent)
        parent = copy
    return parts


def _parts(name: str, origin: Path, copy: Path, parent: Path | None) -> list[SentPart]:
    known = {"", *(btrfs.list_nested(parent) if parent is not None else ())}
    parts = []
    for child in ["", *btrfs.list_nested(copy)]:
        before = parent / child if parent is not None and child in known else None
        argv = ["btrfs", "send", "-q", *(["-p", str(before)] if before is not None else []), str(copy / child)]
        read_only = bool(name) if not child else btrfs.is_nested_read_only(origin, child)
        place = origin / child if child else origin
        parts.append(SentPart(name, f"/{child}", read_only, btrfs.get_uuid(place), argv))
    return parts


def receiver(directory: Path) -> list[str]:
    """The command that receives one stream into a directory."""
    return ["btrfs", "receive", "-q", "-e", str(directory)]


def settle(parts: Sequence[ReceivedPart], volume: StoredVolume) -> None:
    """Move received subvolumes to their places, outer ones first; then make those read-only that are to be it."""
    for part in parts:
        received = _only_entry(part.directory)
        btrfs.set_read_only(received, False)
        # Else the next import of the same backup would take it for the parent of what comes then.
        btrfs.forget_origin(received)
        if part.path == "/":
            os.rename(received, _target(volume, part))
        else:
            btrfs.move_into(received, _target(volume, part), part.path.strip("/"))
    for part in reversed(parts):
        child = part.path.strip("/")
        if part.path == "/":
            os.chmod(_target(volume, part), volume.type.mode)
        if part.read_only:
            btrfs.set_nested_read_only(_target(volume, part), child, True)


def _target(volume: StoredVolume, part: ReceivedPart) -> Path:
    return model.snapshot_path(volume.path, part.snapshot) if part.snapshot else volume.path


def _only_entry(directory: Path) -> Path:
    names = os.listdir(directory)
    if len(names) != 1 or not stat.S_ISDIR(os.lstat(directory / names[0]).st_mode):
        raise InvalidRequest("Invalid backup: one of its streams does not hold exactly one subvolume")
    if not btrfs.is_subvolume(directory / names[0]):
        raise InvalidRequest("Invalid backup: one of its streams holds no subvolume")
    return directory / names[0]
