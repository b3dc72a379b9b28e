"""What tells one instance from all others: its uuid, that of its present state, and the one that cloud-init knows."""

import uuid

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
