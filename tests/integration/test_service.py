"""The daemon under a service manager: a passed socket, readiness, the single-instance lock, damaged state."""

import os
import socket
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from harness.daemon import Daemon

LISTEN = """import os, sys
os.environ["LISTEN_PID"] = str(os.getpid())
os.dup2(int(sys.argv[1]), 3)
os.set_inheritable(3, True)
os.execv(sys.argv[2], sys.argv[2:])"""


def start_with(daemon: Daemon, passed: socket.socket | None, **environment: str) -> "subprocess.Popen[bytes]":
    argv = [str(daemon.programs.lxd), "--logfile", str(daemon.log)]
    if passed is not None:
        argv = ["/usr/bin/python3", "-c", LISTEN, str(passed.fileno()), *argv]
        environment |= {"LISTEN_FDS": "1", "LISTEN_FDNAMES": "unix"}
    return subprocess.Popen(
        argv,
        env=daemon.environment | environment,
        pass_fds=[passed.fileno()] if passed is not None else [],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def ready(daemon: Daemon) -> None:
    argv = [str(daemon.programs.lxd), "waitready", "--timeout=30"]
    subprocess.run(argv, env=daemon.environment, check=True, timeout=40)


def end(process: "subprocess.Popen[bytes]") -> int:
    process.terminate()
    return process.wait(60)


@pytest.fixture
def daemon(make_daemon: Callable[[], Daemon]) -> Daemon:
    """A daemon that was never started."""
    return make_daemon()


def test_a_passed_socket_is_served_and_left(daemon: Daemon) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(daemon.socket))
        listener.listen()
        process = start_with(daemon, listener)
        try:
            ready(daemon)
            with daemon.api() as api:
                assert api.get("/1.0")["environment"]["server_pid"] == process.pid
        finally:
            assert end(process) == 0
        # The socket is the service manager's: the next request wakes the next daemon.
        assert daemon.socket.exists()
        process = start_with(daemon, listener)
        try:
            ready(daemon)
        finally:
            assert end(process) == 0


def test_readiness_is_told(daemon: Daemon, tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel:
        channel.bind(str(tmp_path / "notify"))
        channel.settimeout(30)
        process = start_with(daemon, None, NOTIFY_SOCKET=str(tmp_path / "notify"))
        try:
            assert channel.recv(100) == b"READY=1"
            with daemon.api() as api:
                api.get("/1.0")
        finally:
            assert end(process) == 0
        assert channel.recv(100) == b"STOPPING=1"
    assert not daemon.socket.exists()


def test_one_daemon_a_directory(daemon: Daemon) -> None:
    daemon.start()
    second = subprocess.run(
        [daemon.programs.lxd], env=daemon.environment, capture_output=True, text=True, timeout=30, check=False
    )
    assert second.returncode == 1
    assert "Another daemon already" in second.stderr
    with daemon.api() as api:
        api.get("/1.0")
    daemon.kill()
    # What a kill left behind does not keep the next one from starting.
    daemon.start()
    daemon.stop()


def test_a_damaged_database_is_reported(daemon: Daemon) -> None:
    database = daemon.state_dir / "database" / "global"
    database.mkdir(parents=True)
    (database / "db.bin").write_bytes(b"rubbish" * 1000)
    process = start_with(daemon, None)
    assert process.wait(60) == 1
    assert "Failed to open the database" in daemon.output()


def test_units_name_what_exists() -> None:
    units = Path(__file__).parents[2] / "packaging" / "systemd"
    names = {path.name for path in units.iterdir()}
    assert names == {"corral.service", "corral.socket", "corral-instances.service"}
    if os.path.exists("/usr/bin/systemd-analyze"):
        done = subprocess.run(
            ["systemd-analyze", "verify", "--man=no", *map(str, sorted(units.iterdir()))],
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        problems = [line for line in done.stderr.splitlines() if "corral" in line and "not executable" not in line]
        assert not problems
