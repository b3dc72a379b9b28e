"""`init` and `launch`: make an instance from an image or empty, and start it."""

from __future__ import annotations

from corral.cli import output
from corral.cli.command import TARGET, Command, Invocation, switch, text, texts
from corral.cli.commands.action import CONSOLE, change_state
from corral.cli.progress import Progress
from corral.cli.session import parse_device_overrides, read_stdin, split_pair, stdin_is_terminal
from corral.client.operations import OperationFailed
from corral.client.server import ApiError, escape
from corral.errors import CorralError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from corral.cli.session import Session
    from corral.client.server import Server

    Devices = dict[str, dict[str, str]]


class Wanted:
    """Where the new instance goes and what it is made of."""

    def __init__(self, session: Session, args: list[str], *, empty: bool) -> None:
        remotes = session.remotes
        if empty and len(args) > 1:
            raise CorralError("--empty cannot be combined with an image name")
        self.image_remote, self.image = ("", "") if empty or not args else remotes.parse(args[0])
        self.remote, self.name = remotes.parse(args[-1] if len(args) == 2 or (empty and args) else "")


def create(invocation: Invocation) -> tuple[Server, str, str]:
    """Create the instance. (Server, name, remote)."""
    session = invocation.session
    from_stdin = _read_definition()
    wanted = Wanted(session, invocation.args, empty=invocation.switch("empty"))
    server = session.remotes.server(wanted.remote)
    if invocation.text("target"):
        server = server.with_target(invocation.text("target"))
    session.say(f"Creating {wanted.name}" if wanted.name else "Creating the instance")
    body = _compose(invocation, server, wanted.name, from_stdin)
    if invocation.switch("empty"):
        body["source"] = {"type": "none"}
        operation = server.run("POST", "/instances", body)
    else:
        body.update(describe_image(session, server, wanted, wants_vm=invocation.switch("vm")))
        operation = Progress(session, "Retrieving image: %s").run(server, "POST", "/instances", body)
    name = wanted.name or _created_name(operation)
    _warn_without_network(session, server, name)
    return server, name, wanted.remote


def _read_definition() -> dict[str, Any]:
    """The definition on standard input, if that is not a terminal."""
    if stdin_is_terminal():
        return {}
    content = read_stdin()
    if not content.strip():
        return {}
    from corral.client.yaml_input import parse_mapping

    return parse_mapping(content)


def _compose(invocation: Invocation, server: Server, name: str, from_stdin: dict[str, Any]) -> dict[str, Any]:
    devices: Devices = {}
    config: dict[str, str] = {}
    if from_stdin:
        from corral.client.yaml_input import stringify

        config = stringify(from_stdin.get("config"))
        devices = {str(key): stringify(value) for key, value in (from_stdin.get("devices") or {}).items()}
    if invocation.text("network"):
        devices["eth0"] = network_device(server, invocation.text("network"))
    for entry in invocation.texts("config"):
        key, value = split_pair(entry, "Bad key=value pair")
        config[key] = value
    if invocation.text("storage"):
        pool = invocation.text("storage")
        _require(server, f"/storage-pools/{escape(pool)}", f'Failed loading storage pool "{pool}"')
        devices["root"] = {"type": "disk", "path": "/", "pool": pool}
    profiles = _profiles(invocation, from_stdin)
    _override_devices(invocation, server, devices, profiles)
    return {
        "name": name,
        "config": config,
        "devices": devices,
        "ephemeral": invocation.switch("ephemeral"),
        "profiles": profiles,
        "instance_type": invocation.text("type"),
        "type": "virtual-machine" if invocation.switch("vm") else "container",
    }


def _profiles(invocation: Invocation, from_stdin: dict[str, Any]) -> list[str] | None:
    """The profiles that were asked for; None lets the server choose."""
    if invocation.texts("profile"):
        return invocation.texts("profile")
    if invocation.switch("no-profiles"):
        return []
    return from_stdin.get("profiles") or None


def _require(server: Server, path: str, message: str) -> dict[str, Any]:
    try:
        body: dict[str, Any] = server.get(path)
    except CorralError as error:
        raise CorralError(f"{message}: {error}") from error
    return body


def network_device(server: Server, name: str) -> dict[str, str]:
    """The NIC that connects an instance to a network."""
    network = _require(server, f"/networks/{escape(name)}", f'Failed loading network "{name}"')
    if network["managed"]:
        return {"name": "eth0", "type": "nic", "network": network["name"]}
    nictype = "bridged" if network["type"] == "bridge" else "macvlan"
    return {"name": "eth0", "type": "nic", "nictype": nictype, "parent": name}


def _override_devices(invocation: Invocation, server: Server, devices: Devices, profiles: list[str] | None) -> None:
    overrides = parse_device_overrides(invocation.texts("device"))
    inherited: Devices = {}
    if any(device not in devices for device in overrides):
        for profile in profiles or ["default"]:
            message = f'Failed loading profile "{profile}" for device override'
            inherited.update(_require(server, f"/profiles/{escape(profile)}", message)["devices"] or {})
    for device, settings in overrides.items():
        if device not in devices:
            if device not in inherited:
                message = f'Cannot override config for device "{device}": Device not found in profile devices'
                raise CorralError(message)
            devices[device] = dict(inherited[device])
        devices[device].update(settings)


def describe_image(session: Session, server: Server, wanted: Wanted, *, wants_vm: bool) -> dict[str, Any]:
    """The image for a new root as the server is to be told: its `source`, and its `type` where that is known."""
    remotes = session.remotes
    _guess_image(session, server, wanted)
    image = wanted.image or "default"
    remote = remotes.remotes[wanted.image_remote]
    source: dict[str, Any] = {"type": "image"}
    if remote.protocol == "simplestreams":
        source.update(mode="pull", server=remote.addr, protocol="simplestreams", alias=image)
        return {"source": source}
    image_server = server if wanted.image_remote == wanted.remote else remotes.image_server(wanted.image_remote)
    alias = _find_alias(image_server, image)
    fingerprint = str(alias["target"]) if alias is not None else image
    found = _find_image(session, image_server, fingerprint, image)
    if found.get("type") != "virtual-machine" and wants_vm:
        raise CorralError("Asked for a VM but image is of type container")
    if not image_server.is_same_as(server):
        source.update(_pull_source(image_server, found))
        if alias is not None and found.get("public"):
            source["alias"] = image
    if source.get("alias") is None:
        source["fingerprint"] = found["fingerprint"]
    return {"source": source, "type": found.get("type") or "container"}


def _pull_source(image_server: Server, image: dict[str, Any]) -> dict[str, Any]:
    """How the server gets an image from another one."""
    from corral.cli.image_transfer import image_secret

    addresses = image_server.addresses()
    if not addresses:
        raise CorralError("The source server isn't listening on the network")
    source: dict[str, Any] = {
        "mode": "pull",
        "protocol": "lxd",
        "server": addresses[0],
        "certificate": image_server.certificate,
    }
    if not image.get("public"):
        source["secret"] = image_secret(image_server, image["fingerprint"])
    return source


def _find_alias(server: Server, name: str) -> dict[str, Any] | None:
    try:
        alias: dict[str, Any] = server.get(f"/images/aliases/{escape(name)}")
    except ApiError as error:
        if error.status == 404:
            return None
        raise
    return alias


def _find_image(session: Session, server: Server, fingerprint: str, name: str) -> dict[str, Any]:
    try:
        image: dict[str, Any] = server.get(f"/images/{escape(fingerprint)}")
    except ApiError as error:
        if error.status != 404 or session.product.name == "lxd":
            raise
        hint = name if "/" in name else "debian/12"
        raise CorralError(
            f'Image "{name}" not found: it is neither an alias nor a fingerprint of an image on this server\n'
            f"Make one with `{session.product.client} image build {hint}`, or see `{session.product.client} image list`"
        ) from error
    return image


def _guess_image(session: Session, server: Server, wanted: Wanted) -> None:
    """`ubuntu/22.04` was meant as `ubuntu:22.04` where no local image is called so."""
    first, slash, rest = wanted.image.partition("/")
    if wanted.image_remote != wanted.remote or first not in session.remotes.remotes:
        return
    if _find_alias(server, wanted.image) is not None:
        return
    try:
        server.get(f"/images/{escape(wanted.image)}")
        return
    except ApiError:
        pass
    chosen = f"'{first}:{rest}'" if slash else f"'{first}:'"
    output.warn(f"The local image '{wanted.image}' couldn't be found, trying {chosen} instead.")
    wanted.image_remote, wanted.image = first, rest if slash else "default"


def _created_name(operation: dict[str, Any]) -> str:
    resources = operation.get("resources") or {}
    urls = resources.get("instances") or resources.get("containers") or []
    if not urls:
        raise OperationFailed("Didn't get any affected image, instance or snapshot from server")
    name = str(urls[0]).partition("?")[0].rpartition("/")[2]
    output.line(f"Instance name is: {name}")
    return name


def _warn_without_network(session: Session, server: Server, name: str) -> None:
    try:
        instance = server.get(f"/instances/{escape(name)}")
    except CorralError:
        return
    if any(device.get("type") == "nic" for device in (instance.get("expanded_devices") or {}).values()):
        return
    client = session.product.client
    output.warn("\nThe instance you are starting doesn't have any network attached to it.")
    output.warn(f"  To create a new network, use: {client} network create")
    output.warn(f"  To attach a network to an instance, use: {client} network attach\n")


def run_init(invocation: Invocation) -> int:
    """Create an instance."""
    if not invocation.args and not invocation.switch("empty"):
        from corral.cli.main import print_usage_of

        print_usage_of(invocation)
        return 0
    create(invocation)
    return 0


def run_launch(invocation: Invocation) -> int:
    """Create and start an instance."""
    server, name, remote = create(invocation)
    session = invocation.session
    session.say(f"Starting {name}")
    output.flush()
    body: dict[str, object] = {"action": "start", "timeout": -1, "force": False, "stateful": False}
    change_state(session, server, name, body, f"{remote}:{name}")
    console = invocation.text("console")
    if console:
        from corral.cli.commands.console import attach

        attach(session, server, name, console)
    return 0


_FLAGS = (
    texts("config", "Config key/value to apply to the new instance", "c"),
    texts("profile", "Profile to apply to the new instance", "p"),
    texts("device", "New key/value to apply to a specific device", "d"),
    switch("ephemeral", "Ephemeral instance", "e"),
    text("network", "Network name", "n"),
    text("storage", "Storage pool name", "s"),
    text("type", "Instance type", "t"),
    TARGET,
    switch("no-profiles", "Create the instance with no profiles applied"),
    switch("empty", "Create an empty instance"),
    switch("vm", "Create a virtual machine"),
)
_USE = "[<remote>:]<image> [<remote>:][<name>]"

INIT = Command(
    f"init {_USE}",
    "Create instances from images",
    run_init,
    (0, 2),
    flags=_FLAGS,
    hidden=True,
    examples="""{client} init debian/12 c1

{client} init debian/12 c1 < config.yaml
    Create the instance with the configuration in config.yaml""",
)
COMMAND = Command(
    f"launch {_USE}",
    "Create and start instances from images",
    run_launch,
    (1, 2),
    flags=(*_FLAGS, CONSOLE),
    examples="""{client} launch debian/12 c1

{client} launch debian/12 c1 < config.yaml
    Create and start a container with the configuration in config.yaml

{client} launch debian/12 v1 --vm
    Create and start a virtual machine""",
)
