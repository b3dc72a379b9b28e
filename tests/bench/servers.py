"""The daemons that the bench compares: each in namespaces of its own, with a pool, a bridge and the same images."""

import contextlib
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from harness.api import Api
from harness.daemon import Daemon
from harness.programs import Programs


class Server:
    """One daemon under measurement."""

    def __init__(self, programs: Programs, images: dict[str, Path], driver: str) -> None:
        self.name = programs.kind
        self.daemon = Daemon(programs, isolated=True, debug=False)
        self.daemon.start()
        self.daemon.set_up(driver, ipv4="10.203.0.1/16", ipv6="none", size="15GiB")
        self.api: Api = self.daemon.api()
        for alias, file in images.items():
            self.api.upload_image(file, alias)
            # The pool's copy of the image is made with the first instance.
            self.api.create("first", alias)
            self.api.delete("first")

    def launch(self, api: Api, name: str, image: str) -> None:
        """Create and start a container."""
        api.create(name, image)
        api.set_state(name, "start")

    def in_parallel(self, count: int, workers: int, verb: str, image: str = "busybox") -> None:
        """Do `launch`, `empty` (a stopped instance without an image) or `delete` to p0, p1, ..."""

        def work(numbers: range) -> None:
            with self.daemon.api() as api:
                for number in numbers:
                    name = f"p{number}"
                    if verb == "launch":
                        self.launch(api, name, image)
                    elif verb == "empty":
                        api.run("POST", "/1.0/instances", {"name": name, "source": {"type": "none"}})
                    else:
                        with contextlib.suppress(Exception):
                            api.set_state(name, "stop", force=True)
                        api.delete(name)

        with ThreadPoolExecutor(workers) as pool:
            for done in [pool.submit(work, range(first, count, workers)) for first in range(workers)]:
                done.result()

    def _family(self) -> list[tuple[int, str]]:
        """The processes in the daemon's network namespace, with their arguments."""
        namespace, found = os.readlink(f"/proc/{self.daemon.pid}/ns/net"), []
        for process in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                if os.readlink(process / "ns/net") == namespace:
                    arguments = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                    found.append((int(process.name), arguments))
        return found

    def monitor_kb(self) -> int:
        """The proportional memory of the containers' monitors, in KiB."""
        return sum(pss_kb(pid) for pid, arguments in self._family() if "[lxc monitor]" in arguments)

    def daemon_kb(self) -> int:
        """The proportional memory of the daemon with its lasting helpers, in KiB; dnsmasq is the same for both."""
        return sum(pss_kb(pid) for pid in self._daemon_family())

    def daemon_cpu_s(self) -> float:
        """The CPU time that the daemon, its lasting helpers and the programs that it ran have taken, in seconds."""
        return sum(cpu_s(pid) for pid in self._daemon_family())

    def _daemon_family(self) -> list[int]:
        others = ("[lxc monitor]", "dnsmasq")
        return [pid for pid, arguments in self._family() if not any(other in arguments for other in others)]

    def close(self) -> None:
        """Remove every trace."""
        self.api.close()
        self.daemon.remove()


def pss_kb(pid: int) -> int:
    """A process's proportional set size in KiB; 0 once it has gone."""
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1])
    return 0


def cpu_s(pid: int) -> float:
    """The CPU time of a process's threads and of its children that have ended, in seconds; 0 once it has gone."""
    with contextlib.suppress(OSError):
        own = sum(int(file.read_text().split()[0]) for file in Path(f"/proc/{pid}/task").glob("*/schedstat"))
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return own / 1e9 + sum(int(field) for field in fields[13:15]) / os.sysconf("SC_CLK_TCK")
    return 0.0
