"""Create, update, rename, delete, start and repair, with a driver that only notes what it is asked."""

import random
from collections.abc import AsyncIterator, Collection, Mapping
from pathlib import Path

import pytest

from corral.api.networks import NetworkPut, NetworksPost
from corral.errors import AlreadyExists, CorralError, InternalError, InvalidRequest, NotFound, NotSupported
from corral.server.background import Background
from corral.server.context import Context
from corral.server.db import rows
from corral.server.db.database import Tx
from corral.server.events.bus import Listener
from corral.server.events.problems import Problem, ProblemSolved
from corral.server.networks import create, delete, problems, registry, rename, show, startup, store, update
from corral.server.networks.addresses import Subnet
from corral.server.networks.drivers.bridge.driver import Bridge
from corral.server.networks.guard import Guard
from corral.server.networks.model import Network, NetworkChanged, NetworkRepaired, NetworkStatus, NetworkType
from corral.server.networks.site import Site


class NotingDriver(Bridge):
    """Bridges without a host: `calls` is what was asked, `broken` makes every start fail, `harm` is found."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.broken = False
        self.harm: str | None = None

    def fill(self, config: Mapping[str, str], taken: Collection[Subnet], rng: random.Random) -> dict[str, str]:
        return {"ipv4.address": "10.1.2.1/24", "ipv6.address": "none", **config}

    async def check_free(self, name: str, config: Mapping[str, str]) -> None:
        return None

    async def start(self, site: Site, network: Network, before: Mapping[str, str] | None = None) -> None:
        self.calls.append(f"start {network.name} {network.config.get('ipv4.address')}")
        site.directory(network.name).mkdir(parents=True, exist_ok=True)
        if self.broken:
            raise InternalError("broken")
        self.harm = None

    async def stop(self, site: Site, network: Network) -> None:
        self.calls.append(f"stop {network.name}")

    async def find_harm(self, site: Site, network: Network) -> str | None:
        return self.harm


@pytest.fixture(autouse=True)
def driver(monkeypatch: pytest.MonkeyPatch) -> NotingDriver:
    noting = NotingDriver()
    monkeypatch.setitem(registry.DRIVERS, NetworkType.BRIDGE, noting)
    return noting


async def make(context: Context, name: str = "br0", **config: str) -> None:
    values = {key.replace("_", "."): value for key, value in config.items()}
    await create.create_network(context, "default", NetworksPost(name=name, config=values))


async def get(context: Context, name: str = "br0") -> Network:
    return await context.db.read(store.get_network, "default", name)


def use_network(tx: Tx, network: str) -> None:
    rows.write_devices(tx, "profile", 1, {"eth0": {"type": "nic", "network": network}})


@pytest.fixture
async def lifecycle(context: Context) -> AsyncIterator[Listener]:
    listener = context.events.listen(frozenset({"lifecycle"}), None)
    yield listener
    context.events.leave(listener)


def actions(listener: Listener) -> list[str]:
    found = []
    while not listener.queue.empty():
        event = listener.queue.get_nowait()
        assert event is not None
        found.append(f"{event['metadata']['action']} {event['metadata']['source']}")
    return found


async def test_a_created_network_works_and_is_announced(
    context: Context, driver: NotingDriver, lifecycle: Listener
) -> None:
    await make(context, user_a="b")
    network = await get(context)
    assert network.status is NetworkStatus.CREATED
    assert network.config == {"ipv4.address": "10.1.2.1/24", "ipv6.address": "none", "user.a": "b"}
    assert driver.calls == ["start br0 10.1.2.1/24"]
    assert actions(lifecycle) == ["network-created /1.0/networks/br0"]


async def test_a_network_that_does_not_start_leaves_nothing(
    context: Context, driver: NotingDriver, lifecycle: Listener, tmp_path: Path
) -> None:
    driver.broken = True
    with pytest.raises(InternalError, match="broken"):
        await make(context)
    with pytest.raises(NotFound, match="Network not found"):
        await get(context)
    assert driver.calls[-1] == "stop br0"
    assert not (tmp_path / "networks" / "br0").exists()
    assert actions(lifecycle) == []


@pytest.mark.parametrize(
    ("body", "error", "text"),
    [
        (NetworksPost(), InvalidRequest, "No name provided"),
        (NetworksPost(name="br0", type="odd"), InvalidRequest, 'Unknown network type "odd"'),
        (NetworksPost(name="br0", type="ovn"), NotSupported, '"ovn" are not supported'),
        (NetworksPost(name="b"), InvalidRequest, "too short"),
        (NetworksPost(name="br0", config={"a": "b"}), InvalidRequest, 'Invalid option for network "br0" option "a"'),
        (NetworksPost(name="br0", type="macvlan"), InvalidRequest, "Required value"),
        (NetworksPost(name="br0", type="macvlan", config={"parent": "no-such-if"}), NotFound, "not found"),
    ],
)
async def test_bad_requests_change_nothing(
    context: Context, driver: NotingDriver, body: NetworksPost, error: type[CorralError], text: str
) -> None:
    with pytest.raises(error) as caught:
        await create.create_network(context, "default", body)
    assert text in str(caught.value)
    assert await context.db.read(store.list_networks) == []
    assert driver.calls == []


async def test_a_name_is_given_once(context: Context) -> None:
    await make(context)
    with pytest.raises(AlreadyExists, match="The network already exists"):
        await make(context)


async def test_an_update_is_applied_and_told_to_reactions(
    context: Context, driver: NotingDriver, lifecycle: Listener
) -> None:
    seen: list[NetworkChanged] = []

    async def note(event: NetworkChanged) -> None:
        seen.append(event)

    context.events.on(NetworkChanged, note)
    await make(context)
    body = NetworkPut(config={"ipv4.address": "10.9.9.1/24", "ipv6.address": "none"}, description="d")
    await update.update_network(context, "default", "br0", body)
    assert (await get(context)).config["ipv4.address"] == "10.9.9.1/24"
    assert (await get(context)).description == "d"
    assert driver.calls[-1] == "start br0 10.9.9.1/24"
    assert [event.keys for event in seen] == [frozenset({"ipv4.address"})]
    assert actions(lifecycle)[-1] == "network-updated /1.0/networks/br0"


async def test_user_keys_do_not_touch_the_host(context: Context, driver: NotingDriver) -> None:
    await make(context)
    body = NetworkPut(config={**(await get(context)).config, "user.x": "y"})
    await update.update_network(context, "default", "br0", body)
    assert (await get(context)).config["user.x"] == "y"
    assert len(driver.calls) == 1


async def test_a_failed_update_restores_the_network(context: Context, driver: NotingDriver) -> None:
    await make(context)
    driver.broken = True
    with pytest.raises(InternalError):
        await update.update_network(context, "default", "br0", NetworkPut(config={"ipv4.address": "10.9.9.1/24"}))
    assert (await get(context)).config["ipv4.address"] == "10.1.2.1/24"
    assert driver.calls[-1] == "start br0 10.1.2.1/24"


async def test_a_used_network_is_neither_deleted_nor_renamed(context: Context) -> None:
    await make(context)
    await context.db.write(use_network, "br0")
    with pytest.raises(InvalidRequest, match="The network is currently in use"):
        await delete.delete_network(context, "default", "br0")
    with pytest.raises(InvalidRequest, match="Network is currently in use"):
        await rename.rename_network(context, "default", "br0", "br1")
    shown = await show.get_network(context, "default", "br0")
    assert shown.used_by == ["/1.0/profiles/default"]


async def test_delete_takes_all(context: Context, driver: NotingDriver, lifecycle: Listener, tmp_path: Path) -> None:
    await make(context)
    await delete.delete_network(context, "default", "br0")
    assert driver.calls[-1] == "stop br0"
    assert await context.db.read(store.list_networks) == []
    assert not (tmp_path / "networks" / "br0").exists()
    assert actions(lifecycle)[-1] == "network-deleted /1.0/networks/br0"


async def test_rename_moves_files_and_starts_anew(context: Context, driver: NotingDriver, tmp_path: Path) -> None:
    await make(context)
    (tmp_path / "networks/br0/dnsmasq.leases").write_text("x")
    await rename.rename_network(context, "default", "br0", "br1")
    assert (tmp_path / "networks/br1/dnsmasq.leases").read_text() == "x"
    assert driver.calls[1:] == ["stop br0", "start br1 10.1.2.1/24"]
    with pytest.raises(NotFound):
        await get(context)


async def test_a_failed_rename_is_undone(context: Context, driver: NotingDriver, tmp_path: Path) -> None:
    await make(context)
    driver.broken = True
    with pytest.raises(InternalError):
        await rename.rename_network(context, "default", "br0", "br1")
    assert (await get(context)).name == "br0"
    assert (tmp_path / "networks/br0").exists()
    assert driver.calls[-2:] == ["stop br1", "start br0 10.1.2.1/24"]


def insert_half(tx: Tx) -> None:
    store.insert_network(tx, "default", "half", NetworkType.BRIDGE, "", {"ipv4.address": "10.3.0.1/24"})


async def test_the_start_removes_halves_and_brings_up_the_rest(context: Context, driver: NotingDriver) -> None:
    await make(context)
    await context.db.write(insert_half)
    driver.calls.clear()
    orphan = context.member.networks_dir / "orphan"
    orphan.mkdir()
    background = context.parts.add(Background())
    try:
        await startup.start_networks(context)
        assert sorted(driver.calls) == ["start br0 10.1.2.1/24", "stop half"]
        assert not orphan.exists()
        assert [network.name for network in await context.db.read(store.list_networks)] == ["br0"]
    finally:
        await background.stop()


async def test_a_network_that_cannot_start_is_unavailable_until_it_can(context: Context, driver: NotingDriver) -> None:
    told: list[object] = []

    async def note(event: object) -> None:
        told.append(event)

    await make(context)
    context.events.on(Problem, note)
    context.events.on(ProblemSolved, note)
    driver.broken = True
    background = context.parts.add(Background())
    try:
        await startup.start_networks(context)
    finally:
        await background.stop()
    assert told == [Problem("Network unavailable", "broken", "default", ("network", 1))]
    assert (await show.get_network(context, "default", "br0")).status == "Unavailable"
    driver.broken = False
    await context.parts[Guard].check()
    assert told[1:] == [ProblemSolved("Network unavailable", "default", ("network", 1))]
    assert (await show.get_network(context, "default", "br0")).status == "Created"


async def test_harm_is_repaired_once_and_told(context: Context, driver: NotingDriver) -> None:
    seen: list[str] = []

    async def note(event: NetworkRepaired) -> None:
        seen.append(event.harm)

    context.events.on(NetworkRepaired, note)
    await make(context)
    for _ in range(2):
        driver.harm = "rules are gone"
        await context.parts[Guard].check()
    assert seen == ["rules are gone"]
    assert len(driver.calls) == 2


async def test_networks_that_are_taken_away_are_not_repaired(context: Context, driver: NotingDriver) -> None:
    await make(context)
    await startup.stop_networks(context)
    calls = list(driver.calls)
    driver.harm = "dnsmasq is gone"
    await context.parts[Guard].check()
    assert driver.calls == calls


async def test_networks_are_shown_with_the_interfaces_of_the_host(context: Context) -> None:
    await make(context)
    shown = {network.name: network for network in await show.list_networks(context, "default")}
    assert shown["br0"].managed
    assert shown["br0"].locations == ["none"]
    assert (shown["lo"].type, shown["lo"].managed, shown["lo"].locations) == ("loopback", False, None)
    with pytest.raises(NotFound, match="Network not found"):
        await show.get_network(context, "default", "no-such")


async def test_a_long_prefix_is_warned_of_until_it_is_changed(context: Context) -> None:
    told: list[Problem | ProblemSolved] = []

    async def note(event: Problem | ProblemSolved) -> None:
        if event.type == problems.LARGE_PREFIX:
            told.append(event)

    context.events.on(Problem, note)
    context.events.on(ProblemSolved, note)
    await make(context, **{"ipv6.address": "fd42:1::1/72"})
    assert [type(event) for event in told] == [Problem]
    await update.update_network(context, "default", "br0", NetworkPut(config={"ipv6.address": "fd42:1::1/64"}))
    assert [type(event) for event in told] == [Problem, ProblemSolved]
