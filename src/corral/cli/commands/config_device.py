"""`config device` and `profile device`: the devices of an instance or of a profile."""

from __future__ import annotations

from corral.cli import output
from corral.cli.command import ANY_NUMBER_OF, Command, Invocation
from corral.cli.devices import DeviceOwner
from corral.cli.session import parse_settings
from corral.errors import CorralError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_INHERITED = "Device from profile(s) cannot be {what} for individual instance"


def _owner(invocation: Invocation, kind: str) -> DeviceOwner:
    resource = invocation.session.resource(invocation.args[0], "Missing name")
    return DeviceOwner(resource.server, f"{kind}s", resource.name)


def _settings(args: list[str]) -> dict[str, str]:
    settings = {}
    for argument in args:
        key, equals, value = argument.partition("=")
        if not equals:
            raise CorralError(f'No value found in "{argument}"')
        settings[key] = value
    return settings


def add(kind: str, invocation: Invocation) -> int:
    """Add a device."""
    device, device_type = invocation.args[1:3]
    settings = _settings(invocation.args[3:])
    owner = _owner(invocation, kind)
    if device in owner.devices:
        raise CorralError("The device already exists")
    owner.devices[device] = {"type": device_type, **settings}
    owner.save()
    invocation.session.say(f"Device {device} added to {owner.name}")
    return 0


def get(kind: str, invocation: Invocation) -> int:
    """Print a device's key."""
    owner = _owner(invocation, kind)
    device = owner.device(invocation.args[1], _INHERITED.format(what="retrieved"))
    output.line(device.get(invocation.args[2], ""))
    return 0


def list_devices(kind: str, invocation: Invocation) -> int:
    """Print the names of the devices."""
    output.line("\n".join(sorted(_owner(invocation, kind).devices)))
    return 0


def override(kind: str, invocation: Invocation) -> int:
    """Take a device over from a profile, with changes."""
    owner = _owner(invocation, kind)
    device = invocation.args[1]
    if device in owner.devices:
        raise CorralError("The device already exists")
    if device not in owner.inherited:
        raise CorralError("The profile device doesn't exist")
    owner.devices[device] = {**owner.inherited[device], **_settings(invocation.args[2:])}
    owner.save()
    invocation.session.say(f"Device {device} overridden for {owner.name}")
    return 0


def remove(kind: str, invocation: Invocation) -> int:
    """Remove devices."""
    owner = _owner(invocation, kind)
    hint = "Override device or modify profile instead"
    for device in invocation.args[1:]:
        message = "Device from profile(s) cannot be removed from individual instance. " + hint
        owner.device(device, message)
        del owner.devices[device]
    owner.save()
    invocation.session.say(f"Device {', '.join(invocation.args[1:])} removed from {owner.name}")
    return 0


def set_keys(kind: str, invocation: Invocation) -> int:
    """Set keys of a device."""
    owner = _owner(invocation, kind)
    message = _INHERITED.format(what="modified") + ". Override device or modify profile instead"
    owner.device(invocation.args[1], message).update(parse_settings(invocation.args[2:]))
    owner.save()
    return 0


def unset(kind: str, invocation: Invocation) -> int:
    """Unset a key of a device."""
    invocation.args = [*invocation.args, ""]
    return set_keys(kind, invocation)


def show(kind: str, invocation: Invocation) -> int:
    """Print the devices as YAML."""
    from corral.client.yaml_output import render_yaml

    output.write(render_yaml(_owner(invocation, kind).devices, any_value=True))
    return 0


def device_command(kind: str) -> Command:
    """The `device` group below `config` (instance) or `profile`."""

    def bind(function: Any) -> Any:
        return lambda invocation: function(kind, invocation)

    who = f"[<remote>:]<{kind}>"
    group = "config" if kind == "instance" else "profile"
    commands = [
        Command(
            f"add {who} <device> <type> [key=value...]",
            "Add instance devices",
            bind(add),
            (3, ANY_NUMBER_OF),
            examples=f"{{client}} {group} device add [<remote>:]{kind}1 <device-name> disk source=/share/c1 path=/opt\n"
            "    Mount the host's /share/c1 onto /opt in the instance.",
        ),
        Command(f"get {who} <device> <key>", "Get values for device configuration keys", bind(get), (3, 3)),
        Command(f"list {who}", "List instance devices", bind(list_devices), (1, 1), aliases=("ls",)),
        Command(
            f"remove {who} <name>...", "Remove instance devices", bind(remove), (2, ANY_NUMBER_OF), aliases=("rm",)
        ),
        Command(
            f"set {who} <device> <key>=<value>...",
            "Set device configuration keys",
            bind(set_keys),
            (3, ANY_NUMBER_OF),
            long="Set device configuration keys\n\nA single key may also be set with:\n"
            f"    {{client}} {group} device set {who} <device> <key> <value>",
        ),
        Command(f"show {who}", "Show full device configuration", bind(show), (1, 1)),
        Command(f"unset {who} <device> <key>", "Unset device configuration keys", bind(unset), (3, 3)),
    ]
    if kind == "instance":
        commands.append(
            Command(
                f"override {who} <device> [key=value...]",
                "Copy profile inherited devices and override configuration keys",
                bind(override),
                (2, ANY_NUMBER_OF),
            )
        )
    return Command("device", "Manage devices", commands=commands)


COMMAND = device_command("instance")
