"""Maps between the ids of a user namespace and the host's. Pure."""

from collections.abc import Iterable
from dataclasses import dataclass


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
