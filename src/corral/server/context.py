"""What a verb may use: the database, the events, the locks, this member, and the daemon's long-lived parts."""

import os
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

from corral.product import Product
from corral.server.db.database import Database
from corral.server.events.bus import Events
from corral.server.locks import Locks

T = TypeVar("T")


@dataclass(frozen=True)
class Member:
    """This server: its names and directories. Fixed for the life of the daemon."""

    product: Product
    name: str
    state_dir: Path
    log_dir: Path
    cache_dir: Path
    debug: bool = False

    @cached_property
    def images_dir(self) -> Path:
        return self.state_dir / "images"

    @cached_property
    def pools_dir(self) -> Path:
        return self.state_dir / "storage-pools"

    @cached_property
    def networks_dir(self) -> Path:
        return self.state_dir / "networks"

    @cached_property
    def containers_dir(self) -> Path:
        """The lxcpath: part of the address of every container's command socket."""
        return self.state_dir / "containers"

    @cached_property
    def devices_dir(self) -> Path:
        """Where device nodes and mounts for instances are made, for each in a directory of its own."""
        return self.state_dir / "devices"

    @property
    def location(self) -> str:
        """What the API shows as location of a thing while the server is not clustered."""
        return "none"

    @property
    def pid(self) -> int:
        return os.getpid()


class Parts:
    """The daemon's long-lived objects, looked up by their type; `main.py` fills it.

    It exists so that a verb reaches the one zygote, the one set of operations or the server's idmap without a global
    and without Context knowing the layers above it.
    """

    def __init__(self) -> None:
        self._parts: dict[type[Any], Any] = {}

    def add(self, part: T, kind: type[T] | None = None) -> T:
        """Register a part under its type and return it."""
        self._parts[kind or type(part)] = part
        return part

    def __getitem__(self, kind: type[T]) -> T:
        part: T = self._parts[kind]
        return part


@dataclass(frozen=True, slots=True)
class Context:
    """All that a verb may use."""

    db: Database
    events: Events
    locks: Locks
    member: Member
    parts: Parts = field(default_factory=Parts)
