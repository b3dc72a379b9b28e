"""Records as the database gives them, for tests of what is computed from them."""

from typing import Any

from corral.server.instances.model import Instance, InstanceType


def instance(**fields: Any) -> Instance:
    """A container without anything; the expanded config and devices are its own unless given."""
    config, devices = fields.get("config", {}), fields.get("devices", {})
    values: dict[str, Any] = {
        "id": 1,
        "project": "default",
        "name": "c1",
        "type": InstanceType.CONTAINER,
        "architecture": 2,
        "ephemeral": False,
        "stateful": False,
        "created_at": "",
        "last_used_at": "",
        "description": "",
        "pending": "",
        "config": config,
        "devices": devices,
        "profiles": (),
        "expanded_config": config,
        "expanded_devices": devices,
    }
    return Instance(**{**values, **fields})
