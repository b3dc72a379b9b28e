"""Wire form of the server: GET and PUT /1.0."""

from typing import Any

import msgspec

from corral.api.extensions import EXTENSIONS


class ServerStorageDriver(msgspec.Struct, kw_only=True):
    """A storage driver that works here; LXD capitalizes these names."""

    name: str = msgspec.field(name="Name")
    version: str = msgspec.field(name="Version")
    remote: bool = msgspec.field(name="Remote", default=False)


class ServerEnvironment(msgspec.Struct, kw_only=True):
    """What the server runs on."""

    addresses: list[str]
    architectures: list[str]
    certificate: str
    certificate_fingerprint: str
    driver: str
    driver_version: str
    firewall: str
    instance_types: list[str]
    kernel: str
    kernel_architecture: str
    kernel_features: dict[str, str]
    kernel_version: str
    lxc_features: dict[str, str]
    os_name: str
    os_version: str
    project: str
    server: str
    server_clustered: bool
    server_event_mode: str
    server_lts: bool
    server_name: str
    server_pid: int
    server_version: str
    storage: str
    storage_version: str
    storage_supported_drivers: list[ServerStorageDriver]


class ServerPut(msgspec.Struct, kw_only=True):
    """What may be changed: the configuration. A value is text, null (unset) or, for a secret, true (unchanged)."""

    config: dict[str, Any] = {}


class ServerUntrusted(msgspec.Struct, kw_only=True):
    """What anybody may see of a server."""

    api_extensions: list[str] = msgspec.field(default_factory=lambda: list(EXTENSIONS))
    api_status: str = "stable"
    api_version: str = "1.0"
    auth: str = "untrusted"
    public: bool = False
    auth_methods: list[str] = msgspec.field(default_factory=lambda: ["tls"])


class Server(ServerUntrusted, kw_only=True):
    """The whole of GET /1.0. `config` is empty for those who may not see it."""

    config: dict[str, Any]
    environment: ServerEnvironment
    auth_user_name: str = ""
    auth_user_method: str = ""


class Minute(msgspec.Struct, kw_only=True):
    """A moment, in seconds since 1970, whose scheduled work is to be done now."""

    time: float
