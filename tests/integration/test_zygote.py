"""The zygote and its helpers with a container that lxc-start runs, without a daemon."""

import asyncio
import json
import os
import shutil
import signal
import socket
import subprocess
import tarfile
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from corral.errors import InternalError
from corral.server.host.isolation import cgroup
from corral.server.host.programs import pidfd, processes, terminal
from corral.server.host.programs.liblxc_socket import Monitor, State, scan_running
from corral.server.host.programs.zygote import Attach, ExecRequest, Running, Zygote
from harness import images
from harness.waiting import until

if shutil.which("lxc-start") is None:
    pytest.skip("needs lxc-start", allow_module_level=True)

FIRST_ID = 1_000_000
ENVIRONMENT = {"PATH": "/sbin:/bin:/usr/sbin:/usr/bin"}

CONFIG = """lxc.uts.name = {name}
lxc.rootfs.path = dir:{root}
lxc.net.0.type = empty
lxc.mount.auto = proc:rw sys:rw cgroup:mixed
lxc.autodev = 1
lxc.pty.max = 64
lxc.tty.max = 0
lxc.console.buffer.size = auto
lxc.apparmor.profile = unconfined
lxc.log.file = {log}
"""
IDMAP = "".join(f"lxc.idmap = {kind} 0 {FIRST_ID} 65536\n" for kind in "ug")


@dataclass(frozen=True)
class Container:
    """A running container and what is needed to enter it."""

    name: str
    lxcpath: Path
    root: Path
    privileged: bool
    monitor: Monitor
    init: int
    groups: cgroup.Cgroup

    def request(self, *argv: str, **more: Any) -> ExecRequest:
        """A command in it."""
        request = ExecRequest(argv, ENVIRONMENT, self.groups.directories, owner=(FIRST_ID, FIRST_ID), **more)
        if self.privileged:
            place = Attach(str(self.lxcpath), self.name, str(self.lxcpath / f"{self.name}.conf"))
            return replace(request, userns=False, attach=place)
        return request


def start_container(directory: Path, name: str, *, privileged: bool) -> Container:
    """Make a busybox container below a directory and start it."""
    root = directory / name / "rootfs"
    with tarfile.open(images.busybox(directory / "image.tar")) as archive:
        archive.extractall(root.parent)
    if not privileged:
        subprocess.run(["chown", "-hR", f"{FIRST_ID}:{FIRST_ID}", root], check=True)
    for path in (directory, *directory.parents[:2]):
        path.chmod(0o755)
    config = directory / f"{name}.conf"
    config.write_text(
        CONFIG.format(name=name, root=root, log=directory / f"{name}.log") + ("" if privileged else IDMAP)
    )
    argv = [shutil.which("lxc-start") or "", "-d", "-n", name, "-f", str(config), "-P", str(directory)]
    subprocess.run(argv, check=True, env={"PATH": "/nonexistent"}, timeout=60)
    monitor = Monitor(str(directory), name)
    groups = cgroup.find_container_cgroup(cgroup.detect_hierarchies(), monitor.get_cgroup)
    return Container(name, directory, root, privileged, monitor, monitor.get_init_pidfd(), groups)


def stop_container(container: Container) -> None:
    """Kill a container and wait until its monitor is gone."""
    with suppress(OSError):
        container.groups.thaw()
    pidfd.kill_and_forget(container.init)
    until(lambda: container.monitor.find_state() is None, "the monitor is gone")
    os.close(container.init)


@pytest.fixture(scope="module")
def container(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Container]:
    """An unprivileged container."""
    container = start_container(tmp_path_factory.mktemp("ct"), "zygote-test", privileged=False)
    yield container
    stop_container(container)


@pytest.fixture(scope="module")
def privileged(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Container]:
    """A privileged container."""
    container = start_container(tmp_path_factory.mktemp("ct"), "zygote-privileged", privileged=True)
    yield container
    stop_container(container)


@pytest.fixture
async def zygote() -> AsyncIterator[Zygote]:
    """A zygote."""
    zygote = Zygote()
    yield zygote
    await zygote.close()


async def run(zygote: Zygote, container: Container, request: ExecRequest, stdin: bytes = b"") -> tuple[int, str]:
    """Run a command to its end and return its status and its output."""
    reader, writer = os.pipe2(os.O_CLOEXEC)
    feed, source = os.pipe2(os.O_CLOEXEC)
    os.write(source, stdin)
    os.close(source)
    command = await zygote.exec(request, container.init, (feed, writer, writer))
    os.close(feed)
    os.close(writer)
    output = b""
    while data := await asyncio.to_thread(os.read, reader, 65536):
        output += data
    os.close(reader)
    status = await command.wait()
    command.close()
    return status, output.decode()


def test_the_monitor_answers(container: Container) -> None:
    assert container.monitor.get_state() is State.RUNNING
    assert container.monitor.get_config_item("lxc.uts.name") == container.name
    assert scan_running(str(container.lxcpath)) == [container.name]
    assert processes.choose_halt_signal(container.monitor.get_init_pid()) == signal.SIGPWR
    assert Monitor(str(container.lxcpath), "missing").find_state() is None


def test_the_console_has_one_client_and_a_log(container: Container) -> None:
    console = container.monitor.open_console()
    with pytest.raises(BlockingIOError):
        container.monitor.open_console()
    terminal.set_size(console.fd, 100, 30)
    container.monitor.console_resized()
    console.close()
    container.monitor.open_console().close()
    until(lambda: b"rc has run" in container.monitor.read_console_log(), "the console's log shows the start")
    container.monitor.clear_console_log()
    assert container.monitor.read_console_log() == b""


def test_freezing_is_quick_and_whole(container: Container) -> None:
    container.groups.freeze()
    try:
        assert container.groups.is_frozen()
    finally:
        container.groups.thaw()
    assert not container.groups.is_frozen()


async def test_a_command_is_in_every_namespace(zygote: Zygote, container: Container) -> None:
    request = container.request("sh", "-c", "hostname; id -u; pwd; cat /proc/self/cgroup", cwd="/tmp")
    status, output = await run(zygote, container, request)
    lines = output.splitlines()
    assert status == 0
    assert lines[:3] == [container.name, "0", "/tmp"]
    assert all(line.endswith(":/") for line in lines[3:])


async def test_a_command_gets_nothing_that_is_the_hosts(zygote: Zygote, container: Container) -> None:
    # ls itself opens the directory as 3.
    status, output = await run(zygote, container, container.request("ls", "/proc/self/fd"))
    assert status == 0
    assert set(output.split()) <= {"0", "1", "2", "3"}
    status, output = await run(zygote, container, container.request("env"))
    assert dict(line.split("=", 1) for line in output.splitlines()) == ENVIRONMENT


async def test_a_command_of_another_user_has_no_privileges(zygote: Zygote, container: Container) -> None:
    request = container.request("sh", "-c", "id; grep CapEff /proc/self/status", uid=1000, gid=1000, groups=(5,))
    _, output = await run(zygote, container, request)
    assert "uid=1000" in output
    assert "groups=5" in output
    assert "CapEff:\t0000000000000000" in output


@pytest.mark.parametrize("kind", ["unprivileged", "privileged"])
@pytest.mark.parametrize(
    ("argv", "code"),
    [
        (("true",), 0),
        (("sh", "-c", "exit 7"), 7),
        (("missing",), 127),
        (("/missing/program",), 127),
        (("/etc/passwd",), 126),
        (("/",), 126),
        (("sh", "-c", "kill -9 $$"), 137),
    ],
)
async def test_exit_codes(
    zygote: Zygote, container: Container, privileged: Container, kind: str, argv: tuple[str, ...], code: int
) -> None:
    entered = privileged if kind == "privileged" else container
    status, _ = await run(zygote, entered, entered.request(*argv))
    assert (128 - status if status < 0 else status) == code


async def test_privileged_commands_have_the_capabilities_of_their_init(zygote: Zygote, privileged: Container) -> None:
    _, output = await run(
        zygote, privileged, privileged.request("grep", "CapBnd", "/proc/1/status", "/proc/self/status")
    )
    first, own = (line.split()[-1] for line in output.splitlines())
    assert first == own


async def test_input_reaches_the_command(zygote: Zygote, container: Container) -> None:
    assert await run(zygote, container, container.request("cat"), b"fed") == (0, "fed")


def read_terminal(master: int) -> str:
    """What was written to a terminal that is closed on its other side."""
    shown = b""
    with suppress(OSError):
        while data := os.read(master, 4096):
            shown += data
    return shown.decode()


async def test_a_terminal_is_the_controlling_one(zygote: Zygote, container: Container) -> None:
    devpts = container.monitor.get_devpts_fd()
    master, slave = terminal.open_terminal(devpts, FIRST_ID, FIRST_ID)
    os.close(devpts)
    terminal.set_size(master, 90, 20)
    request = container.request("sh", "-c", "tty; stty size; stat -c %u $(tty); : > /dev/tty && echo mine", tty=True)
    command = await zygote.exec(request, container.init, (slave, slave, slave))
    os.close(slave)
    assert await command.wait() == 0
    command.close()
    shown = read_terminal(master).split()
    os.close(master)
    assert shown[0].startswith("/dev/pts/")
    assert shown[1:] == ["20", "90", "0", "mine"]


async def test_signals_reach_the_command(zygote: Zygote, container: Container) -> None:
    reader, writer = os.pipe2(os.O_CLOEXEC)
    request = container.request("sh", "-c", "trap 'exit 9' TERM; echo ready; while :; do sleep 0.05; done")
    command = await zygote.exec(request, container.init, (reader, writer, writer))
    os.close(writer)
    assert (await asyncio.to_thread(os.read, reader, 100)).strip() == b"ready"
    os.close(reader)
    command.send_signal(signal.SIGTERM)
    async with asyncio.timeout(10):
        assert await command.wait() == 9
    command.send_signal(signal.SIGTERM)
    command.close()


async def test_a_large_request(zygote: Zygote, container: Container) -> None:
    arguments = ["x" * 1000] * 500
    status, output = await run(zygote, container, container.request("sh", "-c", "echo $#", "sh", *arguments))
    assert (status, output) == (0, "500\n")


async def test_many_commands_at_once(zygote: Zygote, container: Container) -> None:
    runs = (run(zygote, container, container.request("sh", "-c", f"exit {code}")) for code in range(30))
    assert [status for status, _ in await asyncio.gather(*runs)] == list(range(30))


async def test_a_dead_zygote_is_replaced(zygote: Zygote, container: Container) -> None:
    null = os.open(os.devnull, os.O_RDWR)
    command = await zygote.exec(container.request("sleep", "1000"), container.init, (null, null, null))
    parent = processes.get_parent(command.pid)
    os.kill(parent, signal.SIGKILL)
    with pytest.raises(InternalError, match="died"):
        await command.wait()
    command.send_signal(signal.SIGKILL)
    command.close()
    os.close(null)
    status, _ = await run(zygote, container, container.request("true"))
    assert status == 0


async def test_a_container_that_is_gone_cannot_be_entered(zygote: Zygote, container: Container) -> None:
    ended = await asyncio.create_subprocess_exec("sleep", "1000")
    gone = os.pidfd_open(ended.pid)
    ended.kill()
    await ended.wait()
    with pytest.raises(InternalError, match="Failed to enter"):
        await run(zygote, replace(container, init=gone), container.request("true"))
    os.close(gone)


Serve = Callable[[int], Any]


async def with_files(serve: Serve, talk: Callable[[Callable[..., tuple[Any, list[int]]]], None]) -> None:
    """Serve files on a socket and talk to the helper."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours:
        with theirs:
            helper: Running = await serve(theirs.fileno())
        ours.settimeout(60)

        def call(op: str, path: str, **more: Any) -> tuple[Any, list[int]]:
            ours.send(json.dumps({"op": op, "path": path, **more}).encode())
            data, fds, _, _ = socket.recv_fds(ours, 65536, 4)
            return json.loads(data), fds

        await asyncio.to_thread(talk, call)
    async with asyncio.timeout(10):
        assert await helper.wait() == 0
    helper.close()


def plant_and_ask(call: Callable[..., tuple[Any, list[int]]]) -> None:
    """What a hostile guest may plant leads nowhere outside."""
    answer, (fd,) = call("write", "/root/new", append=False, mode=0o640, uid=5, gid=6)
    assert answer == {"ok": {"new": True}}
    os.write(fd, b"content")
    os.close(fd)
    facts, _ = call("stat", "/root/new")
    assert (facts["ok"]["uid"], facts["ok"]["gid"], facts["ok"]["mode"]) == (5, 6, 0o640)
    for target in ("/../../../../../../etc/shadow", "/proc/1/root/etc/shadow", "../" * 20 + "etc/shadow"):
        call("symlink", "/root/escape", target=target)
        answer, fds = call("read", "/root/escape")
        assert answer["errno"] in (2, 13), target
        assert fds == []
        call("remove", "/root/escape")
    answer, _ = call("list", "/../..")
    assert "etc" in answer["ok"]
    assert call("remove", "/root/new")[0] == {"ok": None}


async def test_files_of_a_running_container(zygote: Zygote, container: Container) -> None:
    await with_files(lambda fd: zygote.serve_running("files", container.init, fd, userns=True), plant_and_ask)


async def test_files_of_a_running_privileged_container(zygote: Zygote, privileged: Container) -> None:
    def ask(call: Callable[..., tuple[Any, list[int]]]) -> None:
        assert call("stat", "/etc/passwd")[0]["ok"]["type"] == "file"
        assert call("read", "/dev/null")[0]["error"] == "Not a regular file"

    await with_files(lambda fd: zygote.serve_running("files", privileged.init, fd, userns=False), ask)


@pytest.mark.parametrize("mapped", [True, False])
async def test_files_of_a_directory(zygote: Zygote, tmp_path: Path, mapped: bool) -> None:
    root = tmp_path / "root"
    first = FIRST_ID if mapped else 0
    for name in ("", "root", "etc"):
        (root / name).mkdir(exist_ok=True)
        os.chown(root / name, first, first)
    os.mknod(root / "zero", 0o20666, os.makedev(1, 5))
    text = f"0 {FIRST_ID} 65536\n" if mapped else ""

    def ask(call: Callable[..., tuple[Any, list[int]]]) -> None:
        plant_and_ask(call)
        # A device of the host that lies in the tree is not opened.
        assert call("read", "/zero")[0]["errno"] in (13, 22)

    directory = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
    try:
        await with_files(lambda fd: zygote.serve_directory("files", directory, fd, uid_map=text, gid_map=text), ask)
    finally:
        os.close(directory)
    assert not list((root / "root").iterdir())
