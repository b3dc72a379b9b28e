"""The two pairs of programs that tests run: ours, from this very tree, and the real ones where they are installed."""

import shutil
import site
import sys
from dataclasses import dataclass
from pathlib import Path

SOURCES = Path(__file__).parents[2] / "src"

LAUNCHER = """#!/usr/bin/python3 -IS
import sys

sys.path.insert(0, "{sources}")
sys.path.append("{libraries}")
from corral.launch import main

sys.exit(main())
"""


@dataclass(frozen=True)
class Programs:
    """A daemon and the client that goes with it."""

    kind: str
    lxd: Path
    lxc: Path


def write_launchers(directory: Path) -> None:
    """Write the programs of this tree into a directory."""
    directory.mkdir(parents=True, exist_ok=True)
    for name in ("corral", "corrald", "lxc", "lxd", "fuidshift"):
        path = directory / name
        path.write_text(LAUNCHER.format(sources=SOURCES, libraries=site.getsitepackages()[0]))
        path.chmod(0o755)


def ours(directory: Path) -> Programs:
    """The programs of this tree."""
    write_launchers(directory)
    return Programs("ours", directory / "lxd", directory / "lxc")


def real() -> Programs | None:
    """The real LXD, where it is installed."""
    lxd, lxc = shutil.which("lxd", path="/usr/bin:/snap/bin"), shutil.which("lxc", path="/usr/bin:/snap/bin")
    return Programs("real", Path(lxd), Path(lxc)) if lxd and lxc else None


def real_client() -> Path | None:
    """The unmodified `lxc` client, where it is installed."""
    found = shutil.which("lxc", path="/usr/bin:/snap/bin")
    return Path(found) if found else None


if __name__ == "__main__":
    write_launchers(Path(sys.argv[1]))
