"""Listeners, reactions and the wire form of events."""

from dataclasses import dataclass
from datetime import UTC, datetime

import pytest

from corral.server.events import bus
from corral.server.events.bus import Events
from corral.server.events.model import Lifecycle, Logging, OperationChanged, Requestor, format_time, name_of

ALL = frozenset({"lifecycle", "logging", "operation"})


@dataclass(frozen=True)
class Changed:
    name: str


async def test_listeners_get_their_types_and_project() -> None:
    events = Events()
    mine = events.listen(frozenset({"lifecycle"}), "default")
    every = events.listen(ALL, None)
    assert events.wants("logging")
    events.publish(Lifecycle("instance-started", "/1.0/instances/c1", "default", {"x": 1}, Requestor("root")))
    events.publish(Lifecycle("instance-started", "/1.0/instances/c1?project=p", "p"))
    events.publish(OperationChanged({"id": "1"}, "default"))
    events.publish(Logging("info", "hello"))
    assert mine.queue.qsize() == 1
    assert every.queue.qsize() == 4
    event = mine.queue.get_nowait()
    assert event is not None
    assert event["metadata"] == {
        "action": "instance-started",
        "source": "/1.0/instances/c1",
        "name": "c1",
        "project": "default",
        "context": {"x": 1},
        "requestor": {"username": "root", "protocol": "unix", "address": ""},
    }
    assert (event["type"], event["project"], event["location"]) == ("lifecycle", "default", "none")
    events.leave(every)
    events.leave(mine)
    assert not events.wants("logging")


async def test_the_requestor_of_the_task_is_added() -> None:
    events = Events()
    listener = events.listen(ALL, None)
    token = bus.requestor.set(Requestor("alice"))
    events.publish(Lifecycle("a", "/x"))
    bus.requestor.reset(token)
    event = listener.queue.get_nowait()
    assert event is not None
    assert event["metadata"]["requestor"]["username"] == "alice"


async def test_a_slow_listener_is_dropped_and_the_bus_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bus, "QUEUE_LENGTH", 2)
    events = Events()
    slow = events.listen(ALL, None)
    for _ in range(3):
        events.publish(Logging("info", "x"))
    assert slow.lost
    assert not events.wants("logging")


async def test_close_wakes_the_listeners() -> None:
    events = Events()
    listener = events.listen(ALL, None)
    events.close()
    assert listener.lost
    assert listener.queue.get_nowait() is None


async def test_reactions_are_awaited_and_may_fail() -> None:
    events, seen = Events(), []

    async def react(event: Changed) -> None:
        seen.append(event.name)
        if event.name == "bad":
            raise ValueError("refused")

    events.on(Changed, react)
    await events.react(Changed("good"))
    with pytest.raises(ValueError, match="refused"):
        await events.react(Changed("bad"))
    await events.react("nobody listens")
    assert seen == ["good", "bad"]


def test_times() -> None:
    assert format_time(None) == "0001-01-01T00:00:00Z"
    assert format_time(datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)) == "2026-01-02T03:04:05Z"


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("/1.0/instances/c1?project=p", "c1"),
        ("/1.0/instances/c1/snapshots/s%20x", "c1/s x"),
        ("/1.0/storage-pools/p/volumes/custom/v", "v"),
        ("/1.0/instances/c1/backups/b", "c1/b"),
        ("/1.0/snapshots", "snapshots"),
    ],
)
def test_names_of_things(source: str, name: str) -> None:
    assert name_of(source) == name
