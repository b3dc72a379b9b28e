"""The server's config keys. Local keys belong to one member, global ones to all of a cluster."""

import ipaddress
from typing import Any

from corral import units
from corral.errors import InvalidRequest
from corral.server import keys
from corral.server.keys import ARCHITECTURE, COMPRESSION, EXPIRY, STRING, Key, KeyTable, KeyType

HTTPS_PORT = 8443
"""The port of a listen address that names none."""


def _boolean(text: str) -> bool:
    word = text.lower()
    if word not in units.TRUE_WORDS | units.FALSE_WORDS:
        raise InvalidRequest("invalid boolean")
    return word in units.TRUE_WORDS


def _integer(text: str) -> int:
    try:
        return keys.INTEGER.parse(text)
    except InvalidRequest:
        raise InvalidRequest("invalid integer") from None


def _within(low: int, high: int) -> KeyType[int]:
    def parse(text: str) -> int:
        value = _integer(text)
        if not low <= value <= high:
            raise InvalidRequest(f"Value isn't within valid range. Must be between {low} and {high}")
        return value

    return KeyType("integer", parse)


def _voters(text: str) -> int:
    value = _integer(text)
    if value < 3 or value % 2 != 1:
        raise InvalidRequest("Value must be an odd number equal to or higher than 3")
    return value


def _standby(text: str) -> int:
    value = _integer(text)
    if not 0 <= value <= 5:
        raise InvalidRequest("Value must be between 0 and 5")
    return value


def _offline_threshold(text: str) -> int:
    value = _integer(text)
    if value <= 10:
        raise InvalidRequest("Value must be greater than '10'")
    return value


def _replicas(text: str) -> int:
    value = _integer(text)
    if value < 1 and value != -1:
        raise InvalidRequest("Invalid value for image replica count")
    return value


DEBUG_PORT = 8080
"""Port of the debug server where an address names none."""

METRICS_PORT = 9100
"""Port of the metrics where an address names none."""


def split_address(text: str) -> tuple[str, int | None]:
    """Host and port of `host`, `host:port`, `:port`, `[v6]:port`, `v6`; an empty host listens everywhere.

    Raises InvalidRequest for what is no address.
    """
    host, port_text = text.strip(), ""
    if host.startswith("["):
        host, bracket, rest = host[1:].partition("]")
        if not bracket or (rest and not rest.startswith(":")):
            raise InvalidRequest(f'Invalid address "{text}"')
        port_text = rest[1:]
    elif host.count(":") == 1:
        host, _, port_text = host.partition(":")
    if port_text and (not port_text.isdecimal() or not 0 < int(port_text) < 65536):
        raise InvalidRequest(f'Invalid port "{port_text}" in address "{text}": give a number from 1 to 65535')
    if ":" in host:
        try:
            ipaddress.IPv6Address(host.partition("%")[0])
        except ValueError:
            raise InvalidRequest(f'Invalid address "{text}"') from None
    return host, int(port_text) if port_text else None


def canonical_address(text: str, default_port: int = HTTPS_PORT) -> str:
    """The address with its port, and brackets around an IPv6 host."""
    host, port = split_address(text)
    return f"[{host}]:{port or default_port}" if ":" in host else f"{host}:{port or default_port}"


def _listen_address(text: str) -> str:
    split_address(text)
    return text


def _member_address(text: str) -> str:
    if split_address(text)[0] in ("", "::", "0.0.0.0"):
        raise InvalidRequest("Wildcard addresses aren't allowed")
    return text


def _ipv4(text: str) -> str:
    try:
        return str(ipaddress.IPv4Address(text))
    except ValueError:
        raise InvalidRequest(f'Not an IPv4 address "{text}"') from None


def _volume(text: str) -> str:
    pool, slash, volume = text.partition("/")
    if not pool or not slash or not volume or "/" in volume:
        raise InvalidRequest("Invalid syntax for volume, must be <pool>/<volume>")
    return text


def _addresses(text: str) -> list[str]:
    addresses = keys.WORDS.parse(text)
    for address in addresses:
        try:
            ipaddress.ip_address(address)
        except ValueError:
            raise InvalidRequest(f'Item "{address}": Not an IP address "{address}"') from None
    return [str(ipaddress.ip_address(address)) for address in addresses]


ADDRESSES: KeyType[list[str]] = KeyType("list of addresses", _addresses)
BOOL: KeyType[bool] = KeyType("bool", _boolean)
INTEGER: KeyType[int] = KeyType("integer", _integer)
LISTEN: KeyType[str] = KeyType("address", _listen_address)
MEMBER_ADDRESS: KeyType[str] = KeyType("address", _member_address)
VOLUME: KeyType[str] = KeyType("volume", _volume)


def _local(name: str, kind: KeyType[Any], doc: str) -> Key[Any]:
    return Key(name, kind, doc=doc, scope="local")


HTTPS_ADDRESS = Key("core.https_address", LISTEN, scope="local", doc="Address of the API over HTTPS.")
TRUST_PASSWORD = Key("core.trust_password", STRING, secret=True, doc="Password by which a client becomes trusted.")
REMOTE_TOKEN_EXPIRY = Key("core.remote_token_expiry", EXPIRY, doc="Life of a token to add this server as a remote.")
SHUTDOWN_TIMEOUT = Key(
    "core.shutdown_timeout", INTEGER, "5", doc="Minutes that running operations have when the daemon is asked to end."
)
TRUST_CA = Key("core.trust_ca_certificates", BOOL, doc="Trust all clients whose certificate the CA has signed.")
TRUSTED_PROXY = Key(
    "core.https_trusted_proxy", ADDRESSES, doc="Addresses of proxies whose PROXY protocol tells the client's address."
)
ALLOWED_ORIGIN = Key("core.https_allowed_origin", STRING, doc="Value of Access-Control-Allow-Origin.")
ALLOWED_METHODS = Key("core.https_allowed_methods", STRING, doc="Value of Access-Control-Allow-Methods.")
ALLOWED_HEADERS = Key("core.https_allowed_headers", STRING, doc="Value of Access-Control-Allow-Headers.")
ALLOWED_CREDENTIALS = Key("core.https_allowed_credentials", BOOL, doc="Whether to allow credentials to other origins.")
PROXY_HTTP = Key("core.proxy_http", STRING, doc="Proxy for the daemon's own requests over HTTP.")
PROXY_HTTPS = Key("core.proxy_https", STRING, doc="Proxy for the daemon's own requests over HTTPS.")
IMAGES_AUTO_UPDATE_CACHED = Key(
    "images.auto_update_cached", BOOL, "true", doc="Whether cached images are kept up to date."
)
IMAGES_AUTO_UPDATE_INTERVAL = Key(
    "images.auto_update_interval", INTEGER, "6", doc="Hours between two looks for newer images; 0 is never."
)
IMAGES_COMPRESSION = Key("images.compression_algorithm", COMPRESSION, "gzip", doc="Compression of images made here.")
IMAGES_REMOTE_CACHE_EXPIRY = Key(
    "images.remote_cache_expiry", INTEGER, "10", doc="Days after which an unused cached image goes."
)
PROXY_IGNORE_HOSTS = Key("core.proxy_ignore_hosts", STRING, doc="Hosts that are reached without the proxy.")

METRICS_ADDRESS = Key("core.metrics_address", LISTEN, scope="local", doc="Address of the metrics server (HTTPS).")
METRICS_AUTHENTICATION = Key(
    "core.metrics_authentication", BOOL, "true", doc="Whether the metrics server asks for a certificate."
)

DEBUG_ADDRESS = Key(
    "core.debug_address", LISTEN, scope="local", doc="Address of the debug server (HTTP); loopback without a host."
)

BACKUPS_COMPRESSION = Key("backups.compression_algorithm", COMPRESSION, "gzip", doc="Compression of backups.")

CANDID_URL = Key("candid.api.url", STRING, doc="URL of the Candid server.")
RBAC_URL = Key("rbac.api.url", STRING, doc="URL of the RBAC server.")

TABLE = KeyTable(
    HTTPS_ADDRESS,
    TRUST_PASSWORD,
    REMOTE_TOKEN_EXPIRY,
    SHUTDOWN_TIMEOUT,
    TRUST_CA,
    ALLOWED_ORIGIN,
    ALLOWED_METHODS,
    ALLOWED_HEADERS,
    ALLOWED_CREDENTIALS,
    PROXY_HTTP,
    PROXY_HTTPS,
    PROXY_IGNORE_HOSTS,
    _local("cluster.https_address", MEMBER_ADDRESS, "Address for the traffic of the cluster."),
    _local("core.bgp_address", LISTEN, "Address of the BGP server."),
    _local("core.bgp_routerid", KeyType("IPv4 address", _ipv4), "Identifier of the BGP server."),
    DEBUG_ADDRESS,
    _local("core.dns_address", LISTEN, "Address of the authoritative DNS server."),
    METRICS_ADDRESS,
    _local("maas.machine", STRING, "Name of this server in MAAS."),
    _local("storage.backups_volume", VOLUME, "Volume (POOL/VOLUME) that holds the backups."),
    _local("storage.images_volume", VOLUME, "Volume (POOL/VOLUME) that holds the images."),
    BACKUPS_COMPRESSION,
    Key("cluster.images_minimal_replica", KeyType("integer", _replicas), "3", doc="Members that have each image."),
    Key("cluster.join_token_expiry", EXPIRY, "3H", doc="Life of a token to join the cluster."),
    Key("cluster.max_standby", KeyType("integer", _standby), "2", doc="Members that are stand-by of the database."),
    Key("cluster.max_voters", KeyType("integer", _voters), "3", doc="Members that vote in the database."),
    Key(
        "cluster.offline_threshold",
        KeyType("integer", _offline_threshold),
        "20",
        doc="Seconds without an answer after which a member counts as offline.",
    ),
    Key("core.bgp_asn", _within(0, 4294967294), "0", doc="Autonomous system number of this server."),
    TRUSTED_PROXY,
    METRICS_AUTHENTICATION,
    Key("candid.api.key", STRING, doc="Public key of the Candid server."),
    CANDID_URL,
    Key("candid.domains", STRING, doc="Domains of Candid that are allowed."),
    Key("candid.expiry", INTEGER, "3600", doc="Life of a Candid macaroon in seconds."),
    IMAGES_AUTO_UPDATE_CACHED,
    IMAGES_AUTO_UPDATE_INTERVAL,
    IMAGES_COMPRESSION,
    Key("images.default_architecture", ARCHITECTURE, doc="Architecture that is taken where there is a choice."),
    IMAGES_REMOTE_CACHE_EXPIRY,
    Key("maas.api.key", STRING, doc="Key of the MAAS server's API."),
    Key("maas.api.url", STRING, doc="URL of the MAAS server."),
    Key("network.ovn.integration_bridge", STRING, "br-int", doc="OVS bridge of OVN networks."),
    Key(
        "network.ovn.northbound_connection",
        STRING,
        "unix:/var/run/ovn/ovnnb_db.sock",
        doc="Address of the OVN northbound database.",
    ),
    Key("rbac.agent.private_key", STRING, doc="Private key of the RBAC agent."),
    Key("rbac.agent.public_key", STRING, doc="Public key of the RBAC agent."),
    Key("rbac.agent.url", STRING, doc="URL of the RBAC agent."),
    Key("rbac.agent.username", STRING, doc="User name of the RBAC agent."),
    Key("rbac.api.expiry", INTEGER, "3600", doc="Life of an RBAC macaroon in seconds."),
    Key("rbac.api.key", STRING, doc="Public key of the RBAC server."),
    RBAC_URL,
    Key("rbac.expiry", INTEGER, "3600", doc="Life of an RBAC macaroon in seconds."),
)
"""All keys of LXD 5.0's server configuration."""

NOT_SERVED = {
    "cluster.https_address": "clustering",
    "core.bgp_address": "the BGP server",
    "core.dns_address": "the DNS server",
}
"""Keys that this server knows and refuses to set, because nothing would follow from it, and what is missing."""
