"""Changes the state of one instance, or of all that are not in that state yet."""

import asyncio

from corral.api.instances import InstanceStatePut
from corral.errors import CorralError, InternalError, InvalidRequest
from corral.server.context import Context
from corral.server.instances import running, start, stop
from corral.server.instances.inventory import Inventory
from corral.server.instances.model import Instance, Status

DESCRIPTIONS = {
    "start": "Starting instance",
    "stop": "Stopping instance",
    "restart": "Restarting instance",
    "freeze": "Freezing instance",
    "unfreeze": "Unfreezing instance",
}
"""What the operation of each action is called."""

_FROM = {
    "start": (Status.STOPPED,),
    "stop": (Status.RUNNING, Status.FROZEN),
    "restart": (Status.RUNNING, Status.FROZEN),
    "freeze": (Status.RUNNING,),
    "unfreeze": (Status.FROZEN,),
}


def describe(action: str) -> str:
    """The description of an action's operation; InvalidRequest for an unknown action."""
    if action not in DESCRIPTIONS:
        raise InvalidRequest(f"Unknown action: '{action}'")
    return DESCRIPTIONS[action]


async def change_state(context: Context, project: str, name: str, change: InstanceStatePut) -> None:
    """Start, stop, restart, freeze or unfreeze an instance."""
    match change.action:
        case "start":
            await start.start_instance(context, project, name, stateful=change.stateful)
        case "stop":
            await stop.stop_instance(
                context, project, name, force=change.force, timeout_s=change.timeout, stateful=change.stateful
            )
        case "restart":
            await stop.restart_instance(context, project, name, force=change.force, timeout_s=change.timeout)
        case "freeze":
            await stop.freeze_instance(context, project, name)
        case "unfreeze":
            await stop.unfreeze_instance(context, project, name)
        case _:
            raise InvalidRequest(f"Unknown action: '{change.action}'")


async def concerned(context: Context, project: str, action: str) -> list[Instance]:
    """The instances of a project for which an action would change something."""
    describe(action)
    instances = await context.parts[Inventory].list(project)
    return [one for one in instances if running.status(context, one) in _FROM[action]]


async def change_states(context: Context, instances: list[Instance], change: InstanceStatePut) -> None:
    """Change the state of many instances at once; InternalError names those that failed."""

    async def one(instance: Instance) -> CorralError | None:
        try:
            await change_state(context, instance.project, instance.name, change)
        except CorralError as error:
            return error
        return None

    results = await asyncio.gather(*(one(instance) for instance in instances))
    failures = [
        f" - Instance: {instance.name}: {error}"
        for instance, error in zip(instances, results, strict=True)
        if error is not None
    ]
    if failures:
        raise InternalError(f"The following instances failed to update state:\n{chr(10).join(failures)}")
