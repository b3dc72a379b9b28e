"""The bench: Corral and the real LXD side by side, interleaved, medians and ratios.

Absolute times say little on a shared machine; the ratio of two programs measured in turn says more.
"""

import argparse
import json
import sys
import tempfile
from pathlib import Path
from statistics import median

from bench.cases import CASES, LIMITS, TARGETS, Case
from bench.servers import Server
from harness import images, programs
from harness.programs import Programs

Figures = dict[str, dict[str, list[float]]]
"""The values of each figure by server."""


def parse_flags() -> argparse.Namespace:
    """The bench's flags."""
    parser = argparse.ArgumentParser(prog="scripts/bench", description="Corral and the real LXD side by side.")
    parser.add_argument("--debian", action="store_true", help="also measure a Debian image (built on the first run)")
    parser.add_argument("--case", action="append", choices=[case.name for case in CASES], help="only this case")
    parser.add_argument("--rounds", type=int, help="rounds of each case")
    parser.add_argument("--driver", default="btrfs", choices=["btrfs", "dir"], help="the pool's storage driver")
    parser.add_argument("--only", choices=["ours", "real"], help="measure one of the two")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    return parser.parse_args()


def chosen_programs(only: str | None, work: Path) -> list[Programs]:
    """What to measure; the real LXD only where it is installed."""
    found = [] if only == "real" else [programs.ours(work / "programs")]
    real = None if only == "ours" else programs.real()
    if real:
        found.append(real)
    elif only != "ours":
        print("The real LXD is not installed (Debian package lxd): no ratios.")
    return found


def measure(case: Case, servers: list[Server], rounds: int, figures: Figures) -> None:
    """Run a case on each server in turn; a server on which it fails is left out of the rest of the case."""
    broken: set[str] = set()
    for number in range(rounds):
        # Neither always goes first.
        for server in servers if number % 2 == 0 else reversed(servers):
            if server.name in broken:
                continue
            print(f"\r  {case.name}: round {number + 1} of {rounds}, {server.name}   ", end="", file=sys.stderr)
            try:
                for figure, value in case.run(server).items():
                    figures.setdefault(figure, {}).setdefault(server.name, []).append(value)
            except Exception as error:
                broken.add(server.name)
                print(f"\nError: {case.name} failed on {server.name}: {error!r}", file=sys.stderr)
    print("\r" + " " * 60 + "\r", end="", file=sys.stderr)


def report(figures: Figures) -> bool:
    """Print the table; returns whether every target is met."""
    met = True
    print(f"{'':44} {'ours':>10} {'real LXD':>10} {'ratio':>7} {'target':>7}")
    for figure, values in figures.items():
        middle = {name: median(found) for name, found in values.items()}
        line = f"{figure:44} " + " ".join(
            f"{middle[n]:10.{1 if middle[n] >= 10 else 3}f}" if n in middle else f"{'-':>10}" for n in ("ours", "real")
        )
        target, limit = TARGETS.get(figure), LIMITS.get(figure)
        if len(middle) == 2:
            ratio = middle["ours"] / middle["real"]
            line += f" {ratio:7.2f}"
            if target is not None:
                line += f" {target:7.2f} {'' if ratio <= target else 'MISSED'}"
                met = met and ratio <= target
        if limit is not None and "ours" in middle:
            line += f"   (below {limit:.0f}){'' if middle['ours'] <= limit else ' MISSED'}"
            met = met and middle["ours"] <= limit
        print(line.rstrip())
    return met


def main() -> int:
    """Measure and report; 1 where a target is missed."""
    flags = parse_flags()
    figures: Figures = {}
    servers: list[Server] = []
    with tempfile.TemporaryDirectory(prefix="corral-bench-") as work:
        files = {"busybox": images.busybox(Path(work, "busybox.tar"))}
        if flags.debian or flags.case == ["debian"]:
            files["debian"] = images.debian()
        try:
            for pair in chosen_programs(flags.only, Path(work)):
                servers.append(Server(pair, files, flags.driver))
            for case in CASES:
                wanted = case.name in flags.case if flags.case else case.name != "debian" or "debian" in files
                if wanted:
                    measure(case, servers, flags.rounds or case.rounds, figures)
        finally:
            for server in servers:
                server.close()
    met = report(figures)
    if flags.json:
        flags.json.write_text(json.dumps({"figures": figures, "targets": TARGETS}, indent=2) + "\n")
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
