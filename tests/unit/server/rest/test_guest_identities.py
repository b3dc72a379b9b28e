"""The memory of whose process connected."""

import os
import socket
import subprocess
from collections.abc import Iterator

import pytest

from corral.server.host.programs.peers import Peer
from corral.server.instances.guest import guests
from corral.server.instances.running import Running
from corral.server.rest.guest_identities import MOST_REMEMBERED, Identities


class FakeRunning(Running):
    """Instances that run, by id."""

    def __init__(self) -> None:
        super().__init__()
        self.ids = {7}

    def find(self, instance_id: int) -> object:  # type: ignore[override]
        return True if instance_id in self.ids else None


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The pids that were looked at; all are the instance 7's."""
    pids: list[int] = []

    def find(running: Running, pid: int) -> int | None:
        pids.append(pid)
        return 7

    monkeypatch.setattr(guests, "find_instance_id", find)
    # As before Linux 6.5, so that the fake peers are held by their numbers.
    monkeypatch.setattr("corral.server.host.programs.peers._SO_PEERPIDFD", 9999)
    return pids


@pytest.fixture
def connection() -> Iterator[socket.socket]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield ours


def test_a_process_is_looked_at_once(asked: list[int], connection: socket.socket) -> None:
    running = FakeRunning()
    identities = Identities(running)
    peer = Peer(os.getpid(), 0)
    assert [identities.identify(connection, peer) for _ in range(3)] == [7, 7, 7]
    assert asked == [os.getpid()]
    running.ids.clear()
    assert identities.identify(connection, peer) == 7
    assert len(asked) == 2
    identities.close()


def test_what_has_ended_is_forgotten(asked: list[int], connection: socket.socket) -> None:
    identities = Identities(FakeRunning())
    with subprocess.Popen(["sleep", "100"]) as process:
        peer = Peer(process.pid, 0)
        assert identities.identify(connection, peer) == 7
        process.kill()
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        # Its number is still there; the process is not.
        assert identities.identify(connection, peer) is None
    assert identities.identify(connection, peer) is None
    assert identities.identify(connection, Peer(0, 0)) is None
    identities.close()


def test_not_many_are_held(asked: list[int], connection: socket.socket) -> None:
    before = len(os.listdir("/proc/self/fd"))
    identities = Identities(FakeRunning())
    processes = [subprocess.Popen(["sleep", "100"]) for _ in range(MOST_REMEMBERED + 5)]
    try:
        for process in processes:
            assert identities.identify(connection, Peer(process.pid, 0)) == 7
        assert len(os.listdir("/proc/self/fd")) == before + MOST_REMEMBERED
        identities.close()
        assert len(os.listdir("/proc/self/fd")) == before
    finally:
        for process in processes:
            process.kill()
            process.wait()
