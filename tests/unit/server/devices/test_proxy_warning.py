"""The warning about traffic between the ports of a bridge that passes no firewall."""

from pathlib import Path

from corral.product import LXD
from corral.server.context import Context, Member
from corral.server.db import schema
from corral.server.db.database import Database
from corral.server.devices import proxy
from corral.server.devices.model import DeviceContext
from corral.server.events.bus import Events
from corral.server.events.problems import Problem, ProblemSolved
from corral.server.instances import store
from corral.server.instances.model import InstanceType
from corral.server.instances.store import NewInstance
from corral.server.locks import Locks


async def test_it_is_raised_and_resolved_for_the_instance(tmp_path: Path) -> None:
    member = Member(LXD, "here", tmp_path, tmp_path, tmp_path)
    context = Context(Database(":memory:"), Events(), Locks(), member)
    await context.db.open(schema.cluster)
    told: list[Problem | ProblemSolved] = []

    async def note(event: Problem | ProblemSolved) -> None:
        told.append(event)

    context.events.on(Problem, note)
    context.events.on(ProblemSolved, note)
    try:
        new = NewInstance("default", "c1", InstanceType.CONTAINER, 2, "2026-01-01T00:00:00Z", {}, {})
        number = await context.db.write(store.insert_instance, new)
        device = DeviceContext(context, "default", "c1", "c1", "web", {}, {})
        await proxy.report_netfilter(device, 6, enabled=False)
        await proxy.report_netfilter(device, 6, enabled=True)
        await proxy.report_netfilter(DeviceContext(context, "default", "gone", "gone", "web", {}, {}), 4, enabled=False)
    finally:
        await context.db.close()
    raised, solved = told
    assert isinstance(raised, Problem)
    assert raised.message.startswith("IPv6 bridge netfilter not enabled")
    assert solved == ProblemSolved(proxy.NETFILTER, "default", ("instance", number))
