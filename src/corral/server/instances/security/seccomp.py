"""The seccomp policy of a container, from its config. Pure."""

from collections.abc import Mapping, Sequence

from corral.server.host.isolation import seccomp
from corral.units import is_true


def render_policy(config: Mapping[str, str], intercepted: Sequence[str] = ()) -> str | None:
    """The policy's text; None where the config asks for none at all. `intercepted` are names of system calls."""
    raw = config.get("raw.seccomp")
    if raw:
        return raw if raw.endswith("\n") else raw + "\n"
    notified = seccomp.render_notified(intercepted)
    allowed = _value(config, "allow", "whitelist")
    if allowed:
        return seccomp.render_allow_list(allowed.split("\n"), notified=notified)
    denied = _value(config, "deny", "blacklist")
    default = _value(config, "deny_default", "blacklist_default")
    with_default = not default or is_true(default)
    compat = is_true(_value(config, "deny_compat", "blacklist_compat"))
    if not (with_default or denied or notified or compat):
        return None
    return seccomp.render_deny_list(
        denied.split("\n") if denied else (), with_default=with_default, notified=notified, compat=compat
    )


def _value(config: Mapping[str, str], name: str, old_name: str) -> str:
    return config.get(f"security.syscalls.{name}") or config.get(f"security.syscalls.{old_name}") or ""
