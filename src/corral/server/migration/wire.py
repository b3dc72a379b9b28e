"""The messages of LXD's migration protocol as bytes (protobuf, proto2): headers, snapshots, the control message. Pure.

Only what is used is decoded; unknown fields are left alone, as protobuf has it.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from corral.errors import InvalidRequest

RSYNC = 0
CRIU_RSYNC, CRIU_NONE = 0, 2
INDEX_VERSION = 1
XATTRS, DELETE, COMPRESS, BIDIRECTIONAL, LINKS_AND_ACLS = 1, 2, 3, 4, 101
"""Fields of the features of rsync; the last one is our own, which other servers ignore."""

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_MASK = (1 << 64) - 1
_MAX_FIELDS = 100_000

Fields = dict[int, list[int | bytes]]


@dataclass(frozen=True, slots=True)
class IdRange:
    """A range of ids that the files of a container have."""

    is_uid: bool
    is_gid: bool
    host_id: int
    ns_id: int
    size: int


@dataclass(frozen=True, slots=True)
class SnapshotRecord:
    """A snapshot as it is told to the other side. Times are seconds since the epoch; 0 and less are none."""

    name: str
    config: Mapping[str, str] = field(default_factory=dict)
    profiles: tuple[str, ...] = ()
    ephemeral: bool = False
    devices: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    architecture: int = 0
    stateful: bool = False
    created_at: int = 0
    last_used_at: int = 0
    expires_at: int = 0


@dataclass(frozen=True, slots=True)
class Header:
    """What one side offers and the other one answers. `rsync` holds the numbers of features; None is none told."""

    filesystem: int = RSYNC
    criu: int | None = None
    idmap: tuple[IdRange, ...] = ()
    snapshot_names: tuple[str, ...] = ()
    snapshots: tuple[SnapshotRecord, ...] = ()
    rsync: frozenset[int] | None = None
    refresh: bool = False
    index_version: int = 0


@dataclass(frozen=True, slots=True)
class Control:
    """The end of a migration, or why there is none."""

    success: bool
    message: str = ""


def encode_header(header: Header) -> bytes:
    """The bytes of a header."""
    parts = [_number(1, header.filesystem)]
    if header.criu is not None:
        parts.append(_number(2, header.criu))
    parts += [_text(3, _encode_range(one)) for one in header.idmap]
    parts += [_text(4, name.encode()) for name in header.snapshot_names]
    parts += [_text(5, _encode_snapshot(one)) for one in header.snapshots]
    parts.append(_number(7, 0))
    if header.rsync is not None:
        features = (_number(one, one in header.rsync) for one in (XATTRS, DELETE, COMPRESS, BIDIRECTIONAL))
        own = _number(LINKS_AND_ACLS, 1) if LINKS_AND_ACLS in header.rsync else b""
        parts.append(_text(8, b"".join(features) + own))
    parts.append(_number(9, header.refresh))
    parts.append(_number(13, header.index_version))
    return b"".join(parts)


def decode_header(data: bytes) -> Header:
    """A header. Raises InvalidRequest for bytes that are none."""
    fields = _decode(data)
    rsync = fields.get(8)
    return Header(
        filesystem=_one(fields, 1),
        criu=_one(fields, 2) if 2 in fields else None,
        idmap=tuple(_decode_range(one) for one in _messages(fields, 3)),
        snapshot_names=tuple(_string(one) for one in _messages(fields, 4)),
        snapshots=tuple(_decode_snapshot(one) for one in _messages(fields, 5)),
        rsync=None if rsync is None else _features(_bytes(rsync[-1])),
        refresh=bool(_one(fields, 9)),
        index_version=_one(fields, 13),
    )


def encode_control(control: Control) -> bytes:
    """The bytes of a control message."""
    return _number(1, control.success) + (_text(2, control.message.encode()) if control.message else b"")


def decode_control(data: bytes) -> Control:
    """A control message. Raises InvalidRequest for bytes that are none."""
    fields = _decode(data)
    return Control(bool(_one(fields, 1)), _string(_bytes(fields[2][-1])) if 2 in fields else "")


def _features(data: bytes) -> frozenset[int]:
    return frozenset(number for number, values in _decode(data).items() if values[-1])


def _encode_range(one: IdRange) -> bytes:
    values = (one.is_uid, one.is_gid, one.host_id, one.ns_id, one.size)
    return b"".join(_number(number, value) for number, value in enumerate(values, 1))


def _decode_range(data: bytes) -> IdRange:
    fields = _decode(data)
    return IdRange(bool(_one(fields, 1)), bool(_one(fields, 2)), _one(fields, 3), _one(fields, 4), _one(fields, 5))


def _encode_snapshot(one: SnapshotRecord) -> bytes:
    parts = [_text(1, one.name.encode()), *(_text(2, pair) for pair in _encode_config(one.config))]
    parts += [_text(3, profile.encode()) for profile in one.profiles]
    parts.append(_number(4, one.ephemeral))
    for name, device in one.devices.items():
        content = b"".join(_text(2, pair) for pair in _encode_config(device))
        parts.append(_text(5, _text(1, name.encode()) + content))
    numbers = (one.architecture, one.stateful, one.created_at, one.last_used_at, one.expires_at)
    parts += [_number(number, value) for number, value in enumerate(numbers, 6)]
    return b"".join(parts)


def _decode_snapshot(data: bytes) -> SnapshotRecord:
    fields = _decode(data)
    devices = {}
    for one in _messages(fields, 5):
        device = _decode(one)
        devices[_string(_bytes(device.get(1, [b""])[-1]))] = _decode_config(_messages(device, 2))
    return SnapshotRecord(
        name=_string(_bytes(fields.get(1, [b""])[-1])),
        config=_decode_config(_messages(fields, 2)),
        profiles=tuple(_string(one) for one in _messages(fields, 3)),
        ephemeral=bool(_one(fields, 4)),
        devices=devices,
        architecture=_one(fields, 6),
        stateful=bool(_one(fields, 7)),
        created_at=_one(fields, 8),
        last_used_at=_one(fields, 9),
        expires_at=_one(fields, 10),
    )


def _encode_config(config: Mapping[str, str]) -> Iterator[bytes]:
    return (_text(1, key.encode()) + _text(2, value.encode()) for key, value in config.items())


def _decode_config(pairs: Iterable[bytes]) -> dict[str, str]:
    found = (_decode(one) for one in pairs)
    return {_string(_bytes(one.get(1, [b""])[-1])): _string(_bytes(one.get(2, [b""])[-1])) for one in found}


def _varint(value: int) -> bytes:
    value &= _MASK
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)


def _number(number: int, value: int) -> bytes:
    return _varint(number << 3 | _VARINT) + _varint(value)


def _text(number: int, value: bytes) -> bytes:
    return _varint(number << 3 | _BYTES) + _varint(len(value)) + value


def _decode(data: bytes) -> Fields:
    """All fields of a message by number, in their order; numbers are signed."""
    fields: Fields = {}
    at = count = 0
    while at < len(data):
        count += 1
        if count > _MAX_FIELDS:
            raise InvalidRequest("The other server sent a message with too many fields")
        tag, at = _read_varint(data, at)
        number, kind = tag >> 3, tag & 7
        value: int | bytes
        if kind == _VARINT:
            value, at = _read_varint(data, at)
            value = value - (1 << 64) if value >> 63 else value
        elif kind in (_BYTES, _FIXED64, _FIXED32):
            size = {_FIXED64: 8, _FIXED32: 4}.get(kind, 0)
            if kind == _BYTES:
                size, at = _read_varint(data, at)
            if size > len(data) - at:
                raise InvalidRequest("The other server sent a message that is cut off")
            value, at = data[at : at + size], at + size
        else:
            raise InvalidRequest("The other server sent a message that is none of its protocol")
        fields.setdefault(number, []).append(value)
    return fields


def _read_varint(data: bytes, at: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if at >= len(data):
            raise InvalidRequest("The other server sent a message that is cut off")
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if not byte & 0x80:
            return value & _MASK, at
    raise InvalidRequest("The other server sent a number that is too long")


def _one(fields: Fields, number: int) -> int:
    value = fields.get(number, [0])[-1]
    if not isinstance(value, int):
        raise InvalidRequest("The other server sent text in the place of a number")
    return value


def _bytes(value: int | bytes) -> bytes:
    if not isinstance(value, bytes):
        raise InvalidRequest("The other server sent a number in the place of text")
    return value


def _messages(fields: Fields, number: int) -> list[bytes]:
    return [_bytes(one) for one in fields.get(number, [])]


def _string(data: bytes) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise InvalidRequest("The other server sent text that is not UTF-8") from None
