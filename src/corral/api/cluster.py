"""Wire form of the cluster."""

import msgspec


class ClusterMemberConfigKey(msgspec.Struct, kw_only=True):
    """A key that a joining member must give a value for."""

    entity: str
    name: str
    key: str
    value: str
    description: str


class Cluster(msgspec.Struct, kw_only=True):
    """Whether and by which name this server is a member of a cluster."""

    server_name: str = ""
    enabled: bool = False
    member_config: list[ClusterMemberConfigKey] = []
