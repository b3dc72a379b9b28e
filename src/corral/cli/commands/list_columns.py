"""The columns of `list`: what each shows of an instance, and reading the user's choice of them."""

from __future__ import annotations

from corral.cli import table
from corral.errors import CorralError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    Instance = dict[str, Any]
    Render = Callable[[Instance], str]

DEFAULT_COLUMNS = "ns46tSL"
DEFAULT_ALL_PROJECTS = "ens46tSL"
# Running, Starting.. as LXD counts activity: neither stopped nor in error.
_INACTIVE = frozenset((102, 112, 0))


class Column:
    """A column: heading, what it shows, and whether it needs the state or the snapshots of instances."""

    __slots__ = ("name", "needs_state", "render")

    def __init__(self, name: str, render: Render, needs_state: bool = False) -> None:
        self.name = name
        self.render = render
        self.needs_state = needs_state


def _state(instance: Instance) -> dict[str, Any]:
    """The state of an active instance, else nothing."""
    if instance.get("status_code", 0) in _INACTIVE:
        return {}
    return instance.get("state") or {}


def _addresses(instance: Instance, family: str) -> str:
    found = [
        f"{address['address']} ({name})"
        for name, interface in (_state(instance).get("network") or {}).items()
        if interface.get("type") != "loopback"
        for address in interface.get("addresses") or ()
        if address["family"] == family and address["scope"] not in ("link", "local")
    ]
    found.sort(reverse=True)
    return "\n".join(found)


def _ipv4(instance: Instance) -> str:
    return _addresses(instance, "inet")


def _ipv6(instance: Instance) -> str:
    return _addresses(instance, "inet6")


def _root_disk(instance: Instance) -> tuple[str, dict[str, str]]:
    for name, device in (instance.get("expanded_devices") or {}).items():
        if device.get("type") == "disk" and device.get("path") == "/":
            return name, device
    return "", {}


def _pool(instance: Instance) -> str:
    return _root_disk(instance)[1].get("pool", "")


def _disk_usage(instance: Instance) -> str:
    from corral.units import format_size_iec

    disks = (instance.get("state") or {}).get("disk") or {}
    usage = (disks.get(_root_disk(instance)[0]) or {}).get("usage", 0)
    return format_size_iec(usage) if usage > 0 else ""


def _memory(instance: Instance) -> int:
    return int((_state(instance).get("memory") or {}).get("usage", 0))


def _memory_usage(instance: Instance) -> str:
    from corral.units import format_size_iec

    usage = _memory(instance)
    return format_size_iec(usage) if usage > 0 else ""


def _memory_share(instance: Instance) -> str:
    from corral.units import parse_size

    usage = _memory(instance)
    limit = (instance.get("expanded_config") or {}).get("limits.memory", "")
    if usage <= 0 or not limit or "%" in limit:
        return ""
    try:
        size = parse_size(limit)
    except CorralError:
        return ""
    return f"{usage / size * 100:.1f}%" if size > 0 else ""


def _cpu_usage(instance: Instance) -> str:
    usage = (_state(instance).get("cpu") or {}).get("usage", 0)
    return f"{usage // 1000000000}s" if usage > 0 else ""


def _processes(instance: Instance) -> str:
    state = _state(instance)
    return str(state.get("processes", 0)) if state else ""


def _pid(instance: Instance) -> str:
    state = _state(instance)
    return str(state.get("pid", 0)) if state else ""


def _type(instance: Instance) -> str:
    kind = (instance.get("type") or "container").upper()
    return f"{kind} (EPHEMERAL)" if instance.get("ephemeral") else kind


def _status(instance: Instance) -> str:
    return str(instance.get("status", "")).upper()


def _snapshots(instance: Instance) -> str:
    return str(len(instance.get("snapshots") or ()))


def _profiles(instance: Instance) -> str:
    return "\n".join(instance.get("profiles") or ())


def _time(field: str) -> Render:
    def render(instance: Instance) -> str:
        from corral.cli.times import format_utc, is_set

        moment = instance.get(field)
        return format_utc(moment) if moment and is_set(moment) else ""

    return render


def _field(field: str) -> Render:
    return lambda instance: str(instance.get(field) or "")


def _base_image(instance: Instance) -> str:
    return str((instance.get("config") or {}).get("volatile.base_image", ""))


def _base_image_short(instance: Instance) -> str:
    return _base_image(instance)[:12]


COLUMNS = {
    "4": Column("IPV4", _ipv4, True),
    "6": Column("IPV6", _ipv6, True),
    "a": Column("ARCHITECTURE", _field("architecture")),
    "b": Column("STORAGE POOL", _pool),
    "c": Column("CREATED AT", _time("created_at")),
    "d": Column("DESCRIPTION", _field("description")),
    "D": Column("DISK USAGE", _disk_usage, True),
    "e": Column("PROJECT", _field("project")),
    "f": Column("BASE IMAGE", _base_image_short),
    "F": Column("BASE IMAGE", _base_image),
    "l": Column("LAST USED AT", _time("last_used_at")),
    "L": Column("LOCATION", _field("location")),
    "m": Column("MEMORY USAGE", _memory_usage, True),
    "M": Column("MEMORY USAGE%", _memory_share, True),
    "n": Column("NAME", _field("name")),
    "N": Column("PROCESSES", _processes, True),
    "p": Column("PID", _pid, True),
    "P": Column("PROFILES", _profiles),
    "S": Column("SNAPSHOTS", _snapshots, True),
    "s": Column("STATE", _status),
    "t": Column("TYPE", _type),
    "u": Column("CPU USAGE", _cpu_usage, True),
}


def parse_columns(text: str) -> list[Column]:
    """The columns that a `-c` argument names. Raises CorralError."""
    return [COLUMNS.get(entry) or _key_column(entry) for entry in table.parse_columns(text, COLUMNS, dotted=True)]


def _key_column(entry: str) -> Column:
    fields = entry.split(":")
    kind = fields.pop(0) if fields[0] in ("config", "devices") and len(fields) > 1 else "config"
    if len(fields) > 3:
        raise CorralError(f"Invalid config key column format (too many fields): '{entry}'")
    key = fields[0]
    if kind == "config":
        from corral.cli.commands.config_keys import is_config_key

        if not is_config_key(key):
            raise CorralError(f"Invalid config key '{key}' in '{entry}'")
    name = key
    if len(fields) > 1:
        if not fields[1] and len(fields) != 3:
            message = f"Invalid name in '{entry}', empty string is only allowed when defining maxWidth"
            raise CorralError(message)
        name = fields[1]
    width = _max_width(fields[2], entry, name) if len(fields) > 2 else -1
    read = _read_config if kind == "config" else _read_device

    def render(instance: Instance) -> str:
        value = read(instance, key)
        return value[:width] if width > 0 else value

    return Column(name, render)


def _max_width(text: str, entry: str, name: str) -> int:
    try:
        width = int(text)
    except ValueError:
        raise CorralError(f"Invalid max width (must be an integer) '{text}' in '{entry}'") from None
    if width < -1:
        raise CorralError(f"Invalid max width (must -1, 0 or a positive integer) '{text}' in '{entry}'")
    return len(name) if width == 0 else width


def _read_config(instance: Instance, key: str) -> str:
    config = instance.get("config") or {}
    return str(config[key] if key in config else (instance.get("expanded_config") or {}).get(key, ""))


def _read_device(instance: Instance, key: str) -> str:
    device, _, setting = key.partition(".")
    own = (instance.get("devices") or {}).get(device) or {}
    if setting in own:
        return str(own[setting])
    return str(((instance.get("expanded_devices") or {}).get(device) or {}).get(setting, ""))
