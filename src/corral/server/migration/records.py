"""Between this server's records and what a migration tells of them. Pure."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import msgspec

from corral.errors import InternalError, InvalidRequest
from corral.server.events.model import format_time
from corral.server.host.isolation.idmap import IdMap
from corral.server.instances.model import Instance, Snapshot
from corral.server.migration.wire import IdRange, SnapshotRecord
from corral.server.snapshots import naming
from corral.server.storage.model import Volume, VolumeSnapshot

GENERATION = "volatile.uuid.generation"
"""A key that LXD 5.0 does not know and refuses."""

_LATEST = 253402300799
"""The last second of the year 9999."""


class _Answer(msgspec.Struct):
    status_code: int = msgspec.field(name="StatusCode", default=200)
    error: str = msgspec.field(name="Error", default="")


class DescribedSnapshot(msgspec.Struct):
    """A volume's snapshot in the description that goes before the files."""

    name: str = ""
    description: str = ""
    config: dict[str, str] | None = None
    created_at: str = ""
    expires_at: str | None = None


class DescribedVolume(msgspec.Struct):
    """A volume in that description."""

    config: dict[str, str] | None = None
    description: str = ""


class DescribedInstance(msgspec.Struct):
    """All of that description that a receiver needs."""

    volume: DescribedVolume | None = None
    volume_snapshots: list[DescribedSnapshot] | None = None


class _Index(msgspec.Struct):
    config: DescribedInstance | None = None


def read_index(data: bytes) -> DescribedInstance:
    """What the source describes. Raises InvalidRequest for what cannot be read."""
    try:
        index = msgspec.json.decode(data, type=_Index)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise InvalidRequest(f"The source server's description cannot be read: {error}") from error
    return index.config or DescribedInstance()


def check_answer(data: bytes) -> None:
    """Raise what the target answered to a description, unless it is content."""
    try:
        answer = msgspec.json.decode(data, type=_Answer)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise InvalidRequest(f"The target server's answer cannot be read: {error}") from error
    if answer.status_code != 200:
        raise InternalError(f"The target server refused: {answer.error}")


def answer(*, refresh: bool) -> dict[str, object]:
    """The answer to a description."""
    return {"StatusCode": 200, "Error": "", "Refresh": refresh}


def describe_volume(volume: Volume, snapshots: Sequence[VolumeSnapshot]) -> dict[str, Any]:
    """The description of a custom volume with its snapshots, in LXD's shape."""
    return {
        "volume": {
            "name": volume.name,
            "type": volume.type.value,
            "content_type": volume.content_type.value,
            "description": volume.description,
            "config": dict(volume.config),
            "created_at": volume.created_at or "0001-01-01T00:00:00Z",
        },
        "volume_snapshots": [
            {
                "name": one.name,
                "description": one.description,
                "content_type": volume.content_type.value,
                "config": dict(one.config),
                "created_at": one.created_at or "0001-01-01T00:00:00Z",
                "expires_at": one.expires_at,
            }
            for one in snapshots
        ],
    }


def to_seconds(text: str | None) -> int:
    """A time as seconds since the epoch; 0 for none."""
    if not text or text.startswith("0001-"):
        return 0
    try:
        return int(datetime.fromisoformat(text.replace("Z", "+00:00")).timestamp())
    except ValueError:
        return 0


def to_time(seconds: int) -> str | None:
    """Seconds since the epoch as a row keeps times; None for none."""
    if not 0 < seconds <= _LATEST:
        return None
    return format_time(datetime.fromtimestamp(seconds, UTC))


def idmap_to_wire(idmap: IdMap | None) -> tuple[IdRange, ...]:
    """The map of a volume's files as it is told."""
    if idmap is None:
        return ()
    return tuple(
        IdRange(bool(one["Isuid"]), bool(one["Isgid"]), one["Hostid"], one["Nsid"], one["Maprange"])
        for one in idmap.to_json()
    )


def idmap_to_json(ranges: Sequence[IdRange]) -> str:
    """The map of received files in the stored form. Raises InvalidRequest for ranges that cannot be."""
    found = []
    for one in ranges:
        if not (0 <= one.host_id < 1 << 32 and 0 <= one.ns_id < 1 << 32 and 0 < one.size <= 1 << 32):
            raise InvalidRequest("The source server told an impossible id map")
        entry = {
            "Isuid": one.is_uid,
            "Isgid": one.is_gid,
            "Hostid": one.host_id,
            "Nsid": one.ns_id,
            "Maprange": one.size,
        }
        found.append(entry)
    return msgspec.json.encode(found).decode()


def snapshot_to_wire(instance: Instance, snapshot: Snapshot) -> SnapshotRecord:
    """A snapshot as it is told."""
    return SnapshotRecord(
        name=snapshot.name,
        config={key: value for key, value in snapshot.config.items() if key != GENERATION},
        profiles=instance.profiles,
        ephemeral=instance.ephemeral,
        devices=snapshot.devices,
        architecture=instance.architecture,
        stateful=snapshot.stateful,
        created_at=to_seconds(snapshot.created_at),
        last_used_at=0,
        expires_at=to_seconds(snapshot.expires_at),
    )


def check_snapshots(names: Sequence[str]) -> None:
    """Raise InvalidRequest for names that cannot be a volume's snapshots."""
    for name in names:
        naming.check_name(name)
    if len(set(names)) != len(names):
        raise InvalidRequest("The source server names a snapshot twice")
