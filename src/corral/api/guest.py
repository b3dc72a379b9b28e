"""The guest API (/dev/lxd/sock in an instance): what a guest is told about its server."""

import msgspec


class GuestServer(msgspec.Struct, kw_only=True):
    """Answer of /1.0. `location` is the cluster member, or `none`."""

    state: str = ""
    api_version: str = "1.0"
    instance_type: str
    location: str
