"""Who is at the other end of a socket."""

import os
import socket
import subprocess

import pytest

from corral.server.host.programs import peers, pidfd


def test_the_other_end_of_a_socket() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        peer = peers.get_credentials(ours)
        assert (peer.pid, peer.uid) == (os.getpid(), os.getuid())
        process = peers.hold(ours, peer)
        try:
            assert pidfd.is_alive(process)
        finally:
            os.close(process)


def test_namespaces() -> None:
    own = peers.get_pid_namespace(os.getpid())
    assert peers.list_pid_namespaces(os.getpid()) == [own]
    assert os.getppid() in [*peers.list_ancestors(os.getpid()), 0, 1]
    ended = subprocess.Popen(["true"])
    ended.wait()
    with pytest.raises(OSError, match="No such"):
        peers.list_pid_namespaces(ended.pid)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
def test_a_namespace_within_ours() -> None:
    own = peers.get_pid_namespace(os.getpid())
    argv = ["unshare", "--pid", "--fork", "--kill-child", "unshare", "--pid", "--fork", "--kill-child"]
    inner = "echo up; cat"
    with subprocess.Popen(
        [*argv, "sh", "-c", inner], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "up\n"
        pid = process.pid
        for _ in range(2):
            with open(f"/proc/{pid}/task/{pid}/children") as children:
                pid = int(children.read().split()[0])
        found = peers.list_pid_namespaces(pid)
        assert (len(found), len(set(found)), found[-1]) == (3, 3, own)
        process.kill()
