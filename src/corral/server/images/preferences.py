"""What the server's settings and a project's config say of images: updates, the cache, compression."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from corral.server.db.database import Tx
from corral.server.projects import keys
from corral.server.projects import store as projects

_KEYS: Mapping[str, str] = {
    "auto_update_cached": "images.auto_update_cached",
    "auto_update_interval_h": "images.auto_update_interval",
    "remote_cache_expiry_days": "images.remote_cache_expiry",
    "compression": "images.compression_algorithm",
}


@dataclass(frozen=True, slots=True)
class Preferences:
    """The values that hold for a project, or for the server where the project sets none. 0 turns a timer off."""

    auto_update_cached: bool = True
    auto_update_interval_h: int = 6
    remote_cache_expiry_days: int = 10
    compression: str = "gzip"


@dataclass(slots=True)
class ServerPreferences:
    """The present preferences of the server: a part, by which images know settings that lie above them."""

    read: Callable[[], Preferences] = field(default=Preferences)

    def of_project(self, tx: Tx, name: str) -> Preferences:
        """The preferences of a project: its own values over the server's."""
        config = projects.get_project(tx, name).config
        own: dict[str, Any] = {}
        for field_name, key_name in _KEYS.items():
            key = keys.TABLE.find(key_name)
            if key is not None and config.get(key_name):
                own[field_name] = key.type.parse(config[key_name])
        return replace(self.read(), **own)
