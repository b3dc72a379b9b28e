"""Judges a tar stream while it passes: every member of an image is looked at before `tar` sees it.

Hostile members (absolute or dotted names, paths through a symbolic link, devices, nonsense) make the whole archive
refused; harmless device nodes below `dev/`, which a container cannot use, are left out. Pure: no system call but the
reads and writes of the two streams. The formats are those of tar(5) (ustar, old GNU, pax 1.0), nothing else.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import BinaryIO

BLOCK = 512
CHUNK = 1 << 20
EXTENSION_LIMIT = 1 << 20
"""Bytes of a long name or of pax records before one member."""
DOCUMENT_LIMIT = 1 << 20
"""Bytes of metadata.yaml."""
INDEX_LIMIT = 8 << 20
"""Bytes of each document of a backup."""
STREAM_LIMIT = 10_000
"""Streams in a backup."""

REGULAR, HARD_LINK, SYMBOLIC_LINK, CHARACTER, BLOCK_DEVICE, DIRECTORY, FIFO = "f", "h", "l", "c", "b", "d", "p"
_KINDS = {
    b"0": REGULAR,
    b"\0": REGULAR,
    b"7": REGULAR,
    b"S": REGULAR,
    b"1": HARD_LINK,
    b"2": SYMBOLIC_LINK,
    b"3": CHARACTER,
    b"4": BLOCK_DEVICE,
    b"5": DIRECTORY,
    b"6": FIFO,
}
_SAFE_DEVICES = frozenset({(0, 0), (1, 3), (1, 5), (1, 7), (1, 8), (1, 9), (5, 0), (5, 1), (5, 2)})
"""Character devices that give nothing away: whiteouts, null, zero, full, random, urandom, tty, console, ptmx."""
_ROOTED = ("/metadata.yaml", "/rootfs/", "/templates/")
"""Absolute names of an image's own parts."""
INDEX = "backup/index.yaml"
"""What says what a backup holds."""
STREAMS_HEADER = "backup/optimized_header.yaml"
"""What says which subvolumes the streams of a backup hold."""
_DOCUMENTS = {"image": {"metadata.yaml": DOCUMENT_LIMIT}, "backup": {INDEX: INDEX_LIMIT, STREAMS_HEADER: INDEX_LIMIT}}
_MAIN_DOCUMENT = {"image": "metadata.yaml", "backup": INDEX}
_VOLUMES = ("container", "volume")
_SNAPSHOTS = ("snapshots", "volume-snapshots")
_PAX_NAMES = ("path", "linkpath", "size", "GNU.sparse.name")


class Refused(Exception):
    """The archive is hostile, damaged or beyond its bounds; the text is for the user."""


class TooLarge(Refused):
    """What the archive unpacks to is more than there is space for."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What an archive may hold: bytes of content and members."""

    size: int
    members: int


@dataclass(slots=True)
class Member:
    """One entry: `path` is relative, without `.` components."""

    path: str
    kind: str
    size: int
    link: str = ""
    device: tuple[int, int] = (0, 0)


@dataclass(slots=True)
class Contents:
    """What a whole archive turned out to hold."""

    members: int = 0
    size: int = 0
    document: bytes | None = None
    templates: list[str] = field(default_factory=list)
    has_root: bool = False
    has_disk: bool = False
    header: bytes | None = None
    streams: list[str] = field(default_factory=list)


class Policy:
    """Which members are taken (True), left out (False) or hostile (Refused), one call for each in turn.

    `layout` is `image` (metadata.yaml, templates/, rootfs/, rootfs.img), `rootfs` (a bare root file system) or
    `backup` (backup/index.yaml; an instance's volume below backup/container/ and backup/snapshots/NAME/, or a custom
    one below backup/volume/ and backup/volume-snapshots/NAME/; or streams, backup/container.bin and so on). Of a backup
    all parts are taken, or with `prefix` only what is below that part; streams never are: the guard hands them over.
    """

    def __init__(self, layout: str, limits: Limits, *, allow_devices: bool = True, prefix: str = "") -> None:
        self.layout = layout
        self.limits = limits
        self.prefix = prefix
        self.allow_devices = allow_devices
        self.contents = Contents()
        self._links: set[str] = set()

    def admit(self, member: Member) -> bool:
        """Judge one member; raises Refused with the reason."""
        contents = self.contents
        contents.members += 1
        contents.size += member.size
        if contents.members > self.limits.members:
            raise Refused(f"it holds more than {self.limits.members} entries")
        if contents.size > self.limits.size:
            raise TooLarge(f"it unpacks to more than the {self.limits.size} bytes that are allowed or free")
        self._refuse_detours(member)
        if self.layout == "image" and not self._belongs(member):
            return False
        if self.layout == "backup" and not self._belongs_to_backup(member):
            return False
        if member.kind in (CHARACTER, BLOCK_DEVICE):
            return self._admit_device(member)
        return True

    def _refuse_detours(self, member: Member) -> None:
        if self._links:
            parent = member.path
            while slash := parent.rfind("/") + 1:
                parent = parent[: slash - 1]
                if parent in self._links:
                    raise Refused(f"{member.path!r} leads through the symbolic link {parent!r}")
        if member.kind == SYMBOLIC_LINK:
            self._links.add(member.path)
        elif member.path in self._links:
            if member.kind == DIRECTORY:
                raise Refused(f"{member.path!r} is both a symbolic link and a directory")
            self._links.discard(member.path)
        if member.kind == HARD_LINK:
            relative_path(member.link, "the target of a hard link")

    def _belongs(self, member: Member) -> bool:
        top, _, below = member.path.partition("/")
        if top == "":
            return member.kind == DIRECTORY
        if top == "rootfs":
            if not below and member.kind != DIRECTORY:
                raise Refused("rootfs is no directory")
            self.contents.has_root = True
            self._refuse_foreign_link(member)
            return True
        if top == "metadata.yaml" or top == "rootfs.img":
            if below or member.kind != REGULAR:
                raise Refused(f"{top} is no regular file")
            self.contents.has_disk |= top == "rootfs.img"
            return True
        if top == "templates":
            if member.kind != (REGULAR if below else DIRECTORY):
                raise Refused(f"{member.path!r} is no regular file: templates/ holds nothing else")
            if below:
                self.contents.templates.append(below)
            return True
        return False

    def _belongs_to_backup(self, member: Member) -> bool:
        if member.path in (INDEX, STREAMS_HEADER):
            if member.kind != REGULAR:
                raise Refused(f"{member.path} is no regular file")
            return not self.prefix
        if is_stream(member):
            self.contents.streams.append(member.path)
            if len(self.contents.streams) > STREAM_LIMIT:
                raise Refused(f"it holds more than {STREAM_LIMIT} streams")
            return False
        part = backup_part(member.path)
        below = member.path.removeprefix(part).lstrip("/")
        if part == "":
            return False
        if part.startswith("backup/volume"):
            if not below and member.kind != DIRECTORY:
                raise Refused(f"{member.path!r} is no directory")
            self._refuse_foreign_link(member, f"{part}/")
        else:
            self._judge_instance_part(member, part, below)
            if below.partition("/")[0] not in ("", "rootfs", "templates", "metadata.yaml", "backup.yaml"):
                return False
        return not self.prefix or part == self.prefix

    def _judge_instance_part(self, member: Member, part: str, below: str) -> None:
        top, _, rest = below.partition("/")
        if top in ("", "rootfs", "templates") and not rest and member.kind != DIRECTORY:
            raise Refused(f"{member.path!r} is no directory")
        if top == "rootfs":
            self.contents.has_root = True
            self._refuse_foreign_link(member, f"{part}/rootfs/")
        elif top == "templates" and rest and member.kind != REGULAR:
            raise Refused(f"{member.path!r} is no regular file: templates/ holds nothing else")
        elif top in ("metadata.yaml", "backup.yaml") and (rest or member.kind != REGULAR):
            raise Refused(f"{member.path!r} is no regular file")

    def _refuse_foreign_link(self, member: Member, root: str = "rootfs/") -> None:
        if member.kind == HARD_LINK and not relative_path(member.link, "the target of a hard link").startswith(root):
            raise Refused(f"{member.path!r} is a hard link to {member.link!r}, outside rootfs")

    def _admit_device(self, member: Member) -> bool:
        path = member.path
        if self.layout == "backup":
            path = path.removeprefix(backup_part(path) + "/")
        if self.layout != "rootfs":
            path = path.removeprefix("rootfs/")
        if path.startswith("dev/"):
            return False
        if member.kind == BLOCK_DEVICE or member.device not in _SAFE_DEVICES:
            raise Refused(f"{member.path!r} is a device node ({member.kind} {member.device[0]}:{member.device[1]})")
        return self.allow_devices


def backup_part(path: str) -> str:
    """The part of a backup that a member belongs to: backup/container, backup/snapshots/NAME, or none."""
    words = path.split("/")
    if words[0] != "backup" or len(words) < 2:
        return ""
    if words[1] in _VOLUMES:
        return "/".join(words[:2])
    if words[1] in _SNAPSHOTS and len(words) > 2:
        return "/".join(words[:3])
    return ""


def is_stream(member: Member) -> bool:
    """Whether a member of a backup is a volume as its storage driver writes it."""
    words = member.path.split("/")
    if member.kind != REGULAR or words[0] != "backup" or not words[-1].endswith(".bin"):
        return False
    return len(words) == 2 or (len(words) == 3 and words[1] in _SNAPSHOTS)


def relative_path(name: str, what: str = "a member") -> str:
    """A member's name without `.` components and slashes at its end; Refused when it is absolute or dotted."""
    if "\0" in name or len(name) > 4096:
        raise Refused(f"the name of {what} is malformed")
    if name.startswith("/"):
        raise Refused(f"{name!r}, {what}, is an absolute path")
    parts = [part for part in name.split("/") if part not in ("", ".")]
    if ".." in parts:
        raise Refused(f"{name!r}, {what}, climbs out with '..'")
    return "/".join(parts)


@dataclass(slots=True)
class _Pending:
    """Extension headers read ahead of a member: their bytes, and what they say."""

    raw: list[bytes] = field(default_factory=list)
    values: dict[str, str] = field(default_factory=dict)


Receive = Callable[[str], AbstractContextManager[BinaryIO] | None]
"""Opens what takes the content of a stream, by its name; None for one that nobody wants."""


class TarGuard:
    """Reads a tar stream, and hands on to `write` only what the policy admits, the streams of a backup to `receive`."""

    def __init__(
        self,
        source: BinaryIO,
        policy: Policy,
        write: Callable[[bytes], object] | None = None,
        receive: Receive | None = None,
    ) -> None:
        self._source = source
        self._policy = policy
        self._write = write or (lambda _data: None)
        self._receive = receive or (lambda _name: None)
        self._read_bytes = 0

    def run(self) -> Contents:
        """Pass the whole stream through; raises Refused."""
        for header, pending in self._headers():
            member, stored = self._member(header, pending)
            admitted = self._policy.admit(member)
            if admitted:
                for part in pending.raw:
                    self._write(part)
                self._write(header)
            if member.path in _DOCUMENTS.get(self._policy.layout, ()):
                self._document(stored, member.path, admitted)
            elif self._policy.layout == "backup" and is_stream(member):
                self._stream(stored, member.path)
            else:
                self._body(stored, admitted)
        self._write(bytes(2 * BLOCK))
        self._drain()
        return self._policy.contents

    def _headers(self) -> Iterator[tuple[bytes, _Pending]]:
        pending = _Pending()
        while True:
            header = self._exactly(BLOCK, "header")
            if header == bytes(BLOCK):
                if pending.raw:
                    raise Refused("it is damaged: a long name belongs to no member")
                return
            _verify_checksum(header)
            flag = header[156:157]
            if flag in b"LKxg":
                self._extension(flag, header, pending)
                continue
            if flag == b"S":
                header += self._sparse_map(header)
            yield header, pending
            pending = _Pending()

    def _extension(self, flag: bytes, header: bytes, pending: _Pending) -> None:
        size = parse_number(header[124:136])
        if size > EXTENSION_LIMIT or len(pending.raw) > 8:
            raise Refused("it is malformed: the name of a member is too long")
        body = self._exactly(_padded(size), "long name")
        pending.raw += [header, body]
        if flag == b"L":
            pending.values["path"] = _text(body[:size].rstrip(b"\0"))
        elif flag == b"K":
            pending.values["linkpath"] = _text(body[:size].rstrip(b"\0"))
        else:
            values = {key: value for key, value in parse_pax(body[:size]).items() if key in _PAX_NAMES}
            if flag == b"g" and values:
                raise Refused("it is malformed: a global pax header names a member")
            pending.values.update(values)

    def _sparse_map(self, header: bytes) -> bytes:
        extended, more, blocks = b"", header[482] != 0, 0
        while more:
            block = self._exactly(BLOCK, "sparse map")
            extended += block
            more = block[504] != 0
            blocks += 1
            if blocks > 2048:
                raise Refused("it is malformed: a sparse file has too many pieces")
        return extended

    def _member(self, header: bytes, pending: _Pending) -> tuple[Member, int]:
        """The member, and how many bytes of content follow it."""
        values = pending.values
        kind = _KINDS.get(header[156:157])
        if kind is None:
            raise Refused(f"it holds a member of the unknown type {header[156:157]!r}")
        name = values.get("GNU.sparse.name") or values.get("path") or _ustar_name(header)
        size = parse_number(header[124:136])
        if "size" in values:
            size = _decimal(values["size"])
        if kind == REGULAR and name.endswith("/"):
            kind = DIRECTORY
        if self._policy.layout == "image" and name.startswith(_ROOTED):
            # Written by a tool that took the archive for the root; tar cuts the slash off too.
            name = name[1:]
        path = relative_path(name)
        if path == "" and kind != DIRECTORY:
            raise Refused("a member has no name")
        if kind == DIRECTORY and size:
            raise Refused(f"it is malformed: the directory {name!r} has content")
        if kind != REGULAR:
            size = 0
        link = values.get("linkpath") or _text(header[157:257].split(b"\0", 1)[0])
        device = (0, 0)
        if kind in (CHARACTER, BLOCK_DEVICE):
            device = parse_number(header[329:337]), parse_number(header[337:345])
        return Member(path, kind, size, link, device), size

    def _document(self, size: int, name: str, admitted: bool) -> None:
        contents = self._policy.contents
        limit = _DOCUMENTS[self._policy.layout][name]
        if size > limit:
            raise Refused(f"{name} is larger than {limit} bytes")
        is_main = name == _MAIN_DOCUMENT[self._policy.layout]
        if (contents.document if is_main else contents.header) is not None:
            raise Refused(f"it holds {name} twice")
        body = self._exactly(_padded(size), name)
        if is_main:
            contents.document = body[:size]
        else:
            contents.header = body[:size]
        if admitted:
            self._write(body)

    def _stream(self, size: int, name: str) -> None:
        receiver = self._receive(name)
        if receiver is None:
            self._body(size, False)
            return
        with receiver as sink:
            left = size
            while left > 0:
                chunk = self._exactly(min(left, CHUNK), "content")
                sink.write(chunk)
                left -= len(chunk)
        self._exactly(_padded(size) - size, "content")

    def _body(self, size: int, admitted: bool) -> None:
        left = _padded(size)
        while left > 0:
            chunk = self._exactly(min(left, CHUNK), "content")
            if admitted:
                self._write(chunk)
            left -= len(chunk)

    def _exactly(self, size: int, what: str) -> bytes:
        data = self._source.read(size)
        if len(data) != size:
            raise Refused(f"it is damaged: it ends in the middle ({what})")
        self._count(size)
        return data

    def _drain(self) -> None:
        while data := self._source.read(CHUNK):
            self._count(len(data))

    def _count(self, size: int) -> None:
        self._read_bytes += size
        if self._read_bytes > self._policy.limits.size + BLOCK * 8 * (self._policy.contents.members + 4096):
            raise TooLarge(f"it unpacks to more than the {self._policy.limits.size} bytes that are allowed or free")


def parse_number(text: bytes) -> int:
    """A number of a tar header: octal digits, or GNU's base 256."""
    if text[0] & 0x80:
        value = int.from_bytes(bytes([text[0] & 0x7F]) + text[1:], "big")
        if text[0] & 0x40 or value >= 2**63:
            raise Refused("it is malformed: a number is out of range")
        return value
    digits = text.split(b"\0", 1)[0].strip()
    if not digits:
        return 0
    if digits.strip(b"01234567"):
        raise Refused("it is malformed: a number in a header is no number")
    return int(digits, 8)


def parse_pax(body: bytes) -> dict[str, str]:
    """The `LENGTH KEY=VALUE` records of a pax header."""
    values: dict[str, str] = {}
    while body.strip(b"\0"):
        length_text, space, _ = body[:24].partition(b" ")
        length = _decimal(_text(length_text))
        record = body[:length]
        if not space or length < 5 or len(record) != length or record[-1:] != b"\n":
            raise Refused("it is malformed: a pax record has a wrong length")
        key, equals, value = record[len(length_text) + 1 : -1].partition(b"=")
        if not equals:
            raise Refused("it is malformed: a pax record has no value")
        values[_text(key)] = _text(value)
        body = body[length:]
    return values


def _verify_checksum(header: bytes) -> None:
    total = sum(header[:148]) + 8 * 32 + sum(header[156:])
    if parse_number(header[148:156]) != total:
        raise Refused("it is damaged or no tar archive: the checksum of a header is wrong")


def _ustar_name(header: bytes) -> str:
    name = header[:100].split(b"\0", 1)[0]
    prefix = header[345:500].split(b"\0", 1)[0]
    if prefix and header[257:263] == b"ustar\0":
        name = prefix + b"/" + name
    return _text(name)


def _decimal(text: str) -> int:
    if not text.isascii() or not text.isdigit() or len(text) > 18:
        raise Refused("it is malformed: a number in a pax record is no number")
    return int(text)


def _text(data: bytes) -> str:
    return os.fsdecode(data)


def _padded(size: int) -> int:
    return -(-size // BLOCK) * BLOCK
