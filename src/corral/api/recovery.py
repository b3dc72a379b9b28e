"""Wire types of the recovery of a lost database, between the daemon and its own sub-command."""

import msgspec


class RecoverPool(msgspec.Struct, kw_only=True):
    """A storage pool to look into: of one that is known the name says all."""

    name: str
    driver: str = ""
    description: str = ""
    config: dict[str, str] = {}


class RecoverPost(msgspec.Struct, kw_only=True):
    """The pools to look into."""

    pools: list[RecoverPool] = []


class UnknownVolume(msgspec.Struct, kw_only=True, rename="camel"):
    """A volume that is on a pool and not in the database; `type` is the instance's, or "volume" for a custom one."""

    name: str
    type: str
    snapshot_count: int
    project: str
    pool: str


class RecoverResult(msgspec.Struct, kw_only=True, rename="pascal"):
    """What was found, and what must be there before it can be recovered."""

    unknown_volumes: list[UnknownVolume] | None = None
    dependency_errors: list[str] | None = None
