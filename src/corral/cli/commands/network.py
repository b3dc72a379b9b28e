"""`network`: networks, and connecting instances and profiles to them."""

from __future__ import annotations

from corral.cli import keyed, output, table
from corral.cli.command import ANY_NUMBER_OF, FORMAT, TARGET, Command, Invocation, text
from corral.cli.commands import network_allocations
from corral.cli.devices import DeviceOwner
from corral.cli.keyed import Kind, bind
from corral.cli.records import NETWORK, NETWORK_LEASE, NETWORK_WRITABLE
from corral.cli.session import order
from corral.client.server import escape
from corral.errors import CorralError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


_MISSING = "Missing network name"


def _require_managed(body: dict[str, Any]) -> None:
    if not body.get("managed"):
        raise CorralError("Only managed networks can be modified")


KIND = Kind(
    "/networks",
    _MISSING,
    NETWORK,
    NETWORK_WRITABLE,
    """This is a YAML representation of the network.
Any line starting with a '#' will be ignored.

A network consists of a set of configuration items.

An example would look like:
name: mybr0
config:
  ipv4.address: 10.62.42.1/24
  ipv4.nat: true
  ipv6.address: fd00:56ad:9f7a:9800::1/64
  ipv6.nat: true
managed: true
type: bridge

Note that only the configuration can be changed.""",
)
KIND.sorts_users = True
KIND.check = _require_managed


def attach(kind: str, invocation: Invocation) -> int:
    """Connect an instance or a profile to a network."""
    resource = invocation.session.resource(invocation.args[0], _MISSING)
    network = resource.server.get(f"/networks/{escape(resource.name)}")
    if network["managed"] and kind == "instances":
        device = {"type": "nic", "network": network["name"]}
    else:
        nictype = "bridged" if network["type"] == "bridge" else "macvlan"
        device = {"type": "nic", "nictype": nictype, "parent": resource.name}
    name = invocation.arg(2, resource.name)
    if len(invocation.args) > 3:
        device["name"] = invocation.args[3]

    DeviceOwner(resource.server, kind, invocation.args[1]).attach(name, device)
    return 0


def detach(kind: str, invocation: Invocation) -> int:
    """Disconnect an instance or a profile from a network."""
    resource = invocation.session.resource(invocation.args[0], _MISSING)
    owner = DeviceOwner(resource.server, kind, invocation.args[1])
    found = [name for name, device in owner.devices.items() if _connects(device, resource.name)]
    name = owner.choose(invocation.arg(2), found, "network")
    if name not in found:
        raise CorralError("The specified device doesn't match the network")
    del owner.devices[name]
    owner.save()
    return 0


def _connects(device: dict[str, str], network: str) -> bool:
    return device.get("type") == "nic" and network in (device.get("parent"), device.get("network"))


def create(invocation: Invocation) -> int:
    """Create a network."""
    resource = invocation.session.resource(invocation.args[0])
    target = invocation.text("target")
    body = {
        "name": resource.name,
        "type": invocation.text("type"),
        "config": keyed.pairs(invocation.args[1:], "Bad key/value pair"),
        "description": "",
    }
    server = resource.server.with_target(target) if target else resource.server
    server.post("/networks", body)
    outcome = f"pending on member {target}" if target else "created"
    invocation.session.say(f"Network {resource.name} {outcome}")
    return 0


def list_networks(invocation: Invocation) -> int:
    """List the networks."""
    resource = invocation.session.resource(invocation.arg(0))
    if resource.name:
        raise CorralError("Filtering isn't supported yet")
    networks = resource.server.get("/networks", {"recursion": "1"}) or []
    rows = []
    for network in networks:
        if network["type"] in ("loopback", "unknown"):
            continue
        config = network.get("config") or {}
        rows.append(
            [
                network["name"],
                network["type"],
                "YES" if network["managed"] else "NO",
                config.get("ipv4.address", ""),
                config.get("ipv6.address", ""),
                network["description"],
                str(len(network.get("used_by") or ())),
                network["status"].upper(),
            ]
        )
    table.sort_rows(rows)
    header = ["NAME", "TYPE", "MANAGED", "IPV4", "IPV6", "DESCRIPTION", "USED BY", "STATE"]
    table.show(invocation.text("format"), header, rows, [order(network, NETWORK) for network in networks])
    return 0


def list_leases(invocation: Invocation) -> int:
    """List the DHCP leases of a network."""
    resource = invocation.session.resource(invocation.args[0], _MISSING)
    server = resource.server
    leases = server.get(f"/networks/{escape(resource.name)}/leases") or []
    rows = [[lease["hostname"], lease["hwaddr"], lease["address"], lease["type"].upper()] for lease in leases]
    header = ["HOSTNAME", "MAC ADDRESS", "IP ADDRESS", "TYPE"]
    if server.is_clustered:
        header.append("LOCATION")
        for row, lease in zip(rows, leases, strict=True):
            row.append(lease["location"])
    table.sort_rows(rows)
    table.show(invocation.text("format"), header, rows, [order(lease, NETWORK_LEASE) for lease in leases])
    return 0


def info(invocation: Invocation) -> int:
    """Show what a network does at the moment."""
    from corral.units import format_size

    resource = invocation.session.resource(invocation.args[0], _MISSING)
    server = resource.server
    if invocation.text("target"):
        server.require_cluster()
        server = server.with_target(invocation.text("target"))
    state = server.get(f"/networks/{escape(resource.name)}/state")
    lines = [
        f"Name: {resource.name}",
        f"MAC address: {state['hwaddr']}",
        f"MTU: {state['mtu']}",
        f"State: {state['state']}",
        f"Type: {state['type']}",
    ]
    if state.get("addresses"):
        lines += ["", "IP addresses:"]
        lines += [
            f"  {entry['family']}\t{entry['address']}/{entry['netmask']} ({entry['scope']})"
            for entry in state["addresses"]
        ]
    counters = state["counters"]
    lines += [
        "",
        "Network usage:",
        f"  Bytes received: {format_size(counters['bytes_received'])}",
        f"  Bytes sent: {format_size(counters['bytes_sent'])}",
        f"  Packets received: {counters['packets_received']}",
        f"  Packets sent: {counters['packets_sent']}",
    ]
    for field, title, entries in _DETAILS:
        if state.get(field):
            lines += ["", f"{title}:"]
            lines += [f"  {label}: {_detail(state[field].get(name))}" for name, label in entries]
    output.line("\n".join(lines))
    return 0


def _detail(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list):
        return ", ".join(value)
    return "" if value is None else str(value)


_DETAILS = (
    (
        "bond",
        "Bond",
        (
            ("mode", "Mode"),
            ("transmit_policy", "Transmit policy"),
            ("up_delay", "Up delay"),
            ("down_delay", "Down delay"),
            ("mii_frequency", "MII Frequency"),
            ("mii_state", "MII state"),
            ("lower_devices", "Lower devices"),
        ),
    ),
    (
        "bridge",
        "Bridge",
        (
            ("id", "ID"),
            ("stp", "STP"),
            ("forward_delay", "Forward delay"),
            ("vlan_default", "Default VLAN ID"),
            ("vlan_filtering", "VLAN filtering"),
            ("upper_devices", "Upper devices"),
        ),
    ),
    ("vlan", "VLAN", (("lower_device", "Lower device"), ("vid", "VLAN ID"))),
    ("ovn", "OVN", (("chassis", "Chassis"),)),
)
_ONE = "[<remote>:]<network>"


def _owner_commands() -> tuple[Command, ...]:
    """attach and detach, for instances and for profiles."""
    commands = []
    for suffix, kind, noun in (("", "instances", "instance"), ("-profile", "profiles", "profile")):
        where = f"{_ONE} <{noun}> [<device name>]"
        commands += [
            Command(
                f"attach{suffix} {where} [<interface name>]",
                f"Attach network interfaces to {kind}",
                bind(attach, kind),
                (2, 4),
            ),
            Command(f"detach{suffix} {where}", f"Detach network interfaces from {kind}", bind(detach, kind), (2, 3)),
        ]
    return tuple(commands)


COMMAND = Command(
    "network",
    "Manage and attach instances to networks",
    commands=(
        *_owner_commands(),
        Command(
            f"create {_ONE} [key=value...]",
            "Create new networks",
            create,
            (1, ANY_NUMBER_OF),
            flags=(TARGET, text("type", "Network type", "t")),
        ),
        Command(f"delete {_ONE}", "Delete networks", bind(keyed.delete, KIND, "Network"), (1, 1), aliases=("rm",)),
        Command(f"edit {_ONE}", "Edit network configurations as YAML", bind(keyed.edit, KIND), (1, 1)),
        Command(
            f"get {_ONE} <key>",
            "Get values for network configuration keys",
            bind(keyed.get, KIND),
            (2, 2),
            flags=(keyed.PROPERTY, TARGET),
        ),
        Command(f"info {_ONE}", "Get runtime information on networks", info, (1, 1), flags=(TARGET,)),
        Command("list [<remote>:]", "List available networks", list_networks, (0, 1), aliases=("ls",), flags=(FORMAT,)),
        network_allocations.COMMAND,
        Command(f"list-leases {_ONE}", "List DHCP leases", list_leases, (1, 1), flags=(FORMAT,)),
        Command(
            f"rename {_ONE} <new-name>", "Rename networks", bind(keyed.rename, KIND, "Network"), (2, 2), aliases=("mv",)
        ),
        Command(
            f"set {_ONE} <key>=<value>...",
            "Set network configuration keys",
            bind(keyed.set_keys, KIND),
            (2, ANY_NUMBER_OF),
            flags=(keyed.PROPERTY, TARGET),
            long=f"""Set network configuration keys

A single key may also be set with:
    {{client}} network set {_ONE} <key> <value>""",
        ),
        Command(f"show {_ONE}", "Show network configurations", bind(keyed.show, KIND), (1, 1), flags=(TARGET,)),
        Command(
            f"unset {_ONE} <key>",
            "Unset network configuration keys",
            bind(keyed.unset_key, KIND),
            (2, 2),
            flags=(keyed.PROPERTY, TARGET),
        ),
    ),
)
