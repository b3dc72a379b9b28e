"""Maps between the ids of a user namespace and the host's, the ranges that root may hand out, and on-disk shifts."""

import contextlib
import errno
import os
import shutil
import stat
import struct
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from corral.errors import InvalidRequest, NotSupported

DEFAULT_BASE = 1_000_000
DEFAULT_SIZE = 1_000_000_000
MINIMUM_SIZE = 65_536

_CAPABILITY = "security.capability"
_ACLS = ("system.posix_acl_access", "system.posix_acl_default")
_CAP_V2, _CAP_V3, _CAP_VERSION_MASK = 0x02000000, 0x03000000, 0xFF000000
_ACL_ENTRY = struct.Struct("<HHI")
_ACL_USER, _ACL_GROUP = 2, 8


@dataclass(frozen=True, slots=True, order=True)
class IdRange:
    """Consecutive ids of the host."""

    base: int
    size: int

    @property
    def end(self) -> int:
        """The first id after the range."""
        return self.base + self.size


@dataclass(frozen=True, slots=True)
class IdEntry:
    """One line of a map: `size` ids from `inside` in the namespace are `outside` on the host."""

    uids: bool
    gids: bool
    outside: int
    inside: int
    size: int


@dataclass(frozen=True, slots=True)
class IdMap:
    """A whole map; empty for a namespace that shares the host's ids."""

    entries: tuple[IdEntry, ...] = ()

    @classmethod
    def of_range(cls, uids: IdRange, gids: IdRange | None = None) -> "IdMap":
        """Map ids from 0 on to a range (both kinds alike where one is given)."""
        gids = gids or uids
        if gids == uids:
            return cls((IdEntry(True, True, uids.base, 0, uids.size),))
        return cls((IdEntry(True, False, uids.base, 0, uids.size), IdEntry(False, True, gids.base, 0, gids.size)))

    def outside_uid(self, inside: int) -> int | None:
        """The host's id of a user, None if not mapped. An empty map is the identity."""
        return self._outside(inside, uids=True)

    def outside_gid(self, inside: int) -> int | None:
        """The host's id of a group, None if not mapped."""
        return self._outside(inside, uids=False)

    def inside_uid(self, outside: int) -> int | None:
        """The namespace's id of a user, None if not mapped."""
        return self._inside(outside, uids=True)

    def inside_gid(self, outside: int) -> int | None:
        """The namespace's id of a group, None if not mapped."""
        return self._inside(outside, uids=False)

    def _outside(self, inside: int, *, uids: bool) -> int | None:
        if not self.entries:
            return inside
        for entry in self.entries:
            if (entry.uids if uids else entry.gids) and 0 <= inside - entry.inside < entry.size:
                return entry.outside + inside - entry.inside
        return None

    def _inside(self, outside: int, *, uids: bool) -> int | None:
        if not self.entries:
            return outside
        for entry in self.entries:
            if (entry.uids if uids else entry.gids) and 0 <= outside - entry.outside < entry.size:
                return entry.inside + outside - entry.outside
        return None

    def with_entry(self, added: IdEntry) -> "IdMap":
        """A map in which `added` wins: what it covers is cut out of the other lines."""
        pieces: list[IdEntry] = []
        for entry in self.entries:
            pieces += _without(entry, added)
        return IdMap(tuple(sorted([*pieces, added], key=lambda entry: (entry.inside, not entry.uids))))

    def proc_map(self, *, uids: bool) -> str:
        """The text for /proc/PID/uid_map or gid_map."""
        lines = [f"{e.inside} {e.outside} {e.size}" for e in self.entries if (e.uids if uids else e.gids)]
        return "\n".join(lines) + "\n"

    def lxc_lines(self) -> list[str]:
        """The lines of a liblxc configuration."""
        lines = []
        for entry in self.entries:
            if entry.uids:
                lines.append(f"lxc.idmap = u {entry.inside} {entry.outside} {entry.size}")
            if entry.gids:
                lines.append(f"lxc.idmap = g {entry.inside} {entry.outside} {entry.size}")
        return lines

    def to_json(self) -> list[dict[str, int | bool]]:
        """LXD's form of a map (volatile.idmap.*, volatile.last_state.idmap)."""
        return [
            {"Isuid": e.uids, "Isgid": e.gids, "Hostid": e.outside, "Nsid": e.inside, "Maprange": e.size}
            for e in self.entries
        ]

    @classmethod
    def from_json(cls, items: Iterable[dict[str, int | bool]]) -> "IdMap":
        """Read LXD's form."""
        return cls(
            tuple(
                IdEntry(
                    bool(item["Isuid"]),
                    bool(item["Isgid"]),
                    int(item["Hostid"]),
                    int(item["Nsid"]),
                    int(item["Maprange"]),
                )
                for item in items
            )
        )


def _without(entry: IdEntry, cut: IdEntry) -> list[IdEntry]:
    """What is left of an entry when the ids of `cut` (inside or outside) are taken from it, per kind."""
    kept: list[IdEntry] = []
    kinds = [(True, False), (False, True)] if (entry.uids, entry.gids) != (cut.uids, cut.gids) else [(True, True)]
    for uids, gids in kinds:
        part_uids, part_gids = entry.uids and uids, entry.gids and gids
        if not (part_uids or part_gids):
            continue
        part = IdEntry(part_uids, part_gids, entry.outside, entry.inside, entry.size)
        touches = (part.uids and cut.uids) or (part.gids and cut.gids)
        kept += _split(part, cut) if touches else [part]
    return kept


def _split(entry: IdEntry, cut: IdEntry) -> list[IdEntry]:
    holes = sorted(
        (max(0, start), min(entry.size, start + cut.size))
        for start in (cut.inside - entry.inside, cut.outside - entry.outside)
        if start < entry.size and start + cut.size > 0
    )
    pieces = []
    position = 0
    for start, end in holes:
        if start > position:
            pieces.append((position, start))
        position = max(position, end)
    if position < entry.size:
        pieces.append((position, entry.size))
    return [
        IdEntry(entry.uids, entry.gids, entry.outside + start, entry.inside + start, end - start)
        for start, end in pieces
    ]


def parse_raw_idmap(text: str) -> list[IdEntry]:
    """Parse the lines of `raw.idmap`: "both|uid|gid HOST[-HOST] INSIDE[-INSIDE]"."""
    entries = []
    for line in filter(None, map(str.strip, text.splitlines())):
        words = line.split()
        if len(words) != 3 or words[0] not in ("both", "uid", "gid"):
            raise InvalidRequest(f"Invalid raw.idmap line {line!r}: use 'both|uid|gid HOST[-HOST] INSIDE[-INSIDE]'")
        outside, inside = _parse_span(words[1], line), _parse_span(words[2], line)
        if outside.size != inside.size:
            raise InvalidRequest(f"Invalid raw.idmap line {line!r}: the ranges differ in size")
        kind = words[0]
        entries.append(
            IdEntry(kind in ("both", "uid"), kind in ("both", "gid"), outside.base, inside.base, inside.size)
        )
    return entries


def _parse_span(text: str, line: str) -> IdRange:
    first, _, last = text.partition("-")
    if not first.isdigit() or (last and not last.isdigit()) or (last and int(last) < int(first)):
        raise InvalidRequest(f"Invalid raw.idmap line {line!r}: {text!r} is not an id or a range of ids")
    return IdRange(int(first), int(last) - int(first) + 1 if last else 1)


def parse_subids(text: str, names: Sequence[str] = ("root", "0")) -> list[IdRange]:
    """The ranges of a user in the text of /etc/subuid or /etc/subgid, in the file's order."""
    ranges = []
    for line in text.splitlines():
        fields = line.split("#", 1)[0].strip().split(":")
        if len(fields) == 3 and fields[0] in names and fields[1].isdigit() and fields[2].isdigit():
            ranges.append(IdRange(int(fields[1]), int(fields[2])))
    return ranges


def get_default_ranges(etc: str | Path = "/etc") -> tuple[IdRange, IdRange]:
    """The ranges of users and of groups that unprivileged containers get their ids from.

    Where the tools newuidmap and newgidmap are not installed, nobody keeps a register and a large range is safe.
    Raises NotSupported where they are installed and root has no range of 65536 ids.
    """
    if not (shutil.which("newuidmap") and shutil.which("newgidmap")):
        default = IdRange(DEFAULT_BASE, DEFAULT_SIZE)
        return default, default
    return _largest(Path(etc, "subuid"), "uids"), _largest(Path(etc, "subgid"), "gids")


def _largest(path: Path, word: str) -> IdRange:
    try:
        text = path.read_text()
    except OSError:
        text = ""
    usable = [found for found in parse_subids(text) if found.size >= MINIMUM_SIZE]
    if not usable:
        raise NotSupported(
            f"No {word} are set aside for containers: add a line such as 'root:{DEFAULT_BASE}:{DEFAULT_SIZE}' "
            f"to {path} and restart the daemon, or make the container privileged"
        )
    return usable[0]


def current_namespace_ranges() -> list[IdRange]:
    """The ids that exist in the caller's own user namespace."""
    ranges = []
    for line in Path("/proc/self/uid_map").read_text().splitlines():
        inside, _, size = map(int, line.split())
        ranges.append(IdRange(inside, size))
    return ranges


def shift_tree(root: str | Path, old: IdMap, new: IdMap) -> None:
    """Change the owners of a whole tree from one map to another, with ACLs and file capabilities.

    Ids that the old map does not know are left alone. Links are changed themselves and never followed; hard links
    are changed once. Raises OSError EINVAL if an id has no place in the new map.
    """
    seen: set[tuple[int, int]] = set()
    fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        _shift_entry(fd, old, new, seen)
        _shift_directory(fd, old, new, seen)
    finally:
        os.close(fd)


def _shift_directory(directory: int, old: IdMap, new: IdMap, seen: set[tuple[int, int]]) -> None:
    with os.scandir(directory) as entries:
        names = [entry.name for entry in entries]
    for name in names:
        fd = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory)
        try:
            is_directory = _shift_entry(fd, old, new, seen)
            if is_directory:
                inner = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=fd)
                try:
                    _shift_directory(inner, old, new, seen)
                finally:
                    os.close(inner)
        finally:
            os.close(fd)


def _shift_entry(fd: int, old: IdMap, new: IdMap, seen: set[tuple[int, int]]) -> bool:
    """Shift what an O_PATH descriptor names; says whether it is a directory."""
    status = os.fstat(fd)
    is_directory = stat.S_ISDIR(status.st_mode)
    if not is_directory and status.st_nlink > 1:
        if (status.st_dev, status.st_ino) in seen:
            return False
        seen.add((status.st_dev, status.st_ino))
    uid = _translate(old.inside_uid(status.st_uid), new.outside_uid, status.st_uid)
    gid = _translate(old.inside_gid(status.st_gid), new.outside_gid, status.st_gid)
    magic = f"/proc/self/fd/{fd}"
    is_link = stat.S_ISLNK(status.st_mode)
    attributes = {} if is_link else _read_attributes(magic)
    if (uid, gid) != (status.st_uid, status.st_gid):
        # The magic link of an O_PATH descriptor leads to the entry itself, also where that is a link.
        os.chown(magic, uid, gid)
        if status.st_mode & (stat.S_ISUID | stat.S_ISGID) and not is_link:
            os.chmod(magic, stat.S_IMODE(status.st_mode))
    for name, value in attributes.items():
        changed = shift_capability(value, old, new) if name == _CAPABILITY else shift_acl(value, old, new)
        os.setxattr(magic, name, changed)
    return is_directory


def _translate(inside: int | None, outside: Callable[[int], int | None], unchanged: int) -> int:
    if inside is None:
        return unchanged
    found = outside(inside)
    if found is None:
        raise OSError(errno.EINVAL, f"Id {inside} has no place in the new map")
    return found


def _read_attributes(path: str) -> dict[str, bytes]:
    found = {}
    for name in (*_ACLS, _CAPABILITY):
        with contextlib.suppress(OSError):
            found[name] = os.getxattr(path, name)
    return found


def shift_capability(value: bytes, old: IdMap, new: IdMap) -> bytes:
    """Translate the root id of a file capability (version 2 belongs to the host's root)."""
    magic = struct.unpack_from("<I", value)[0]
    version = magic & _CAP_VERSION_MASK
    if version not in (_CAP_V2, _CAP_V3):
        return value
    outside = struct.unpack_from("<I", value, 20)[0] if version == _CAP_V3 else 0
    inside = old.inside_uid(outside)
    target = new.outside_uid(inside) if inside is not None else outside
    flags = magic & ~_CAP_VERSION_MASK
    if not target:
        return struct.pack("<I", _CAP_V2 | flags) + value[4:20]
    return struct.pack("<I", _CAP_V3 | flags) + value[4:20] + struct.pack("<I", target)


def shift_acl(value: bytes, old: IdMap, new: IdMap) -> bytes:
    """Translate the ids of named users and groups in a POSIX ACL attribute."""
    result = bytearray(value)
    for offset in range(4, len(value) - _ACL_ENTRY.size + 1, _ACL_ENTRY.size):
        tag, permissions, number = _ACL_ENTRY.unpack_from(value, offset)
        if tag == _ACL_USER:
            number = _translate(old.inside_uid(number), new.outside_uid, number)
        elif tag == _ACL_GROUP:
            number = _translate(old.inside_gid(number), new.outside_gid, number)
        _ACL_ENTRY.pack_into(result, offset, tag, permissions, number)
    return bytes(result)
