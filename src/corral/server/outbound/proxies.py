"""Which proxy a request of the daemon goes through, by its settings or its environment. Pure."""

import contextlib
import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit


@dataclass(frozen=True, slots=True)
class Proxies:
    """URLs of proxies by the scheme of the request (empty: none), and what is reached without one: names, domains,
    addresses, networks, or `*`."""

    http: str = ""
    https: str = ""
    ignored: tuple[str, ...] = ()

    def choose(self, url: str) -> str | None:
        """The proxy for a URL, or None. This machine itself is never reached through one."""
        parts = urlsplit(url)
        host = (parts.hostname or "").lower()
        proxy = self.https if parts.scheme == "https" else self.http
        if not proxy or not host or _is_local(host) or any(_covers(one, host) for one in self.ignored):
            return None
        return proxy if "://" in proxy else f"http://{proxy}"


def choose_proxies(http: str, https: str, ignored: str, environ: Mapping[str, str]) -> Proxies:
    """The proxies of the settings; where one is not set, that of the environment."""

    def of(name: str) -> str:
        return environ.get(name.upper()) or environ.get(name) or ""

    words = (ignored or of("no_proxy")).split(",")
    return Proxies(
        http or of("http_proxy"),
        https or of("https_proxy"),
        tuple(word.strip().lower() for word in words if word.strip()),
    )


def _is_local(host: str) -> bool:
    if host == "localhost":
        return True
    with contextlib.suppress(ValueError):
        return ipaddress.ip_address(host.partition("%")[0]).is_loopback
    return False


def _covers(rule: str, host: str) -> bool:
    if rule == "*":
        return True
    with contextlib.suppress(ValueError):
        return ipaddress.ip_address(host.partition("%")[0]) in ipaddress.ip_network(rule, strict=False)
    name = rule.removeprefix("*").removeprefix(".").partition(":")[0]
    return bool(name) and (host == name or host.endswith(f".{name}"))
