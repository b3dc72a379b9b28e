"""The seccomp policy of a container, from its config. Pure."""

from collections.abc import Mapping

from corral.server.host import seccomp
from corral.units import is_true


def render_policy(config: Mapping[str, str]) -> str | None:
    """The policy's text; None where the config asks for none at all."""
    raw = config.get("raw.seccomp")
    if raw:
        return raw if raw.endswith("\n") else raw + "\n"
    allowed = config.get("security.syscalls.allow") or config.get("security.syscalls.whitelist")
    if allowed:
        return seccomp.render_allow_list(allowed.split("\n"))
    denied = config.get("security.syscalls.deny") or config.get("security.syscalls.blacklist") or ""
    default = config.get("security.syscalls.deny_default") or config.get("security.syscalls.blacklist_default")
    with_default = not default or is_true(default)
    if not with_default and not denied:
        return None
    return seccomp.render_deny_list(denied.split("\n") if denied else (), with_default=with_default)
