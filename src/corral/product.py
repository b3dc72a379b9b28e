"""The names a program goes by: `corral`/`corrald`, or `lxc`/`lxd` when called so, with the directories that follow.

Every layer may import this; it decides nothing but names.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Product:
    """One face of the programs.

    `name` is also the name of the nft tables, the default bridge's prefix and the log's name. `prefix` starts the
    names of its environment variables (`LXD_DIR`, `CORRAL_DIR`).
    """

    name: str
    client: str
    title: str
    prefix: str

    @property
    def bridge(self) -> str:
        """The name of the first managed bridge."""
        return f"{self.name}br0"

    def state_dir(self, environ: Mapping[str, str] = os.environ) -> Path:
        """Where the daemon keeps all that must not be lost."""
        return Path(environ.get(f"{self.prefix}_DIR") or f"/var/lib/{self.name}")

    def log_dir(self, environ: Mapping[str, str] = os.environ) -> Path:
        """Where logs go: below a state directory that was chosen by the environment, else below /var/log."""
        chosen = environ.get(f"{self.prefix}_DIR")
        return Path(chosen) / "logs" if chosen else Path(f"/var/log/{self.name}")

    def socket_path(self, environ: Mapping[str, str] = os.environ) -> Path:
        """The Unix socket of the API."""
        chosen = environ.get(f"{self.prefix}_SOCKET")
        return Path(chosen) if chosen else self.state_dir(environ) / "unix.socket"

    def client_conf_dir(self, environ: Mapping[str, str] = os.environ) -> Path:
        """Where the command line keeps its remotes and keys."""
        chosen = environ.get(f"{self.prefix}_CONF")
        if chosen:
            return Path(chosen)
        home = environ.get("HOME") or "/"
        return Path(environ.get("XDG_CONFIG_HOME") or f"{home}/.config") / self.client


CORRAL = Product(name="corral", client="corral", title="Corral", prefix="CORRAL")
LXD = Product(name="lxd", client="lxc", title="LXD", prefix="LXD")


def product_of(program: str) -> Product:
    """The product whose program this is: `lxc` and `lxd`, by whatever path, are LXD's; all else is Corral."""
    return LXD if os.path.basename(program) in ("lxc", "lxd") else CORRAL
