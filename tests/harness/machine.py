"""A virtual machine with Debian 12's kernel, pure control groups 2 and systemd, and the tests that run in it.

KVM is used where it works; else the machine is emulated, about ten times slower than the host. Nothing needs a network.
"""

import argparse
import contextlib
import io
import json
import os
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from harness.machine_image import PORTS, TOP, Disks, get_disks
from harness.waiting import until

QEMU = "qemu-system-x86_64"
PROCESSORS = 2
MEMORY_MIB = 2560
BOOT_TIMEOUT_S = 300
RUN_TIMEOUT_S = 900
PATIENCE = {"kvm": 2, "tcg": 10}
"""How much longer than on the host a test may wait for something."""

BOOT_SECTOR = b"\xb0\x21\xe6\xf4\xf4".ljust(510, b"\0") + b"\x55\xaa"
"""mov al, 0x21; out 0xf4, al; hlt"""


def find_accelerator() -> str:
    """`kvm` where a boot sector runs in it (/dev/kvm alone says little in a nested machine), else `tcg`."""
    if not os.access("/dev/kvm", os.R_OK | os.W_OK):
        return "tcg"
    with tempfile.NamedTemporaryFile(prefix="corral-kvm-") as disk:
        disk.write(BOOT_SECTOR.ljust(1 << 20, b"\0"))
        disk.flush()
        options = "-nodefaults -no-user-config -accel kvm -cpu host -m 64 -display none -no-reboot"
        argv = [QEMU, *options.split()]
        argv += ["-device", "isa-debug-exit,iobase=0xf4,iosize=1", "-drive", f"file={disk.name},format=raw"]
        try:
            done = subprocess.run(argv, check=False, capture_output=True, stdin=subprocess.DEVNULL, timeout=3)
        except subprocess.TimeoutExpired:
            return "tcg"
    return "kvm" if done.returncode == 67 else "tcg"


def qemu_command(disks: Disks, directory: Path, accelerator: str) -> list[str]:
    """The command line; sockets and the console's log are in the directory."""
    fast = (
        ["-accel", "kvm", "-cpu", "host"]
        if accelerator == "kvm"
        else [
            *("-accel", "tcg,thread=multi,tb-size=512", "-cpu", "max,la57=off"),
        ]
    )
    argv = [QEMU, "-nodefaults", "-no-user-config", "-machine", "q35", *fast]
    argv += [
        "-smp",
        str(PROCESSORS),
        "-m",
        str(MEMORY_MIB),
        "-display",
        "none",
        "-no-reboot",
        "-device",
        "virtio-rng-pci",
    ]
    for disk in (disks.root, disks.libraries):
        # What the guest writes goes to a file without a name, which ends with QEMU.
        argv += ["-drive", f"file={disk},format=raw,if=virtio,snapshot=on,cache=unsafe"]
    argv += ["-kernel", str(disks.kernel), "-initrd", str(disks.initrd)]
    argv += ["-append", "console=ttyS0 quiet panic=-1 mitigations=off systemd.show_status=false"]
    argv += ["-serial", f"file:{directory / 'console'}", "-device", "virtio-serial-pci"]
    for port in PORTS:
        argv += ["-chardev", f"socket,id={port},path={directory / port},server=on,wait=off"]
        argv += ["-device", f"virtserialport,chardev={port},name={port}"]
    return argv


class Guest:
    """A machine that runs, known by the directory of its sockets."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    @property
    def accelerator(self) -> str:
        return (self.directory / "accelerator").read_text()

    @property
    def console(self) -> str:
        """The last of what it said on its console."""
        return (self.directory / "console").read_text(errors="replace")[-6000:]

    def is_running(self) -> bool:
        """Whether its QEMU lives."""
        with contextlib.suppress(OSError, ValueError):
            pid = int((self.directory / "pid").read_text())
            return str(self.directory).encode() in Path(f"/proc/{pid}/cmdline").read_bytes()
        return False

    def boot(self, disks: Disks, *, outlives_us: bool) -> None:
        """Start it and wait until its agent answers; emulated where KVM looks usable and is not."""
        self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        if find_accelerator() == "kvm":
            with contextlib.suppress(SystemExit):
                self._boot(disks, "kvm", outlives_us=outlives_us)
                return
            for port in PORTS:
                (self.directory / port).unlink(missing_ok=True)
        self._boot(disks, "tcg", outlives_us=outlives_us)

    def _boot(self, disks: Disks, accelerator: str, *, outlives_us: bool) -> None:
        (self.directory / "accelerator").write_text(accelerator)
        argv = qemu_command(disks, self.directory, accelerator)
        if not outlives_us:
            argv = ["setpriv", "--pdeathsig", "KILL", *argv]
        with (self.directory / "qemu").open("wb") as output:
            process = subprocess.Popen(
                argv, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True
            )
        (self.directory / "pid").write_text(str(process.pid))
        try:
            until((self.directory / PORTS[0]).exists, "QEMU listens", 20)
            self.run(["true"], BOOT_TIMEOUT_S)
        except (AssertionError, OSError) as error:
            self.stop()
            said = (self.directory / "qemu").read_text(errors="replace")
            raise SystemExit(f"the guest does not boot: {error}\n{said}{self.console}") from error

    def run(
        self,
        argv: list[str],
        timeout_s: float,
        *,
        port: str = PORTS[0],
        given: bytes = b"",
        env: dict[str, str] | None = None,
        output: BinaryIO | None = None,
    ) -> int:
        """Run a program in it and return its exit status; 124 when the time is up. Raises TimeoutError, OSError."""
        request = {"argv": argv, "timeout_s": timeout_s, "input": len(given), "env": env or {}}
        with socket.socket(socket.AF_UNIX) as channel:
            channel.connect(str(self.directory / port))
            channel.settimeout(timeout_s + 30)
            channel.sendall(json.dumps(request).encode() + b"\n" + given)
            with channel.makefile("rb") as frames:
                while True:
                    header = frames.read(5)
                    if len(header) < 5:
                        raise ConnectionResetError("the guest went down")
                    content = frames.read(struct.unpack(">I", header[1:])[0])
                    if header[:1] == b"X":
                        return int(struct.unpack(">i", content)[0])
                    if output is not None:
                        output.write(content)
                        output.flush()

    def read(self, path: str) -> bytes:
        """The content of a file in it."""
        found = io.BytesIO()
        if self.run(["cat", path], 60, output=found) != 0:
            raise FileNotFoundError(path)
        return found.getvalue()

    def push_tree(self) -> None:
        """Replace the sources in it by ours, also what is not committed."""
        clean = "cd /corral && find . -mindepth 1 -maxdepth 1 ! -name .venv -exec rm -rf {} + && tar -xzf -"
        if self.run(["sh", "-ec", clean], 120, given=pack_tree()) != 0:
            raise SystemExit("the guest cannot unpack the sources")

    def stop(self) -> None:
        """End it at once."""
        if self.is_running():
            pid = int((self.directory / "pid").read_text())
            os.kill(pid, signal.SIGKILL)
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, 0)


def pack_tree() -> bytes:
    """The files that git knows or does not ignore, and the compiled sources, as a tar archive."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=TOP,
        check=True,
        capture_output=True,
    ).stdout.decode()
    names = {name for name in listed.split("\0") if name and (TOP / name).exists()}
    names |= {str(path.relative_to(TOP)) for path in (TOP / "src").rglob("*.pyc")}
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz", compresslevel=1) as archive:
        for name in sorted(names):
            archive.add(TOP / name, name, recursive=False)
    return packed.getvalue()


def run_tests(guest: Guest, arguments: list[str], junit: Path | None, timeout_s: float) -> int:
    """Run pytest in a guest and pass on what it says; fetch the results where they are wanted."""
    guest.push_tree()
    environment = {
        "PYTHONPATH": "src:tests",
        "PYTHONUNBUFFERED": "1",
        "CORRAL_TEST_GUEST": "1",
        "CORRAL_TEST_PATIENCE": str(PATIENCE[guest.accelerator]),
    }
    argv = ["/usr/bin/env", "-C", "/corral", ".venv/bin/python", "-m", "pytest", "-q", "-p", "no:cacheprovider"]
    results = "/run/junit.xml"
    output = sys.stdout.buffer
    status = guest.run(
        [*argv, "--durations=10", f"--junitxml={results}", *arguments], timeout_s, env=environment, output=output
    )
    if junit is not None:
        with contextlib.suppress(FileNotFoundError):
            junit.write_bytes(guest.read(results))
    if status == 124:
        print(f"Error: the tests in the guest took more than {timeout_s:g} s", flush=True)
    return status


def kept_directory() -> Path:
    """Where the guest is that --keep leaves for this tree."""
    return Path(f"/tmp/corral-guest{str(TOP).replace('/', '-')}")


@contextlib.contextmanager
def _guest(*, keep: bool) -> Iterator[Guest]:
    kept = Guest(kept_directory())
    if kept.is_running():
        yield kept
        return
    started = time.monotonic()
    directory = kept.directory if keep else Path(tempfile.mkdtemp(prefix="corral-guest.", dir="/tmp"))
    guest = Guest(directory)
    try:
        guest.boot(get_disks(), outlives_us=keep)
        print(f"==> The guest runs ({guest.accelerator}, {time.monotonic() - started:.0f} s)", flush=True)
        yield guest
    finally:
        if not keep:
            guest.stop()
            shutil.rmtree(directory, ignore_errors=True)


def _parse(arguments: list[str]) -> tuple[argparse.Namespace, list[str]]:
    parser = argparse.ArgumentParser(
        prog="scripts/test-guest",
        description="Run tests/guest in a virtual machine with Debian 12's kernel, control groups 2 and systemd. "
        "Other arguments are pytest's, instead of tests/guest.",
        allow_abbrev=False,
    )
    parser.add_argument("--keep", action="store_true", help="leave the guest running: the next runs use it")
    parser.add_argument("--stop", action="store_true", help="end the guest that --keep left")
    parser.add_argument("--junit", type=Path, metavar="FILE", help="write the results as XML")
    parser.add_argument(
        "--timeout", type=float, default=RUN_TIMEOUT_S, metavar="S", help="end the tests then (%(default)s)"
    )
    parser.add_argument("--run", nargs=argparse.REMAINDER, metavar="COMMAND", help="run a command in the kept guest")
    return parser.parse_known_args(arguments)


def main() -> int:
    """The command line of scripts/test-guest."""
    chosen, arguments = _parse(sys.argv[1:])
    kept = Guest(kept_directory())
    if chosen.stop:
        kept.stop()
        shutil.rmtree(kept.directory, ignore_errors=True)
        return 0
    if chosen.run is not None:
        if not kept.is_running():
            raise SystemExit("Error: no guest runs: start one with scripts/test-guest --keep")
        return kept.run(chosen.run, RUN_TIMEOUT_S, port=PORTS[1], output=sys.stdout.buffer)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    with _guest(keep=chosen.keep) as guest:
        return run_tests(guest, arguments or ["tests/guest"], chosen.junit, chosen.timeout)


if __name__ == "__main__":
    sys.exit(main())
