"""`storage volume attach` and `detach`: custom volumes as disks of instances and profiles."""

from __future__ import annotations

from corral.cli.command import Command, Invocation
from corral.cli.devices import DeviceOwner
from corral.cli.keyed import bind
from corral.client.server import escape
from corral.errors import CorralError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from corral.client.server import Server

KINDS = ("custom", "image", "container", "virtual-machine")


def parse_volume(name: str) -> tuple[str, str]:
    """(Name, kind) of `[kind/]name`; custom where no kind is named."""
    kind, slash, rest = name.partition("/")
    return (rest, kind) if slash and kind in KINDS else (name, "custom")


def attach(owners: str, invocation: Invocation) -> int:
    """Attach a volume."""
    args = invocation.args
    resource = invocation.session.resource(args[0], "Missing pool name")
    name, kind = parse_volume(args[1])
    if kind != "custom":
        raise CorralError('Only "custom" volumes can be attached to instances')
    device_name = args[3] if len(args) == 5 else args[1]
    path = args[4] if len(args) == 5 else invocation.arg(3)
    device = {"type": "disk", "pool": resource.name, "source": name}
    if owners == "instances" or not _is_block(resource.server, resource.name, name):
        device["path"] = path

    DeviceOwner(resource.server, owners, args[2]).attach(device_name, device)
    return 0


def _is_block(server: Server, pool: str, name: str) -> bool:
    path = f"/storage-pools/{escape(pool)}/volumes/custom/{escape(name)}"
    return bool(server.get(path).get("content_type") == "block")


def detach(owners: str, invocation: Invocation) -> int:
    """Detach a volume."""
    args = invocation.args
    resource = invocation.session.resource(args[0], "Missing pool name")

    owner = DeviceOwner(resource.server, owners, args[2])
    wanted = {"type": "disk", "pool": resource.name, "source": args[1]}
    found = [name for name, device in owner.devices.items() if wanted.items() <= device.items()]
    del owner.devices[owner.choose(invocation.arg(3), found, "storage volume")]
    owner.save()
    return 0


def _commands() -> tuple[Command, ...]:
    commands = []
    for suffix, owners, noun in (("", "instances", "instance"), ("-profile", "profiles", "profile")):
        where = f"[<remote>:]<pool> <volume> <{noun}> [<device name>]"
        attached = f"Attach new storage volumes to {owners}"
        detached = f"Detach storage volumes from {owners}"
        commands.append(Command(f"attach{suffix} {where} [<path>]", attached, bind(attach, owners), (3, 5)))
        commands.append(Command(f"detach{suffix} {where}", detached, bind(detach, owners), (3, 4)))
    return tuple(commands)


COMMANDS = _commands()
