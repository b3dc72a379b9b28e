"""Commands, consoles, files and logs of instances: what needs no kernel."""

import asyncio
import os

import pytest

from corral.api.instance_exec import InstanceExecPost
from corral.errors import AlreadyExists, Forbidden, InternalError, InvalidRequest, NotFound
from corral.server.instances.model import Instance
from corral.server.instances.sessions import exec as commands
from corral.server.instances.sessions import files, logs
from corral.server.instances.sessions.channels import (
    Connections,
    Disconnected,
    Flow,
    Message,
    drain,
    pump_in,
    pump_out,
)
from harness import records


def instance(**config: str) -> Instance:
    return records.instance(config=config)


class FakeChannel:
    """A client that sends some messages and goes, and takes what it is sent."""

    def __init__(self, *messages: Message, gone: bool = False) -> None:
        self.messages = list(messages)
        self.gone = gone
        self.received = b""
        self.ended = False

    async def receive(self) -> Message:
        if not self.messages:
            raise Disconnected
        return self.messages.pop(0)

    async def send(self, data: bytes) -> None:
        if self.gone:
            raise Disconnected
        self.received += data

    async def send_end(self) -> None:
        self.ended = True


def test_the_environment_of_a_command() -> None:
    body = InstanceExecPost(command=["x"], environment={"HOME": "/mine"})
    found = commands.compose_environment(instance(**{"environment.HOME": "/other", "environment.A": "b"}), body, 0)
    assert found["HOME"] == "/mine"
    assert found["A"] == "b"
    assert found["USER"] == "root"
    assert found["LANG"] == "C.UTF-8"
    assert found["PATH"].startswith("/usr/local/sbin:")
    assert found["container"] == "lxc"


def test_another_user_has_no_home_by_default() -> None:
    found = commands.compose_environment(instance(), InstanceExecPost(command=["x"], user=1000), 0)
    assert "HOME" not in found
    assert "USER" not in found


@pytest.mark.parametrize(
    "body",
    [
        InstanceExecPost(command=[]),
        InstanceExecPost(command=["a\0b"]),
        InstanceExecPost(command=["a"], environment={"A=B": "c"}),
        InstanceExecPost(command=["a"], environment={"": "c"}),
        InstanceExecPost(command=["a"], user=-1),
        InstanceExecPost(command=["a"], group=1 << 32),
    ],
)
def test_impossible_commands(body: InstanceExecPost) -> None:
    with pytest.raises(InvalidRequest):
        commands.check(body)


def test_who_needs_liblxc() -> None:
    assert commands.needs_liblxc(instance(), privileged=True)
    assert not commands.needs_liblxc(instance(**{"limits.memory": "1GB"}), privileged=False)
    for key in ("raw.lxc", "raw.seccomp", "security.syscalls.intercept.mknod", "limits.kernel.nofile"):
        assert commands.needs_liblxc(instance(**{key: "x"}), privileged=False)


@pytest.mark.parametrize(
    ("name", "good"),
    [
        ("lxc.log", True),
        ("exec_1.stdout", True),
        ("migration_dump.log", True),
        ("console.log", False),
        ("exec_/../../../etc/shadow", False),
        ("../lxc.log", False),
        ("", False),
    ],
)
def test_log_names(name: str, good: bool) -> None:
    assert logs.is_log_name(name) is good


@pytest.mark.parametrize(
    ("number", "kind"), [(2, NotFound), (17, AlreadyExists), (13, Forbidden), (21, InvalidRequest), (28, InternalError)]
)
def test_errors_of_files(number: int, kind: type[Exception]) -> None:
    assert isinstance(files.explain(number, "text", "/x"), kind)
    assert "not found" in str(files.explain(2, "", "/x"))


async def test_a_descriptor_is_connected_once() -> None:
    connections = Connections(["0", "control"])
    assert len(set(connections.secrets.values())) == 2
    connections.claim("0")
    with pytest.raises(InvalidRequest):
        connections.claim("0")
    channel = FakeChannel()
    served = asyncio.create_task(connections.serve("0", channel))
    await connections.wait(["0"], 5)
    assert connections.get("0") is channel
    assert connections.find("control") is None
    connections.finish()
    await served


async def test_clients_that_do_not_come_are_not_waited_for() -> None:
    with pytest.raises(InvalidRequest, match="Timed out waiting for websockets"):
        await Connections(["0"]).wait(["0"], 0.01)


async def test_output_is_pumped_to_its_end() -> None:
    reader, writer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    channel = FakeChannel()
    task = asyncio.create_task(pump_out(reader, channel))
    await asyncio.sleep(0)
    os.write(writer, b"one")
    await asyncio.sleep(0)
    os.write(writer, b"two")
    os.close(writer)
    await task
    os.close(reader)
    assert channel.received == b"onetwo"


async def test_output_for_nobody() -> None:
    reader, writer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    os.write(writer, b"one")
    with pytest.raises(Disconnected):
        await pump_out(reader, FakeChannel(gone=True))
    os.close(reader)
    os.close(writer)


class SlowChannel(FakeChannel):
    """A client that takes nothing until it is told to."""

    def __init__(self) -> None:
        super().__init__()
        self.reads = asyncio.Event()

    async def send(self, data: bytes) -> None:
        await self.reads.wait()
        await super().send(data)


async def test_what_is_left_is_drained_at_the_clients_pace() -> None:
    reader, writer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    os.write(writer, b"one")
    channel, flow = SlowChannel(), Flow()
    pump = asyncio.create_task(pump_out(reader, channel, flow))
    drained = asyncio.create_task(drain(pump, flow, 0.02, 100))
    assert not (await asyncio.wait([drained], timeout=0.2))[0]
    channel.reads.set()
    # The descriptor is still open: quiet is the end.
    await asyncio.wait_for(drained, 20)
    assert channel.received == b"one"
    assert not pump.done()
    os.close(writer)
    await pump
    await drain(pump, flow, 1000, 100)
    os.close(reader)


async def test_draining_ends_where_others_go_on_writing() -> None:
    reader, writer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    channel, flow = FakeChannel(), Flow()
    pump = asyncio.create_task(pump_out(reader, channel, flow))

    async def chatter() -> None:
        while True:
            os.write(writer, b"more")
            await asyncio.sleep(0)

    other = asyncio.create_task(chatter())
    await asyncio.wait_for(drain(pump, flow, 0.02, 10_000), 20)
    assert flow.taken >= 10_000
    for task in (other, pump):
        task.cancel()
    await asyncio.gather(other, pump, return_exceptions=True)
    os.close(reader)
    os.close(writer)


async def test_input_waits_for_a_slow_reader() -> None:
    reader, writer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    data = os.urandom(300_000)
    channel = FakeChannel(Message(data[:200_000]), Message(data[200_000:]), Message(b"", is_text=True))
    task = asyncio.create_task(pump_in(channel, writer))
    got = b""
    while len(got) < len(data):
        await asyncio.sleep(0)
        try:
            got += os.read(reader, 65536)
        except BlockingIOError:
            continue
    await task
    os.close(reader)
    os.close(writer)
    assert got == data


async def test_input_for_a_command_that_ended_is_dropped() -> None:
    reader, writer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    os.close(reader)
    await pump_in(FakeChannel(Message(b"x"), Message(b"y")), writer)
    os.close(writer)
