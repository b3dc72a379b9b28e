"""Which ids a container's users have on the host: planned from its config, remembered in volatile keys. Pure.

`volatile.idmap.next` is the map of the next start, `volatile.idmap.current` that of the last one, and
`volatile.last_state.idmap` the map by which the files on the disk are owned (`[]`: as they are inside).
"""

import functools
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from corral.errors import InvalidRequest, NotSupported
from corral.server.host.isolation.idmap import IdEntry, IdMap, IdRange, parse_raw_idmap
from corral.server.instances.model import Instance
from corral.units import is_true

ISOLATED_SIZE = 65536
KEYS = (
    "security.idmap.isolated",
    "security.idmap.base",
    "security.idmap.size",
    "raw.idmap",
    "security.privileged",
)
"""A change of one of these makes another map."""

PROTECTED = ("volatile.idmap.base", "volatile.idmap.current", "volatile.idmap.next", "volatile.last_state.idmap")
"""Keys that users must not remove."""


@dataclass(frozen=True, slots=True)
class HostIds:
    """The ids that this server may give to containers; `reason` says why there are none."""

    uids: IdRange | None
    gids: IdRange | None
    reason: str = ""


class Planned(dict[int, IdRange]):
    """Ranges of isolated containers that were chosen and are not on record yet, by instance. One part of the daemon."""

    def besides(self, instance_id: int) -> list[IdRange]:
        """Those of other instances."""
        return [one for key, one in self.items() if key != instance_id]


@dataclass(frozen=True, slots=True)
class Plan:
    """A map (None: privileged) and the first id of an isolated one (0 for the shared one)."""

    idmap: IdMap | None
    base: int = 0

    @property
    def volatile(self) -> dict[str, str]:
        return {"volatile.idmap.next": to_text(self.idmap), "volatile.idmap.base": str(self.base)}


def to_text(idmap: IdMap | None) -> str:
    """The stored form of a map; `[]` is none."""
    return json.dumps(idmap.to_json() if idmap is not None else [], separators=(",", ":"))


@functools.lru_cache(maxsize=256)
def of_text(text: str | None) -> IdMap | None:
    """A stored map."""
    items = json.loads(text) if text else []
    return IdMap.from_json(items) if items else None


def plan(config: Mapping[str, str], ids: HostIds, taken: Iterable[IdRange]) -> Plan:
    """The map for an expanded config; `taken` are the ranges of the other isolated containers."""
    if is_true(config.get("security.privileged")):
        return Plan(None)
    if ids.uids is None or ids.gids is None:
        raise NotSupported(ids.reason or "No uids are set aside for containers: only privileged containers can run")
    if not is_true(config.get("security.idmap.isolated")):
        return Plan(_with_raw(_map_of(ids.uids, ids.gids), config))
    if config.get("security.idmap.base"):
        chosen = isolated_range(config, int(config["security.idmap.base"]))
    else:
        chosen = find_free(ids.uids, isolated_range(config, 0).size, taken)
    return Plan(_with_raw(_map_of(chosen, chosen), config), chosen.base)


def isolated_range(config: Mapping[str, str], base: int) -> IdRange:
    """The ids of an isolated container, from its first one on."""
    return IdRange(base, int(config.get("security.idmap.size") or 0) or ISOLATED_SIZE)


def _map_of(uids: IdRange, gids: IdRange) -> IdMap:
    return IdMap((IdEntry(True, False, uids.base, 0, uids.size), IdEntry(False, True, gids.base, 0, gids.size)))


def _with_raw(idmap: IdMap, config: Mapping[str, str]) -> IdMap:
    for entry in parse_raw_idmap(config.get("raw.idmap", "")):
        if any(_share_host_ids(entry, other) for other in idmap.entries):
            raise InvalidRequest("Failed to get ID map: Host id is in the range of subids")
        idmap = idmap.with_entry(entry)
    return idmap


def _share_host_ids(one: IdEntry, other: IdEntry) -> bool:
    """Whether an id of the host would have two meanings: such maps the kernel does not take."""
    same_kind = (one.uids and other.uids) or (one.gids and other.gids)
    return same_kind and one.outside < other.outside + other.size and other.outside < one.outside + one.size


def find_free(host: IdRange, size: int, taken: Iterable[IdRange]) -> IdRange:
    """The lowest free range; the first 65536 ids stay with the containers that share their map."""
    base = host.base + ISOLATED_SIZE
    for one in sorted(taken):
        if one.base >= base + size:
            break
        base = max(base, one.end)
    if base + size > host.end:
        raise InvalidRequest("Not enough uid/gid available for the container")
    return IdRange(base, size)


def taken_ranges(instances: Iterable[Instance], ids: HostIds, besides: str = "") -> list[IdRange]:
    """The ranges of isolated containers other than one (by its name on this server).

    One whose config has changed runs on with the ids that it was started with: these are its own, too.
    """
    ranges = []
    for instance in instances:
        config = instance.expanded_config
        if instance.storage_name == besides or not instance.is_container:
            continue
        if not instance.privileged and is_true(config.get("security.idmap.isolated")):
            base = config.get("volatile.idmap.base")
            ranges += [isolated_range(config, int(base))] if base else []
        current = of_text(config.get("volatile.idmap.current"))
        if current is not None and not _is_shared(current, ids):
            ranges += [IdRange(one.outside, one.size) for one in current.entries]
    return ranges


def _is_shared(idmap: IdMap, ids: HostIds) -> bool:
    """Whether a map has some of the ids that those containers share which are not isolated."""
    if ids.uids is None:
        return True
    first, end = ids.uids.base, ids.uids.base + ISOLATED_SIZE
    return any(one.outside < end and one.outside + one.size > first for one in idmap.entries)
