"""A daemon under test: its process, its directory, its pool and bridge, and how every trace of it is removed."""

import contextlib
import http.client
import itertools
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

from harness.api import Api, ApiError
from harness.programs import Programs
from harness.waiting import PATIENCE, until

_numbers = itertools.count(1)

ISOLATE = f"""import sys; sys.path.insert(0, {str(Path(__file__).parents[1])!r})
from harness import scene; scene.enter()
import os; os.execv(sys.argv[1], sys.argv[1:])"""


class Daemon:
    """One daemon with a state directory of its own; `isolated` gives it namespaces of its own too."""

    def __init__(self, programs: Programs, *, isolated: bool = False, debug: bool = True) -> None:
        self.programs = programs
        self.number = next(_numbers)
        self.dir = Path(tempfile.mkdtemp(prefix="corral-t.", dir="/tmp"))
        self.dir.chmod(0o755)
        self.state_dir = self.dir / "lxd"
        self.state_dir.mkdir(mode=0o711)
        self.conf_dir = self.dir / "conf"
        self.conf_dir.mkdir()
        self.log = self.dir / "log"
        self.bridge = f"ctbr{self.number}"
        self.extra: dict[str, str] = {}
        """More of its environment."""
        self._isolated = isolated
        self._debug = debug
        self._process: subprocess.Popen[bytes] | None = None
        self._connections: list[Api] = []

    @property
    def environment(self) -> dict[str, str]:
        """The environment of the daemon and of its clients."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("LXD_", "LXC_", "CORRAL_"))}
        # Compiled sources are the normal case; a start-up without them says nothing.
        kept.pop("PYTHONDONTWRITEBYTECODE", None)
        own = {"LXD_DIR": str(self.state_dir), "LXD_CONF": str(self.conf_dir), "HOME": str(self.dir)}
        return kept | own | self.extra

    @property
    def socket(self) -> Path:
        return self.state_dir / "unix.socket"

    @property
    def pid(self) -> int:
        assert self._process is not None, "the daemon was not started"
        return self._process.pid

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def api(self, timeout_s: float = 120.0) -> Api:
        """A new connection to it, which survives the daemon's restart."""
        connection = Api(self.socket, timeout_s * PATIENCE)
        self._connections.append(connection)
        return connection

    def _disconnect(self) -> None:
        for connection in self._connections:
            connection.close()

    def spawn(self, *flags: str) -> None:
        """Start the process without waiting for it to be ready."""
        argv = [str(self.programs.lxd), "--logfile", str(self.log), *(["--debug"] if self._debug else []), *flags]
        if self._isolated:
            argv = [sys.executable, "-c", ISOLATE, *argv]
        environment = self.environment | ({"LXD_ASYNCIO_DEBUG": "1"} if self._debug else {})
        with open(self.dir / "output", "ab") as output:
            self._process = subprocess.Popen(
                argv, stdin=subprocess.DEVNULL, stdout=output, stderr=output, env=environment, start_new_session=True
            )

    def start(self, timeout_s: float = 60.0) -> None:
        """Start it and wait until it serves requests."""
        self.spawn()
        until(self._serves, "the daemon serves requests", timeout_s, 0.02)

    def _serves(self) -> bool:
        if not self.running:
            raise AssertionError(f"the daemon ended at its start:\n{self.output()}")
        try:
            with self.api(5) as api:
                return bool(api.call("GET", "/internal/ready"))
        except (OSError, ApiError, ValueError):
            return False

    def output(self) -> str:
        """The last of what it wrote to its log and its standard output and error."""
        texts = [file.read_text(errors="replace")[-6000:] for file in (self.log, self.dir / "output") if file.exists()]
        return "\n".join(texts)

    def log_size(self) -> int:
        """How much it has logged, in bytes."""
        return self.log.stat().st_size if self.log.exists() else 0

    def log_since(self, offset: int) -> str:
        """What it has logged since then."""
        return self.log.read_bytes()[offset:].decode(errors="replace") if self.log.exists() else ""

    def set_up(self, driver: str = "btrfs", *, ipv4: str = "auto", ipv6: str = "auto", size: str = "4GiB") -> None:
        """Give it a pool, a bridge and a default profile that uses both."""
        pool_config = {"size": size} if driver != "dir" else {}
        network = {"ipv4.address": ipv4, "ipv6.address": ipv6}
        devices = {
            "root": {"type": "disk", "path": "/", "pool": "default"},
            "eth0": {"type": "nic", "name": "eth0", "network": self.bridge},
        }
        with self.api() as api:
            api.call("POST", "/1.0/storage-pools", {"name": "default", "driver": driver, "config": pool_config})
            api.call("POST", "/1.0/networks", {"name": self.bridge, "type": "bridge", "config": network})
            api.call("PUT", "/1.0/profiles/default", {"config": {}, "description": "", "devices": devices})

    def kill(self, number: signal.Signals = signal.SIGKILL) -> None:
        """Send it a signal and wait for its end."""
        assert self._process is not None
        self._process.send_signal(number)
        self._process.wait(60 * PATIENCE)
        self._disconnect()

    def stop(self, timeout_s: float = 60.0) -> None:
        """Stop it and its instances, as a host that goes down does; the directory stays."""
        if not self.running:
            return
        assert self._process is not None
        try:
            # Its end may come before its answer.
            with self.api(timeout_s) as api, contextlib.suppress(http.client.HTTPException, OSError):
                api.call("PUT", "/internal/shutdown")
            self._process.wait(timeout_s * PATIENCE)
        finally:
            if self.running:
                self._process.kill()
                self._process.wait(60)
            self._disconnect()

    def empty(self) -> None:
        """Delete every instance, image, profile, network and pool through the API."""
        with self.api() as api:
            for instance in api.get("/1.0/instances?recursion=1"):
                if instance["status"] != "Stopped":
                    with contextlib.suppress(ApiError):
                        api.set_state(instance["name"], "stop", force=True)
                with contextlib.suppress(ApiError):
                    api.delete(instance["name"])
            for image in api.get("/1.0/images"):
                api.run("DELETE", image)
            api.call("PUT", "/1.0/profiles/default", {"config": {}, "description": "", "devices": {}})
            for network in api.get("/1.0/networks?recursion=1"):
                if network["managed"]:
                    api.call("DELETE", f"/1.0/networks/{network['name']}")
            for pool in api.get("/1.0/storage-pools"):
                api.call("DELETE", pool)

    def remove(self) -> None:
        """End what still runs and remove every trace, whatever state it is in."""
        if self.running:
            with contextlib.suppress(subprocess.SubprocessError, OSError, ApiError, ValueError):
                self.stop(20)
        for process in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                arguments = (process / "cmdline").read_bytes().decode(errors="replace")
                if f"{self.dir}/" in arguments and int(process.name) != os.getpid():
                    os.kill(int(process.name), signal.SIGKILL)
        points = [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
        for point in reversed([point for point in points if point.startswith(f"{self.dir}/")]):
            subprocess.run(["umount", "-l", point], check=False, capture_output=True)
        detach_loops(self.dir)
        if Path("/sys/class/net", self.bridge).exists():
            subprocess.run(["ip", "link", "delete", self.bridge], check=False)
        shutil.rmtree(self.dir, ignore_errors=True)


def loops(directory: Path) -> dict[str, str]:
    """The loop devices with a file below a directory, and that file."""
    found = {}
    for backing in Path("/sys/block").glob("loop*/loop/backing_file"):
        with contextlib.suppress(OSError):
            file = backing.read_text().strip()
            if file.startswith(f"{directory}/"):
                found[f"/dev/{backing.parts[3]}"] = file
    return found


def detach_loops(directory: Path) -> None:
    """Detach the loop devices with a file below a directory."""
    for device in loops(directory):
        subprocess.run(["losetup", "-d", device], check=False)
