"""What tells one instance from all others: its uuid, that of its present state, and the one that cloud-init knows."""

import uuid

from corral.server.instances.model import Instance

UUID = "volatile.uuid"
GENERATION = "volatile.uuid.generation"
CLOUD_INIT = "volatile.cloud-init.instance-id"


def add(config: dict[str, str]) -> None:
    """Give a new instance's config the identities that it lacks, and say that its files have no ids shifted."""
    config.setdefault(UUID, str(uuid.uuid4()))
    config[GENERATION] = config[UUID]
    config.setdefault(CLOUD_INIT, str(uuid.uuid4()))
    config.setdefault("volatile.last_state.idmap", "[]")


def new_generation() -> str:
    """The identity of a state that was gone back to: what the guest drew since then may be drawn again."""
    return str(uuid.uuid4())


def new_machine() -> str:
    """The identity by which cloud-init does its work anew."""
    return str(uuid.uuid4())


_CLOUD_INIT_KEYS = tuple(
    f"{prefix}.{word}-{kind}"
    for prefix in ("cloud-init", "user")
    for word, kind in (("vendor", "data"), ("user", "data"), ("network", "config"))
)


def is_another_machine(old: Instance, new: Instance) -> bool:
    """Whether cloud-init must run again: its data or the names of the interfaces differ."""

    def nic_names(instance: Instance) -> list[str]:
        nics = ((name, one) for name, one in instance.expanded_devices.items() if one.get("type") == "nic")
        return sorted(one.get("name") or instance.config.get(f"volatile.{name}.name") or name for name, one in nics)

    if any(old.expanded_config.get(key) != new.expanded_config.get(key) for key in _CLOUD_INIT_KEYS):
        return True
    return nic_names(old) != nic_names(new)
