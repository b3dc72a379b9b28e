"""The command line as a test uses it: run to its end, fed, or on a terminal."""

import errno
import fcntl
import os
import pty
import struct
import subprocess
import termios
import time
from pathlib import Path

from harness.daemon import Daemon
from harness.waiting import PATIENCE


class Client:
    """One client program, set up for one daemon."""

    def __init__(self, program: Path, daemon: Daemon) -> None:
        self.program = program
        self._environment = daemon.environment

    def run(
        self, *args: str | Path, stdin: str | bytes | None = None, timeout_s: float = 120.0
    ) -> subprocess.CompletedProcess[bytes]:
        """Run it to its end."""
        feed = stdin.encode() if isinstance(stdin, str) else stdin
        return subprocess.run(
            [self.program, *args],
            env=self._environment,
            input=feed,
            stdin=subprocess.DEVNULL if feed is None else None,
            capture_output=True,
            check=False,
            timeout=timeout_s * PATIENCE,
        )

    def __call__(self, *args: str | Path, stdin: str | bytes | None = None, timeout_s: float = 120.0) -> str:
        """Run it, demand success, and return its standard output."""
        done = self.run(*args, stdin=stdin, timeout_s=timeout_s)
        assert done.returncode == 0, f"lxc {args} exited with {done.returncode}: {done.stderr.decode()}"
        return done.stdout.decode()

    def fails(self, *args: str | Path, stdin: str | bytes | None = None) -> str:
        """Run it, demand failure, and return its standard error."""
        done = self.run(*args, stdin=stdin)
        assert done.returncode != 0, f"lxc {args} succeeded: {done.stdout.decode()}"
        return done.stderr.decode()

    def popen(self, *args: str | Path) -> subprocess.Popen[bytes]:
        """Start it with pipes."""
        pipe = subprocess.PIPE
        return subprocess.Popen([self.program, *args], env=self._environment, stdin=pipe, stdout=pipe, stderr=pipe)

    def terminal(self, *args: str | Path, rows: int = 40, columns: int = 120) -> "Terminal":
        """Start it on a terminal of its own."""
        return Terminal([str(self.program), *map(str, args)], self._environment, rows, columns)


class Terminal:
    """A program on a pseudo terminal."""

    def __init__(self, argv: list[str], environment: dict[str, str], rows: int, columns: int) -> None:
        self._master, slave = pty.openpty()
        self.resize(rows, columns)
        # The terminal must be the program's own: only then the kernel tells it of a new size.
        self._process = subprocess.Popen(
            ["setsid", "--ctty", *argv], env=environment | {"TERM": "xterm"}, stdin=slave, stdout=slave, stderr=slave
        )
        os.close(slave)
        os.set_blocking(self._master, False)
        self.text = ""

    def __enter__(self) -> "Terminal":
        return self

    def __exit__(self, *_: object) -> None:
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait(60)
        os.close(self._master)

    def resize(self, rows: int, columns: int) -> None:
        """Set the window's size; the program is told by the kernel."""
        fcntl.ioctl(self._master, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def send(self, text: str) -> None:
        """Type."""
        os.write(self._master, text.encode())

    def type_and_end(self, text: str) -> bool:
        """Type, unless the program has ended; returns whether it has."""
        if self._process.poll() is not None:
            return True
        self.send(text)
        return False

    def expect(self, text: str, timeout_s: float = 30.0) -> str:
        """Wait until the text has been shown, and return what was shown up to and with it."""
        deadline = time.monotonic() + timeout_s * PATIENCE
        while text not in self.text:
            if not self._read():
                time.sleep(0.01)
            assert time.monotonic() < deadline, f"{text!r} was not shown; shown: {self.text!r}"
        shown, _, rest = self.text.partition(text)
        self.text = rest
        return shown + text

    def _read(self) -> bool:
        """Take what is shown now; False where there is nothing yet, or nothing more since the other side is closed."""
        try:
            self.text += os.read(self._master, 65536).decode(errors="replace")
        except BlockingIOError:
            return False
        except OSError as error:
            if error.errno != errno.EIO:
                raise
            return False
        return True

    def wait(self, timeout_s: float = 30.0) -> int:
        """Wait for the program's end and return its exit code; all that it showed is in `text` then."""
        deadline = time.monotonic() + timeout_s * PATIENCE
        while self._process.poll() is None:
            if not self._read():
                time.sleep(0.01)
            assert time.monotonic() < deadline, f"it goes on; shown: {self.text!r}"
        while self._read():
            pass
        return self._process.returncode
