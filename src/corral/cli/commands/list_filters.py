"""The filters of `list` that the server does not know: names, config keys, shorthands."""

from __future__ import annotations

import re

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    Instance = dict[str, Any]

_EQUALITIES = ("type", "status", "architecture", "location")


def matches(filters: list[str], instance: Instance) -> bool:
    """Whether all filters match an instance."""
    return all(_matches_one(entry, instance) for entry in filters)


def _matches_one(entry: str, instance: Instance) -> bool:
    key, equals, value = entry.partition("=")
    if equals:
        return _matches_shorthand(key, value, instance) or _matches_config(key, value, instance)
    name = str(instance.get("name", ""))
    pattern = anchored(entry)
    return (pattern is not None and pattern.search(name) is not None) or name.startswith(entry)


def anchored(text: str) -> re.Pattern[str] | None:
    """A regular expression for a whole value, unless it says itself where it begins or ends; None for a bad one."""
    try:
        return re.compile(text if "^" in text or "$" in text else f"^{text}$")
    except re.error:
        return None


def key_matches(short: str, full: str) -> bool:
    """Whether each part of a key is the beginning of the same part of another: `u.bl` and `user.blah`."""
    shorts, fulls = short.split("."), full.split(".")
    return len(shorts) == len(fulls) and all(whole.startswith(part) for part, whole in zip(shorts, fulls, strict=True))


def _matches_config(key: str, value: str, instance: Instance) -> bool:
    config = instance.get("expanded_config") or {}
    if config.get(key, "") == value:
        return True
    pattern = anchored(value)
    for name, setting in config.items():
        if key_matches(key, name) and (pattern.search(setting) if pattern else value == setting):
            return True
    return False


def _matches_shorthand(key: str, value: str, instance: Instance) -> bool:
    name = key.lower()
    if name in _EQUALITIES:
        return any(str(instance.get(name, "")).lower() == choice.lower() for choice in value.split(","))
    if name in ("ipv4", "ipv6"):
        family = "inet" if name == "ipv4" else "inet6"
        return any(_has_address(instance, family, choice) for choice in value.split(","))
    return False


def _has_address(instance: Instance, family: str, wanted: str) -> bool:
    import ipaddress

    try:
        network = ipaddress.ip_network(wanted, strict=False) if "/" in wanted else None
    except ValueError:
        network = None
    interfaces = ((instance.get("state") or {}).get("network") or {}).values()
    for interface in interfaces:
        for address in interface.get("addresses") or ():
            if address["family"] != family:
                continue
            if address["address"] == wanted or (network and ipaddress.ip_address(address["address"]) in network):
                return True
    return False
