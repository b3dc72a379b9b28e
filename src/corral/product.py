"""The names a program goes by: `corral`/`corrald`, or `lxc`/`lxd` when called so, with the directories that follow.

Every layer may import this; it decides nothing but names. The command line imports it on every run, so it loads
nothing itself: `pathlib` comes with the first path that is asked for.
"""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path


class Product:
    """One face of the programs.

    `name` is also the name of the nft tables, the default bridge's prefix and the log's name. `prefix` starts the
    names of its environment variables (`LXD_DIR`, `CORRAL_DIR`). `version` is what the programs call themselves: as
    LXD they speak for the release whose API they serve.
    """

    __slots__ = ("client", "name", "prefix", "title", "version")

    def __init__(self, name: str, client: str, title: str, prefix: str, version: str) -> None:
        self.name = name
        self.client = client
        self.title = title
        self.prefix = prefix
        self.version = version

    @property
    def bridge(self) -> str:
        """The name of the first managed bridge."""
        return f"{self.name}br0"

    def state_dir(self, environ: Mapping[str, str] = os.environ) -> Path:
        """Where the daemon keeps all that must not be lost."""
        return _path(self.state_dir_name(environ))

    def state_dir_name(self, environ: Mapping[str, str] = os.environ) -> str:
        """The state directory as text."""
        return environ.get(f"{self.prefix}_DIR") or f"/var/lib/{self.name}"

    def log_dir(self, environ: Mapping[str, str] = os.environ) -> Path:
        """Where logs go: below a state directory that was chosen by the environment, else below /var/log."""
        chosen = environ.get(f"{self.prefix}_DIR")
        return _path(f"{chosen}/logs" if chosen else f"/var/log/{self.name}")

    def socket_path(self, environ: Mapping[str, str] = os.environ) -> Path:
        """The Unix socket of the API."""
        return _path(self.socket_name(environ))

    def socket_name(self, environ: Mapping[str, str] = os.environ) -> str:
        """The path of the API's Unix socket as text."""
        return environ.get(f"{self.prefix}_SOCKET") or f"{self.state_dir_name(environ)}/unix.socket"

    def client_conf_dir_name(self, environ: Mapping[str, str] = os.environ) -> str:
        """The directory of the command line's remotes and keys as text."""
        chosen = environ.get(f"{self.prefix}_CONF")
        if chosen:
            return chosen
        home = environ.get("HOME") or os.path.expanduser("~")
        return f"{home}/.config/{self.client}"


def _path(name: str) -> Path:
    from pathlib import Path

    return Path(name)


CORRAL = Product(name="corral", client="corral", title="Corral", prefix="CORRAL", version="0.1.0")
LXD = Product(name="lxd", client="lxc", title="LXD", prefix="LXD", version="5.0.2")


def product_of(program: str) -> Product:
    """The product whose program this is: `lxc` and `lxd`, by whatever path, are LXD's; all else is Corral."""
    return LXD if program.rpartition("/")[2] in ("lxc", "lxd") else CORRAL
