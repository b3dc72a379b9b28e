"""The ranges of ids that root may hand out, and maps as they are written in configs. Maps are in helper/idmap.py."""

import shutil
from collections.abc import Sequence
from pathlib import Path

from corral.errors import InvalidRequest, NotSupported
from corral.helper.idmap import IdEntry as IdEntry
from corral.helper.idmap import IdMap as IdMap
from corral.helper.idmap import IdRange as IdRange
from corral.helper.shift import shift_acl as shift_acl
from corral.helper.shift import shift_capability as shift_capability
from corral.helper.shift import shift_tree as shift_tree
from corral.helper.shift import target_of as target_of
from corral.helper.shift import undo_shift as undo_shift

DEFAULT_BASE = 1_000_000
DEFAULT_SIZE = 1_000_000_000
MINIMUM_SIZE = 65_536


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


def check_set_aside(idmap: IdMap, etc: str | Path = "/etc") -> None:
    """Raise InvalidRequest where a map has ids of the host that are not set aside for root.

    So newuidmap(1) has it, where it is installed: root's own single id, and the ranges of /etc/subuid and /etc/subgid.
    """
    if not (shutil.which("newuidmap") and shutil.which("newgidmap")):
        return
    for name, uids in (("subuid", True), ("subgid", False)):
        try:
            allowed = _joined(parse_subids(Path(etc, name).read_text()))
        except OSError:
            allowed = []
        for entry in idmap.entries:
            if not (entry.uids if uids else entry.gids) or (entry.outside, entry.size) == (0, 1):
                continue
            if not any(one.base <= entry.outside and entry.outside + entry.size <= one.end for one in allowed):
                line = f"root:{entry.outside}:{entry.size}"
                raise InvalidRequest(
                    f"The id map of the container has ids of the host that {Path(etc, name)} does not set aside for "
                    f"containers: to allow it, add the line {line} there"
                )


def _joined(ranges: Sequence[IdRange]) -> list[IdRange]:
    """The same ids in as few ranges as there can be."""
    joined: list[IdRange] = []
    for one in sorted(ranges):
        if joined and one.base <= joined[-1].end:
            last = joined.pop()
            joined.append(IdRange(last.base, max(last.end, one.end) - last.base))
        else:
            joined.append(one)
    return joined


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
