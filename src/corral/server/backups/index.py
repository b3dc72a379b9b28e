"""What backups say of themselves: backup/index.yaml and backup/optimized_header.yaml, and backup.yaml of an instance.

All of it may be hostile: it is decoded into types, names are checked, and nothing is taken that this server cannot use.
"""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, TypeVar

import msgspec
import yaml

from corral.errors import InvalidRequest, NotSupported
from corral.server.storage.driver import SentPart

Devices = dict[str, dict[str, str]]
T = TypeVar("T")

CONTAINER, CUSTOM = "container", "custom"
STREAM_NAMES: Mapping[str, tuple[str, str]] = {
    CONTAINER: ("backup/container", "backup/snapshots"),
    CUSTOM: ("backup/volume", "backup/volume-snapshots"),
}
"""Where the volume and its snapshots are in the archive, by the backup's type."""

_Base: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class _Loader(_Base):  # type: ignore[misc]
    """Times stay text."""

    yaml_implicit_resolvers: ClassVar[dict[str, Any]] = {
        letter: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:timestamp"]
        for letter, resolvers in _Base.yaml_implicit_resolvers.items()
    }


class IndexedInstance(msgspec.Struct, kw_only=True):
    """An instance."""

    name: str = ""
    architecture: str = ""
    config: dict[str, str] | None = None
    devices: Devices | None = None
    expanded_devices: Devices | None = None
    ephemeral: bool = False
    profiles: list[str] | None = None
    description: str = ""
    created_at: str = ""
    last_used_at: str = ""
    type: str = "container"


class IndexedSnapshot(msgspec.Struct, kw_only=True):
    """A snapshot of an instance."""

    name: str
    created_at: str = ""
    expires_at: str = ""
    config: dict[str, str] | None = None
    devices: Devices | None = None
    description: str = ""


class IndexedVolume(msgspec.Struct, kw_only=True):
    """A volume, or one of its snapshots."""

    name: str = ""
    type: str = ""
    description: str = ""
    config: dict[str, str] | None = None
    content_type: str = ""
    created_at: str = ""
    expires_at: str | None = None


class IndexedPool(msgspec.Struct, kw_only=True):
    """The pool that it was in."""

    name: str = ""
    driver: str = ""
    description: str = ""
    config: dict[str, str] | None = None


class Description(msgspec.Struct, kw_only=True):
    """What backup.yaml holds, and what an index has as its config."""

    container: IndexedInstance | None = None
    instance: IndexedInstance | None = None
    snapshots: list[IndexedSnapshot] | None = None
    pool: IndexedPool | None = None
    volume: IndexedVolume | None = None
    volume_snapshots: list[IndexedVolume] | None = None

    @property
    def described(self) -> IndexedInstance | None:
        """The instance, under the name that it has or had."""
        return self.container or self.instance


class Index(msgspec.Struct, kw_only=True):
    """backup/index.yaml."""

    name: str = ""
    backend: str = ""
    pool: str = ""
    snapshots: list[str] | None = None
    optimized: bool | None = None
    optimized_header: bool | None = None
    type: str = CONTAINER
    config: Description | None = None


class HeaderPart(msgspec.Struct, kw_only=True):
    """One subvolume that the backup has a stream of."""

    path: str
    snapshot: str = ""
    readonly: bool = False
    uuid: str = ""


class Header(msgspec.Struct, kw_only=True):
    """backup/optimized_header.yaml."""

    subvolumes: list[HeaderPart]


def parse_document(text: str, kind: type[T], what: str) -> T:
    """A document of a backup; raises InvalidRequest that says what is wrong with it."""
    try:
        if any(isinstance(event, yaml.AliasEvent) for event in yaml.parse(text, Loader=_Loader)):
            raise InvalidRequest(f"Invalid backup: {what} refers to itself")
        return msgspec.convert(yaml.load(text, Loader=_Loader), kind, strict=False)
    except (yaml.YAMLError, msgspec.ValidationError, ValueError, RecursionError) as error:
        raise InvalidRequest(f"Invalid backup: {what}: {error}") from error


def parse_index(text: str, wanted: str) -> Index:
    """The index of a backup of the wanted type; raises InvalidRequest for one that this server cannot use."""
    index = parse_document(text, Index, "index.yaml")
    if index.type != wanted:
        if index.type not in (CONTAINER, CUSTOM):
            raise NotSupported(f"Backups of the type {index.type!r} cannot be imported by this server")
        hint = "storage volume import" if index.type == CUSTOM else "import"
        raise InvalidRequest(f"The backup is one of the type {index.type!r}: use the command `{hint}`")
    config = index.config
    if config is None or (config.described if wanted == CONTAINER else config.volume) is None:
        raise InvalidRequest(f"Invalid backup: index.yaml does not describe the {wanted}")
    for one in config.volume_snapshots or []:
        # Once written with the volume's name before it.
        one.name = one.name.rpartition("/")[2]
    described = [one.name for one in (config.snapshots if wanted == CONTAINER else config.volume_snapshots) or []]
    listed = index.snapshots or []
    if sorted(listed) != sorted(described) or len(set(listed)) != len(listed):
        raise InvalidRequest("Invalid backup: the snapshots of index.yaml are not those that it describes")
    return index


def parse_parts(index: Index, header: str | None) -> list[HeaderPart]:
    """Which subvolumes an optimized backup has, in the order in which they are to be received."""
    snapshots = list(index.snapshots or [])
    if header is None:
        if index.optimized_header:
            raise InvalidRequest("Invalid backup: backup/optimized_header.yaml is missing")
        return [*(HeaderPart(path="/", snapshot=name, readonly=True) for name in snapshots), HeaderPart(path="/")]
    parts = parse_document(header, Header, "optimized_header.yaml").subvolumes
    order = {name: number for number, name in enumerate([*snapshots, ""])}
    seen = set()
    for part in parts:
        words = part.path.split("/")[1:]
        if not part.path.startswith("/") or (part.path != "/" and any(word in ("", ".", "..") for word in words)):
            raise InvalidRequest(f"Invalid backup: optimized_header.yaml has the path {part.path!r}")
        if part.snapshot not in order or (part.snapshot, part.path) in seen:
            raise InvalidRequest("Invalid backup: optimized_header.yaml does not fit index.yaml")
        seen.add((part.snapshot, part.path))
    if any((name, "/") not in seen for name in order):
        raise InvalidRequest("Invalid backup: optimized_header.yaml has not all volumes of index.yaml")
    return sorted(parts, key=lambda part: (order[part.snapshot], part.path))


def render_header(parts: Sequence[SentPart]) -> dict[str, Any]:
    """What optimized_header.yaml says."""
    return {
        "subvolumes": [
            {"path": part.path, "snapshot": part.snapshot, "readonly": part.read_only, "uuid": part.uuid}
            for part in parts
        ]
    }


def stream_name(kind: str, snapshot: str, path: str) -> str:
    """The member of the archive that has a subvolume's stream."""
    main, snapshots = STREAM_NAMES[kind]
    nested = path.strip("/").replace("-", "--").replace("/", "-")
    stem = f"{snapshots}/{snapshot}" if snapshot else main
    return f"{stem}_{nested}.bin" if nested else f"{stem}.bin"
