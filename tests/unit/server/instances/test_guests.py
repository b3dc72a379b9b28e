"""Whose a caller of the guest API is, what it is shown, and what it is told of changes."""

from dataclasses import replace

import pytest

from corral.server.host.isolation.idmap import IdRange
from corral.server.host.programs.peers import Namespace
from corral.server.instances.guest import guest_events, guests
from corral.server.instances.guest.guest_events import QUEUE_LENGTH, GuestEvents
from corral.server.instances.guest.guests import Suspect
from corral.server.instances.security.idmaps import HostIds, plan, to_text
from harness import records

HOST, C1, C2, INNER, SHARED = (Namespace(4, number) for number in range(5))
SUSPECTS = (
    Suspect(1, 100, C1),
    Suspect(2, 200, C2),
    Suspect(3, 300, SHARED),
    Suspect(4, 400, SHARED),
    Suspect(5, 500, HOST),
)


@pytest.mark.parametrize(
    ("namespaces", "ancestors", "expected"),
    [
        ([C1, HOST], [], 1),
        ([C2, HOST], [100], 2),
        ([INNER, C1, HOST], [], 1),
        ([HOST], [50], None),
        ([HOST], [501, 500], 5),
        ([SHARED, HOST], [401, 400], 4),
        ([SHARED, HOST], [], None),
        ([INNER, HOST], [], None),
        ([INNER], [100], None),
        ([], [100], 1),
        ([], [], None),
    ],
)
def test_choose(namespaces: list[Namespace], ancestors: list[int], expected: int | None) -> None:
    assert guests.choose(SUSPECTS, namespaces, HOST, lambda: ancestors) == expected


CONFIG = {
    "user.foo": "bar",
    "cloud-init.user-data": "#cloud-config",
    "users.foo": "",
    "security.nesting": "true",
    "volatile.cloud-init.instance-id": "af6a01c7",
    "volatile.eth0.hwaddr": "00:16:3e:00:00:01",
    "volatile.eth1.hwaddr": "00:16:3e:00:00:02",
}
DEVICES = {
    "eth0": {"type": "nic", "name": "eth0"},
    "eth1": {"type": "nic", "hwaddr": "00:16:3e:00:00:09"},
    "root": {"type": "disk", "path": "/"},
}
INSTANCE = records.instance(
    project="p1", config=CONFIG, devices=DEVICES, expanded_config={"user.meta-data": "a: b", **CONFIG}
)


def test_what_is_shown() -> None:
    assert guests.list_keys(CONFIG) == ["/1.0/config/cloud-init.user-data", "/1.0/config/user.foo"]
    assert guests.show_meta_data(INSTANCE) == "#cloud-config\ninstance-id: af6a01c7\nlocal-hostname: c1\na: b"
    # What was made by older versions keeps its name for its identity.
    older = replace(INSTANCE, config={}, expanded_config={})
    assert guests.show_meta_data(older) == "#cloud-config\ninstance-id: c1\nlocal-hostname: c1\n"
    shown = guests.show_devices(INSTANCE)
    assert shown["eth0"] == {"type": "nic", "name": "eth0", "hwaddr": "00:16:3e:00:00:01"}
    assert (shown["eth1"], shown["root"]) == (DEVICES["eth1"], DEVICES["root"])


@pytest.mark.parametrize(
    ("config", "offered", "images"),
    [
        ({}, True, False),
        ({"security.devlxd": "", "security.devlxd.images": "yes"}, True, True),
        ({"security.devlxd": "off", "security.devlxd.images": "true"}, False, False),
        ({"security.devlxd": "1"}, True, False),
    ],
)
def test_what_is_offered(config: dict[str, str], offered: bool, images: bool) -> None:
    assert (guests.is_offered(config), guests.offers_images(config)) == (offered, images)


def test_root_user() -> None:
    ids = HostIds(IdRange(100000, 65536), IdRange(200000, 65536))
    config = {"volatile.idmap.current": to_text(plan({}, ids, ()).idmap)}
    assert guests.root_ids(replace(INSTANCE, config=config)) == (100000, 200000)
    assert guests.root_ids(replace(INSTANCE, config={"volatile.idmap.current": "[]"})) == (0, 0)


def test_changes() -> None:
    after = {"user.foo": "baz", "cloud-init.user-data": "#cloud-config", "user.new": "1", "limits.cpu": "2"}
    assert guest_events.config_changes(CONFIG, after) == [
        {"key": "user.foo", "old_value": "bar", "value": "baz"},
        {"key": "user.new", "old_value": "", "value": "1"},
    ]
    now = {"root": DEVICES["root"], "eth0": {"type": "nic", "name": "x"}, "mnt": {"type": "disk", "path": "/mnt"}}
    changes = guest_events.device_changes(DEVICES, now, (["eth1"], ["eth0"], ["mnt"]))
    assert [(one["action"], one["name"]) for one in changes] == [
        ("removed", "eth1"),
        ("updated", "eth0"),
        ("added", "mnt"),
    ]
    assert [one["config"] for one in changes] == [DEVICES["eth1"], now["eth0"], now["mnt"]]


async def test_listeners() -> None:
    events = GuestEvents()
    everything = events.listen(1, guest_events.TYPES)
    devices = events.listen(1, frozenset({"device"}))
    events.listen(2, guest_events.TYPES)
    events.publish(1, "config", {"key": "user.foo"})
    assert (everything.queue.qsize(), devices.queue.qsize()) == (1, 0)
    event = everything.queue.get_nowait()
    assert event is not None
    assert (event["type"], event["metadata"]) == ("config", {"key": "user.foo"})
    for _ in range(QUEUE_LENGTH + 1):
        events.publish(1, "config", {})
    assert (everything.lost, devices.lost) == (True, False)
    assert everything.queue.qsize() == QUEUE_LENGTH
    events.leave(1, everything)
    assert events.wants(1)
    events.end(1)
    assert devices.lost
    assert devices.queue.get_nowait() is None
    assert (events.wants(1), events.wants(2)) == (False, True)
    events.close()
    assert not events.wants(2)
