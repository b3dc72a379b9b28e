"""The program fuidshift: changes the owners of a tree by ranges that are given, as one of its name does with LXD."""

import os
import sys
from functools import partial

from corral.errors import CorralError, InvalidRequest
from corral.helper.idmap import IdEntry, IdMap
from corral.helper.shift import shift_known, walk

_USAGE = """Usage: fuidshift <directory> [-t|--test] [-r|--reverse] <range>...

Give the files of a directory other owners: those that they have on the host where a container with these ranges uses
them, or with --reverse those that they have inside. Ids that are in no range stay as they are.

A range is <u|g|b>:<first id inside>:<first id on the host>:<how many>, for users (u), groups (g) or both (b).

  -r, --reverse   from the ids on the host to those inside
  -t, --test      only tell what would be done

Example: fuidshift my-dir/ b:0:100000:65536 u:10000:1000:1
"""


def main(argv: list[str]) -> int:
    """Run the program and return its exit status."""
    try:
        return _run(argv[1:])
    except (CorralError, OSError) as error:
        print(f"Error: {error}", file=sys.stderr)
        return 1


def _run(words: list[str]) -> int:
    flags = {word for word in words if word.startswith("-")}
    known = {"-t", "--test", "-r", "--reverse", "-h", "--help"}
    if flags - known:
        raise InvalidRequest(f"unknown flag: {min(flags - known)}")
    args = [word for word in words if not word.startswith("-")]
    if not args or flags & {"-h", "--help"}:
        print(_USAGE, end="")
        return 0
    if not flags & {"-t", "--test"} and os.geteuid() != 0:
        raise InvalidRequest("This tool must be run as root")
    if len(args) < 2:
        print(_USAGE, end="")
        raise InvalidRequest("Missing required arguments")
    root = os.path.realpath(args[0])
    if not os.path.exists(root):
        raise InvalidRequest(f"No such file or directory: {args[0]!r}")
    idmap = parse_ranges(args[1:])
    reverse = bool(flags & {"-r", "--reverse"})
    if flags & {"-t", "--test"}:
        walk(root, partial(_tell, root, idmap, reverse))
    else:
        shift_known(root, *((idmap, IdMap()) if reverse else (IdMap(), idmap)))
    return 0


def parse_ranges(texts: list[str]) -> IdMap:
    """The map of some ranges. Raises InvalidRequest for a malformed one and for ranges that overlap."""
    entries: list[IdEntry] = []
    for text in texts:
        entry = _parse_range(text)
        if any(_overlap(entry, other) for other in entries):
            raise InvalidRequest("Conflicting id mapping")
        entries.append(entry)
    return IdMap(tuple(entries))


def _parse_range(text: str) -> IdEntry:
    kind, *numbers = text.split(":")
    if (
        kind not in ("u", "g", "b")
        or len(numbers) != 3
        or not all(one.isdecimal() and one.isascii() for one in numbers)
    ):
        raise InvalidRequest(f"Invalid range {text!r}: give it as <u|g|b>:<first inside>:<first on the host>:<size>")
    inside, outside, size = map(int, numbers)
    if size == 0 or max(inside, outside) + size > 2**32 - 1:
        raise InvalidRequest(f"Invalid range {text!r}: there are no such ids")
    return IdEntry(kind in "ub", kind in "gb", outside, inside, size)


def _overlap(one: IdEntry, other: IdEntry) -> bool:
    if not ((one.uids and other.uids) or (one.gids and other.gids)):
        return False

    def meets(first: int, second: int) -> bool:
        return first < second + other.size and second < first + one.size

    return meets(one.inside, other.inside) or meets(one.outside, other.outside)


def _tell(root: str, idmap: IdMap, reverse: bool, path: str, fd: int) -> None:
    status = os.fstat(fd)
    uid, gid = target_of(idmap, status.st_uid, status.st_gid, reverse=reverse)
    print(f'I would shift "{os.path.join(root, path) if path else root}" to {uid} {gid}')


def target_of(idmap: IdMap, uid: int, gid: int, *, reverse: bool) -> tuple[int, int]:
    """The owners that an entry gets, -1 where it keeps its own."""
    if reverse:
        found = idmap.inside_uid(uid), idmap.inside_gid(gid)
    else:
        found = idmap.outside_uid(uid), idmap.outside_gid(gid)
    return -1 if found[0] is None else found[0], -1 if found[1] is None else found[1]
