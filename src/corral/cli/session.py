"""What a command works with: the configuration, the servers of its arguments, global flags, and the terminal."""

from __future__ import annotations

import os

from corral.cli import output
from corral.errors import CorralError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from corral.client.remotes import Remotes
    from corral.client.server import Server
    from corral.product import Product

    Devices = dict[str, dict[str, str]]


class Resource:
    """What `[<remote>:]name` means."""

    __slots__ = ("name", "remote", "server")

    def __init__(self, remote: str, server: Server, name: str) -> None:
        self.remote = remote
        self.server = server
        self.name = name


class Session:
    """One run of the command line."""

    def __init__(self, product: Product, *, quiet: bool = False, project: str = "", force_local: bool = False) -> None:
        self.product = product
        self.quiet = quiet
        self.project = project
        self._force_local = force_local
        self._remotes: Remotes | None = None

    @property
    def remotes(self) -> Remotes:
        """The configuration, read when first needed."""
        if self._remotes is None:
            from corral.client.remotes import Remotes, load_remotes

            directory = self.product.client_conf_dir_name()
            self._remotes = (
                Remotes(self.product, directory) if self._force_local else load_remotes(self.product, directory)
            )
            self._remotes.project_override = self.project
        return self._remotes

    def copy(self) -> Session:
        """A session with connections of its own, for another thread."""
        return Session(self.product, quiet=self.quiet, project=self.project, force_local=self._force_local)

    @property
    def force_local(self) -> bool:
        """Whether the configuration file is left alone."""
        return self._force_local

    def resource(self, argument: str, missing: str = "") -> Resource:
        """The server and name of an argument; `missing` is the error where it has no name."""
        remote, name = self.remotes.parse(argument)
        if missing and not name:
            raise CorralError(missing)
        return Resource(remote, self.remotes.server(remote), name)

    def server(self, argument: str = "") -> Server:
        """The server of an argument."""
        return self.resource(argument).server

    def say(self, text: str) -> None:
        """A line that `--quiet` suppresses."""
        if not self.quiet:
            output.line(text)


def stdin_is_terminal() -> bool:
    """Whether standard input is a terminal."""
    return _is_terminal(0)


def stdout_is_terminal() -> bool:
    """Whether standard output is a terminal."""
    return _is_terminal(1)


def _is_terminal(descriptor: int) -> bool:
    try:
        return os.isatty(descriptor)
    except OSError:
        return False


def read_stdin() -> bytes:
    """All of standard input."""
    pieces = []
    try:
        while piece := os.read(0, 65536):
            pieces.append(piece)
    except OSError:
        pass  # Closed standard input is empty input.
    return b"".join(pieces)


def split_pair(argument: str, message: str) -> tuple[str, str]:
    """(Key, value) of `key=value`; `message` with the argument is the error."""
    key, equals, value = argument.partition("=")
    if not equals:
        raise CorralError(f"{message}: {argument}")
    return key, value


def parse_settings(args: list[str]) -> dict[str, str]:
    """Config keys from `key=value...`, or from the older `key value`. A value of `-` is read from standard input."""
    if len(args) == 2 and "=" not in args[0]:
        return {args[0]: _value_or_stdin(args[1])}
    settings = {}
    for argument in args:
        key, value = split_pair(argument, "Invalid key=value configuration")
        settings[key] = _value_or_stdin(value)
    return settings


def _value_or_stdin(value: str) -> str:
    if value == "-" and not stdin_is_terminal():
        return read_stdin().decode("utf-8", "surrogateescape")
    return value


def parse_device_overrides(entries: list[str]) -> Devices:
    """Devices from `<device>,<key>=<value>` arguments."""
    devices: Devices = {}
    for entry in entries:
        if "=" not in entry or "," not in entry:
            message = f"Bad device override syntax, expecting <device>,<key>=<value>: {entry}"
            raise CorralError(message)
        device, _, setting = entry.partition(",")
        key, _, value = setting.partition("=")
        devices.setdefault(device, {})[key] = value
    return devices


def pick(body: dict[str, Any], fields: tuple[str, ...]) -> dict[str, Any]:
    """The named fields of an answer, in that order; those the server left out are left out."""
    return {field: body[field] for field in fields if field in body}


def order(body: dict[str, Any], fields: tuple[str, ...], leave_out: tuple[str, ...] = ()) -> dict[str, Any]:
    """An answer with the named fields first and in that order, and everything else behind them."""
    ordered = pick(body, fields)
    for field, value in body.items():
        if field not in ordered:
            ordered[field] = value
    for field in leave_out:
        if not ordered.get(field):
            ordered.pop(field, None)
    return ordered
