"""The daemon's own sub-commands: clients of a running daemon, or of the files of one that is down.

Without a sub-command the caller starts the daemon itself.
"""

from __future__ import annotations

import sys

from corral.cli import output
from corral.cli.command import Command, Invocation, UsageError, number, parse_flags, switch, take_words, text, texts
from corral.cli.session import Session
from corral.errors import CorralError
from corral.product import product_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from corral.product import Product

_GLOBAL_FLAGS = (
    switch("debug", "Show all debug messages", "d"),
    switch("help", "Print help", "h"),
    text("logfile", "Path to the log file"),
    switch("syslog", "Log to syslog"),
    texts("trace", "Areas whose debug messages to log"),
    switch("verbose", "Show all information messages", "v"),
    switch("version", "Print version number"),
)
_DAEMON_FLAGS = (text("group", "The group of users that will be allowed to talk to the daemon"),)


def _waitready(invocation: Invocation) -> int:
    from corral.cli.daemon.control import wait_ready

    return wait_ready(invocation)


def _shutdown(invocation: Invocation) -> int:
    from corral.cli.daemon.control import shut_down

    return shut_down(invocation)


def _activate(invocation: Invocation) -> int:
    from corral.cli.daemon.activate import run

    return run(invocation)


def _init(invocation: Invocation) -> int:
    from corral.cli.daemon.init import run

    return run(invocation)


def _recover(invocation: Invocation) -> int:
    from corral.cli.daemon.recover import run

    return run(invocation)


def _import(invocation: Invocation) -> int:
    name = _name(invocation.session.product)
    raise CorralError(f'Command has been replaced with "{name} recover"')


def _manpage(invocation: Invocation) -> int:
    from corral.cli.commands.manpage import write_pages

    product = invocation.session.product
    write_pages(
        invocation.args[0], _root(product), (*_GLOBAL_FLAGS, *_DAEMON_FLAGS), lambda text: _named(product, text)
    )
    return 0


def _sql(invocation: Invocation) -> int:
    from corral.cli.daemon.sql import run

    return run(invocation)


def _version(invocation: Invocation) -> int:
    output.line(invocation.session.product.version)
    return 0


_TIMEOUT = number("timeout", "Number of seconds to wait before giving up", "t", 0)

_COMMANDS = (
    Command(
        "activateifneeded",
        "Check if the daemon should be started",
        _activate,
        long="""Check if the daemon should be started

The daemon is started through its socket if it is to listen on the network, or if an instance is to run or a snapshot
to be made by schedule. What its database says decides; the daemon need not run for that.""",
    ),
    Command("import", "Command has been replaced by recover", _import, count=(0, 100), hidden=True),
    Command(
        "init",
        "Configure the daemon",
        _init,
        long="""Configure the daemon

Without flags it asks how.""",
        examples="""{daemon} init

{daemon} init --minimal

{daemon} init --auto [--network-address=IP] [--network-port=8443] [--storage-backend=dir]
            [--storage-create-device=DEVICE] [--storage-create-loop=SIZE]
            [--storage-pool=POOL] [--trust-password=PASSWORD]

{daemon} init --preseed < preseed.yaml

{daemon} init --dump""",
        flags=(
            switch("auto", "Automatic (non-interactive) mode"),
            switch("minimal", "Minimal configuration (non-interactive)"),
            switch("preseed", "Pre-seed mode, expects YAML config from stdin"),
            switch("dump", "Dump YAML config to stdout"),
            text("network-address", "Address to bind to (default: none)"),
            number("network-port", "Port to bind to (default: 8443)"),
            text("storage-backend", "Storage backend to use (btrfs, dir, lvm or zfs)"),
            text("storage-create-device", "Setup device based storage using DEVICE"),
            number("storage-create-loop", "Setup loop based storage with SIZE in GB"),
            text("storage-pool", "Storage pool to use or create"),
            text("trust-password", "Password required to add new clients"),
        ),
    ),
    Command("manpage <target>", "Generate manpages for all commands", _manpage, count=(1, 1), hidden=True),
    Command(
        "recover",
        "Recover missing instances and volumes from existing and unknown storage pools",
        _recover,
        count=(0, 100),
        long="""Recover missing instances and volumes from existing and unknown storage pools

This is for the day after a disaster. It asks about storage pools that the database does not know, looks into them and
into those that it knows, and shows the instances and volumes that are there and not in the database. Their records are
made again if you want it.""",
    ),
    Command(
        "shutdown",
        "Tell the daemon to stop all instances and exit",
        _shutdown,
        flags=(
            switch("force", "Force shutdown instead of waiting for running operations to finish", "f"),
            _TIMEOUT,
        ),
    ),
    Command(
        "sql <local|global> <query>",
        "Execute a SQL query against the local or global database",
        _sql,
        count=(0, 2),
        hidden=True,
        long="""Execute a SQL query against the local or global database

The local database holds what is this member's alone, like the addresses that it listens on. The global database holds
all the rest: instances, profiles, networks and so on, for all members of a cluster.

A query of "-" is read from standard input, ".dump" prints the database as a script, ".schema" the same without its
rows, and ".sync" writes what is committed into the database's file.

This is for debugging and for repairs: the daemon does not know what is changed behind its back.""",
    ),
    Command("version", "Show the version", _version),
    Command("waitready", "Wait for the daemon to be ready to process requests", _waitready, flags=(_TIMEOUT,)),
)


def main(argv: list[str]) -> int | None:
    """Run the sub-command that `argv` names and return its exit code; None where the daemon is to be started."""
    product = product_of(argv[0])
    try:
        return _run(product, argv)
    except CorralError as error:
        output.warn(f"Error: {error}")
        return 1
    except KeyboardInterrupt:
        return 130
    except OSError as error:
        output.warn(f"Error: {f'{error.filename}: {error.strerror}' if error.filename else error}")
        return 1


def _name(product: Product) -> str:
    return product.name if product.client == "lxc" else f"{product.name}d"


def _root(product: Product) -> Command:
    root = Command(_name(product), f"The {product.title} daemon", flags=_DAEMON_FLAGS, commands=_COMMANDS)
    root.long = f"""The {product.title} daemon

It is started by the init system and used through a tool like `{product.client}`. Its sub-commands talk to the local
daemon about what the API does not offer."""
    return root


def _run(product: Product, argv: list[str]) -> int | None:
    name = _name(product)
    root = _root(product)
    chain, rest = take_words(root, argv[1:], (*_GLOBAL_FLAGS, *_DAEMON_FLAGS))
    values, args = parse_flags(rest, (*chain[-1].flags, *_GLOBAL_FLAGS))
    if values["help"]:
        _print_help(product, chain)
        return 0
    if len(chain) == 1:
        return _start_or_refuse(product, name, bool(values["version"]), args)
    least, most = chain[-1].count
    if not least <= len(args) <= most:
        raise UsageError(f'unknown command "{args[0]}" for "{name} {chain[-1].name}"')
    invocation = Invocation(chain[-1], f"{name} {chain[-1].name}", args, values)
    invocation.session = Session(product)
    command = chain[-1].run
    code = (command(invocation) if command is not None else 0) or 0
    sys.stdout.flush()
    return code


def _start_or_refuse(product: Product, name: str, wants_version: bool, args: list[str]) -> int | None:
    if wants_version:
        output.line(product.version)
        return 0
    if args in ([], [""], ["daemon"]):
        if args:
            sys.argv.remove(args[0])
        return None
    from corral.cli.main import ENTRIES

    hint = ""
    if args[0] in ENTRIES:
        hint = f"\n\nThat is a command of the client: {product.client} {args[0]}"
    raise UsageError(f'unknown command "{args[0]}" for "{name}"{hint}')


def _print_help(product: Product, chain: list[Command]) -> None:
    from corral.cli.help import render_help

    flags = (*_GLOBAL_FLAGS, *(_DAEMON_FLAGS if len(chain) == 1 else ()))
    output.write(_named(product, render_help(chain, flags)))


def _named(product: Product, text_: str) -> str:
    return text_.replace("{daemon}", _name(product)).replace("{title}", product.title)
