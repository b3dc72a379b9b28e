"""The server's configuration in memory: read at start, changed by PUT /1.0, and told to those it concerns."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from corral.errors import InvalidRequest, NotSupported
from corral.server.auth import password
from corral.server.context import Context
from corral.server.db.database import LocalDatabase
from corral.server.events.model import Lifecycle
from corral.server.host.threads import in_thread
from corral.server.keys import Config
from corral.server.rollback import Rollback
from corral.server.settings import change, keys, store

EXCLUSIVE = ("candid.", "rbac.")


@dataclass(frozen=True, slots=True)
class SettingsChanged:
    """Published to reactions before a change is stored: a reaction that raises refuses the change.

    `changed` holds the new texts ("" where a key was unset), `config` the whole configuration after the change.
    """

    changed: Mapping[str, str]
    config: Config


class Settings:
    """The keys that are set, of this member and of all. `config[keys.HTTPS_ADDRESS]` is a typed read."""

    def __init__(self) -> None:
        self.config = Config({})

    async def load(self, context: Context) -> None:
        """Read the configuration from both databases."""
        shared = await context.db.read(store.read_config)
        local = await context.parts[LocalDatabase].read(store.read_config)
        self.config = Config({**shared, **local})

    def shown(self) -> dict[str, Any]:
        """The configuration as clients see it."""
        return change.shown(self.config)

    async def replace(self, context: Context, sent: Mapping[str, Any]) -> None:
        """Make the configuration exactly what a client sent; raises InvalidRequest, or what a reaction raises.

        Reactions come first, so that an address that cannot be listened on is never stored.
        """
        async with context.locks.hold("settings"):
            before = self.config
            wanted = change.parse_sent(before, sent)
            _refuse_exclusive(wanted)
            await _hash_password(before, wanted)
            changed = change.plan(before, wanted)
            if not changed:
                return
            _refuse_not_served(changed)
            after = Config({name: text for name, text in {**before, **changed}.items() if text != ""})
            async with Rollback() as undo:
                self.config = after
                undo.add(setattr, self, "config", before)
                reverse = {name: before.get(name, "") for name in changed}
                undo.add(context.events.react, SettingsChanged(reverse, before))
                await context.events.react(SettingsChanged(changed, after))
                await _write(context, changed)
                undo.commit()
        context.events.publish(Lifecycle("config-updated", "/1.0"))


def _refuse_exclusive(wanted: Mapping[str, str]) -> None:
    used = {prefix for prefix in EXCLUSIVE for name, text in wanted.items() if text and name.startswith(prefix)}
    if len(used) > 1:
        raise InvalidRequest("RBAC and Candid are mutually exclusive")


def _refuse_not_served(changed: Mapping[str, str]) -> None:
    for name, what in keys.NOT_SERVED.items():
        if changed.get(name):
            raise NotSupported(f"cannot set '{name}': this server does not have {what}")


async def _hash_password(before: Mapping[str, str], wanted: dict[str, str]) -> None:
    name = keys.TRUST_PASSWORD.name
    plain = wanted.get(name, "")
    if plain and plain != before.get(name):
        wanted[name] = await in_thread(password.hash_password, plain)


async def _write(context: Context, changed: Mapping[str, str]) -> None:
    local = {name: text for name, text in changed.items() if _is_local(name)}
    shared = {name: text for name, text in changed.items() if name not in local}
    if shared:
        await context.db.write(store.write_config, shared)
    if local:
        await context.parts[LocalDatabase].write(store.write_config, local)


def _is_local(name: str) -> bool:
    key = keys.TABLE.find(name)
    return key is not None and key.scope == "local"
