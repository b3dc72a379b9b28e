"""Config keys of pools and volumes, and how a volume inherits the pool's `volume.*` defaults. Pure."""

import json
from collections.abc import Mapping

from corral.errors import InvalidRequest
from corral.server.keys import BOOL, EXPIRY, INTEGER, SIZE, STRING, Key, KeyTable
from corral.server.snapshots.naming import DEFAULT_PATTERN, PATTERN
from corral.server.snapshots.schedule import VOLUME_SCHEDULE
from corral.server.storage.model import ContentType, VolumeType

_CUSTOM = frozenset({"custom"})

VOLUME_KEYS = KeyTable(
    Key("size", SIZE, applies=_CUSTOM, doc="Limit of the volume's size.", scope="local"),
    Key("snapshots.expiry", EXPIRY, doc="Time until snapshots are deleted, such as 1w 2d."),
    Key(
        "snapshots.schedule",
        VOLUME_SCHEDULE,
        doc="When snapshots are taken: a cron expression or an alias such as @daily.",
    ),
    Key("snapshots.pattern", PATTERN, default=DEFAULT_PATTERN, doc="Template of the snapshots' names."),
    Key("security.shifted", BOOL, applies=_CUSTOM, doc="Allow use by instances with different idmaps."),
    Key("security.unmapped", BOOL, applies=_CUSTOM, doc="Do not map the volume's owners."),
    Key("volatile.idmap.last", STRING, doc="The idmap that the volume's files have."),
    Key("volatile.idmap.next", STRING, doc="The idmap that the volume's files shall get."),
    Key("volatile.rootfs.size", INTEGER, applies=frozenset({"image"}), doc="Size of an image's disk."),
)
_DEFAULTS = (
    "size",
    "snapshots.expiry",
    "snapshots.schedule",
    "snapshots.pattern",
    "security.shifted",
    "security.unmapped",
)

POOL_KEYS = KeyTable(
    Key("source", STRING, scope="local", doc="Directory, device, subvolume or file that holds the pool."),
    Key("volatile.initial_source", STRING, scope="local", doc="The source as it was given."),
    Key("rsync.bwlimit", SIZE, doc="Limit of the traffic of rsync."),
    Key("rsync.compression", BOOL, default="true", doc="Whether rsync compresses what it sends."),
    *(
        Key(f"volume.{key.name}", key.type, doc=f"Default of the volumes: {key.doc}")
        for key in VOLUME_KEYS
        if key.name in _DEFAULTS
    ),
)


def quoted(text: str) -> str:
    """A name in double quotes, as LXD's messages have it."""
    return json.dumps(text, ensure_ascii=False)


def validate_pool(config: Mapping[str, str], driver_keys: KeyTable) -> None:
    """Check a pool's config; raises InvalidRequest for the first wrong key."""
    (POOL_KEYS + driver_keys).validate(
        config,
        lambda name: f"Invalid option {quoted(name)}",
        lambda name: f"Invalid value for option {quoted(name)}",
    )


def validate_volume(config: Mapping[str, str], name: str, kind: VolumeType, content: ContentType) -> None:
    """Check a volume's config; raises InvalidRequest for the first wrong key."""
    for option, text in config.items():
        if VOLUME_KEYS.is_free(option):
            continue
        key = VOLUME_KEYS.find(option)
        filesystem_only = option.startswith(("security.", "volatile.idmap."))
        if key is None or (option.startswith("security.") and kind is not VolumeType.CUSTOM):
            raise InvalidRequest(f"Invalid option for volume {quoted(name)} option {quoted(option)}")
        if filesystem_only and content is not ContentType.FILESYSTEM:
            raise InvalidRequest(f"Invalid option for volume {quoted(name)} option {quoted(option)}")
        key.check(text, f"Invalid value for volume {quoted(name)} option {quoted(option)}")
    if config.get("size") and kind is not VolumeType.CUSTOM:
        raise InvalidRequest('Volume "size" property is not valid for volume type')
    if _is_true(config, "security.shifted") and _is_true(config, "security.unmapped"):
        raise InvalidRequest("security.unmapped and security.shifted are mutually exclusive")


def fits_custom(name: str) -> bool:
    """Whether a custom volume can have a key at all: those of other drivers' volumes do not fit."""
    key = VOLUME_KEYS.find(name)
    return VOLUME_KEYS.is_free(name) or (key is not None and (not key.applies or "custom" in key.applies))


def _is_true(config: Mapping[str, str], name: str) -> bool:
    return bool(config.get(name)) and BOOL.parse(config[name])


def with_defaults(
    config: Mapping[str, str], pool_config: Mapping[str, str], kind: VolumeType, content: ContentType
) -> dict[str, str]:
    """A new volume's config, completed by the pool's `volume.*` keys that fit the volume."""
    completed = dict(config)
    for name, value in pool_config.items():
        option = name.removeprefix("volume.")
        custom_files = kind is VolumeType.CUSTOM and content is ContentType.FILESYSTEM
        if option == name or (option == "size" and kind is not VolumeType.CUSTOM):
            continue
        if option.startswith("security.") and not custom_files:
            continue
        if not completed.get(option):
            completed[option] = value
    return completed


def quota_of(config: Mapping[str, str], pool_config: Mapping[str, str], kind: VolumeType) -> int | None:
    """The limit in bytes of a volume: its own `size`, else the pool's `volume.size`; images have none."""
    if kind is VolumeType.IMAGE:
        return None
    return SIZE.parse(config.get("size") or pool_config.get("volume.size") or "") or None
