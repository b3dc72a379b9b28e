"""The command line's configuration file: the remote servers it knows, its aliases, and connections to the servers."""

from __future__ import annotations

import os

from corral.client.connection import Connection, ConnectionLost, open_unix
from corral.client.server import Server
from corral.errors import CorralError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from corral.product import Product

SIMPLESTREAMS = "simplestreams"
LOCAL = "local"


class Remote:
    """One server. `is_static` remotes are built in, `is_global` ones come from the machine's own file."""

    __slots__ = ("addr", "auth_type", "domain", "is_global", "is_static", "project", "protocol", "public")

    def __init__(self, addr: str, *, public: bool = False, protocol: str = "", is_static: bool = False) -> None:
        self.addr = addr
        self.public = public
        self.protocol = protocol
        self.is_static = is_static
        self.is_global = False
        self.auth_type = ""
        self.domain = ""
        self.project = ""

    def as_mapping(self) -> dict[str, Any]:
        """The remote as the file has it."""
        mapping: dict[str, Any] = {"addr": self.addr}
        for name in ("auth_type", "domain", "project", "protocol"):
            if getattr(self, name):
                mapping[name] = getattr(self, name)
        mapping["public"] = self.public
        return mapping


def _static_remotes() -> dict[str, Remote]:
    images = "https://cloud-images.ubuntu.com"
    return {
        LOCAL: Remote("unix://", is_static=True),
        "ubuntu": Remote(f"{images}/releases", public=True, protocol=SIMPLESTREAMS, is_static=True),
        "ubuntu-daily": Remote(f"{images}/daily", public=True, protocol=SIMPLESTREAMS, is_static=True),
    }


def _images_remote() -> Remote:
    return Remote("https://images.linuxcontainers.org", public=True, protocol=SIMPLESTREAMS)


class Remotes:
    """The configuration: remotes by name, aliases, the default remote. Saved as the Go client writes it."""

    def __init__(self, product: Product, directory: str) -> None:
        self.product = product
        self.directory = directory
        self.default_remote = LOCAL
        self.remotes = _static_remotes()
        self.remotes["images"] = _images_remote()
        self.aliases: dict[str, str] = {}
        self.project_override = ""
        self.user_agent = user_agent(product)
        self._servers: dict[str, Server] = {}

    @property
    def file_name(self) -> str:
        """The path of the configuration file."""
        return f"{self.directory}/config.yml"

    def parse(self, text: str) -> tuple[str, str]:
        """(Remote, name) of `[<remote>:]name`; no remote is the default one. Raises CorralError."""
        remote, colon, name = text.partition(":")
        if not colon:
            return self.default_remote, text
        if remote not in self.remotes:
            if "/" in remote:
                return self.default_remote, text
            raise CorralError(f'The remote "{remote}" doesn\'t exist')
        return remote, name

    def server(self, name: str) -> Server:
        """A server to run instances on; one connection for each remote. Raises CorralError."""
        remote = self._get(name)
        if remote.public or remote.protocol == SIMPLESTREAMS:
            raise CorralError(f"The remote isn't a private {self.product.title} server")
        return self._connect(name, remote)

    def image_server(self, name: str) -> Server:
        """A server to take images from: one of the API, or one that has a catalog of images and nothing else."""
        remote = self._get(name)
        if remote.protocol == SIMPLESTREAMS and name not in self._servers:
            from corral.client.simplestreams import Catalog

            self._servers[name] = Catalog(remote.addr, self.user_agent)
        return self._connect(name, remote)

    def _get(self, name: str) -> Remote:
        remote = self.remotes.get(name)
        if remote is None:
            raise CorralError(f'The remote "{name}" doesn\'t exist')
        return remote

    def _connect(self, name: str, remote: Remote) -> Server:
        if name not in self._servers:
            project = remote.project if remote.project != "default" else ""
            self._servers[name] = Server(self._open(name, remote), _base_url(remote), self.project_override or project)
        return self._servers[name]

    def _open(self, name: str, remote: Remote) -> Connection:
        if remote.addr.startswith("unix:"):
            return unix_connection(self.product, remote.addr[len("unix:") :].removeprefix("//"), self.user_agent)
        from corral.client.tls import https_connection

        return https_connection(self, name, remote)

    def server_certificate_name(self, name: str) -> str:
        """Where the certificate that a remote was pinned to lies."""
        remote = self.remotes.get(name)
        directory = global_directory(self.product) if remote is not None and remote.is_global else self.directory
        return f"{directory}/servercerts/{name}.crt"

    def save(self) -> None:
        """Write the file. Raises CorralError."""
        from corral.client.yaml_output import render_yaml

        skipped = {name for name in _static_remotes() if name != LOCAL}
        kept = {
            name: remote.as_mapping()
            for name, remote in sorted(self.remotes.items())
            if name not in skipped and not remote.is_global
        }
        content = render_yaml(
            {"default-remote": self.default_remote, "remotes": kept, "aliases": dict(sorted(self.aliases.items()))}
        )
        try:
            os.makedirs(self.directory, 0o750, exist_ok=True)
            with open(self.file_name, "w", encoding="utf-8") as file:
                file.write(content)
        except OSError as error:
            raise CorralError(f"Unable to create the configuration file: {error}") from error


def user_agent(product: Product) -> str:
    """How the client names itself to servers."""
    return f"{product.title} {product.version}"


def unix_connection(product: Product, path: str, agent: str) -> Connection:
    """A connection to a Unix socket; an empty path is the local daemon's."""
    chosen = path or product.socket_name()

    def connect() -> Any:
        try:
            return open_unix(chosen)
        except ConnectionLost as error:
            raise ConnectionLost(
                f"Cannot reach the {product.title} daemon at its socket {error}\n"
                f"Start it, or name its directory in {product.prefix}_DIR"
            ) from error

    return Connection(connect, "unix.socket", agent)


def _base_url(remote: Remote) -> str:
    return "http://unix.socket" if remote.addr.startswith("unix:") else remote.addr


def global_directory(product: Product) -> str:
    """The directory of the machine-wide configuration."""
    return os.environ.get(f"{product.prefix}_GLOBAL_CONF") or f"/etc/{product.name}"


def load_remotes(product: Product, directory: str) -> Remotes:
    """The configuration in `directory`, or the defaults where it has no file. Raises CorralError."""
    remotes = Remotes(product, directory)
    try:
        with open(remotes.file_name, encoding="utf-8") as file:
            content = file.read()
    except FileNotFoundError:
        return remotes
    except OSError as error:
        raise CorralError(f"Unable to read the configuration file: {error}") from error
    loaded = _parse_file(content)
    remotes.remotes = _parse_remotes(loaded)
    for name, alias in (loaded.get("aliases") or {}).items():
        remotes.aliases[str(name)] = str(alias)
    _add_global(remotes)
    for name, static in _static_remotes().items():
        if name in remotes.remotes:
            static.project = remotes.remotes[name].project
        remotes.remotes[name] = static
    remotes.default_remote = os.environ.get("LXC_REMOTE") or loaded.get("default-remote") or LOCAL
    return remotes


def _parse_file(content: str) -> dict[str, Any]:
    loaded = parse_plain_yaml(content)
    if loaded is not None:
        return loaded
    from corral.client.yaml_input import parse_yaml

    try:
        parsed = parse_yaml(content)
    except CorralError as error:
        raise CorralError(f"Unable to decode the configuration: {error}") from error
    return parsed if isinstance(parsed, dict) else {}


def _parse_remotes(loaded: dict[str, Any]) -> dict[str, Remote]:
    found = {}
    for name, entry in (loaded.get("remotes") or {}).items():
        public = entry.get("public")
        remote = Remote(
            str(entry.get("addr") or ""),
            public=public is True or public == "true",
            protocol=str(entry.get("protocol") or ""),
        )
        remote.auth_type = str(entry.get("auth_type") or "") or ("" if remote.public else "tls")
        remote.domain = str(entry.get("domain") or "")
        remote.project = str(entry.get("project") or "")
        found[str(name)] = remote
    return found


def _add_global(remotes: Remotes) -> None:
    try:
        with open(f"{global_directory(remotes.product)}/config.yml", encoding="utf-8") as file:
            content = file.read()
    except OSError:
        return
    for name, remote in _parse_remotes(_parse_file(content)).items():
        if name not in remotes.remotes:
            remote.is_global = True
            remotes.remotes[name] = remote


_PLAIN = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_./:[]@+ ")


def parse_plain_yaml(content: str) -> dict[str, Any] | None:
    """Mappings of plain words, as this program writes them; None where a real YAML parser is needed.

    It spares most runs the YAML library, which takes longer to load than the rest of the command line. Values stay
    text.
    """
    root: dict[str, Any] = {}
    levels = [root]
    for line in content.splitlines():
        stripped = line.lstrip(" ")
        depth, odd = divmod(len(line) - len(stripped), 2)
        key, colon, value = stripped.partition(":")
        if odd or not colon or depth >= len(levels) or not _is_plain(key):
            return None
        del levels[depth + 1 :]
        if value == "":
            child: dict[str, Any] = {}
            levels[depth][key] = child
            levels.append(child)
        elif value == " {}":
            levels[depth][key] = {}
        elif value.startswith(" ") and _is_plain(value[1:]):
            levels[depth][key] = value[1:]
        else:
            return None
    return root


def _is_plain(word: str) -> bool:
    return (
        word not in ("", "null")
        and all(letter in _PLAIN for letter in word)
        and word[0] not in "-[]@: "
        and word[-1] not in ": "
        and ": " not in word
    )
