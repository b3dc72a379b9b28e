"""The command line's entry point: the table of first words, aliases, global flags, errors and exit codes.

Only the module of the command that is called is imported.
"""

from __future__ import annotations

import os
import sys

from corral.cli.command import GLOBAL_FLAGS, Command, Invocation, UsageError, parse_flags, switch, take_words
from corral.errors import CorralError
from corral.product import product_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from corral.cli.session import Session
    from corral.product import Product

# First word: (module below cli.commands, name in it, summary, whether help shows it only with --all).
ENTRIES = {
    "alias": ("alias", "COMMAND", "Manage command aliases", False),
    "cluster": ("cluster", "COMMAND", "Manage cluster members", False),
    "config": ("config", "COMMAND", "Manage instance and server configuration options", False),
    "console": ("console", "COMMAND", "Attach to instance consoles", False),
    "copy": ("copy", "COMMAND", "Copy instances within or in between {title} servers", False),
    "delete": ("delete", "COMMAND", "Delete instances and snapshots", False),
    "exec": ("exec", "COMMAND", "Execute commands in instances", False),
    "export": ("export", "COMMAND", "Export instance backups", False),
    "file": ("file", "COMMAND", "Manage files in instances", False),
    "image": ("image", "COMMAND", "Manage images", False),
    "import": ("import_backup", "COMMAND", "Import instance backups", False),
    "info": ("info", "COMMAND", "Show instance or server information", False),
    "init": ("launch", "INIT", "Create instances from images", True),
    "launch": ("launch", "COMMAND", "Create and start instances from images", False),
    "list": ("list", "COMMAND", "List instances", False),
    "manpage": ("manpage", "COMMAND", "Generate manpages for all commands", True),
    "monitor": ("monitor", "COMMAND", "Monitor a local or remote {title} server", True),
    "move": ("move", "COMMAND", "Move instances within or in between {title} servers", False),
    "network": ("network", "COMMAND", "Manage and attach instances to networks", False),
    "operation": ("operation", "COMMAND", "List, show and delete background operations", False),
    "pause": ("action", "PAUSE", "Pause instances", True),
    "profile": ("profile", "COMMAND", "Manage profiles", False),
    "project": ("project", "COMMAND", "Manage projects", False),
    "publish": ("publish", "COMMAND", "Publish instances as images", False),
    "query": ("query", "COMMAND", "Send a raw query to {title}", True),
    "rebuild": ("rebuild", "COMMAND", "Rebuild instances", False),
    "remote": ("remote", "COMMAND", "Manage the list of remote servers", False),
    "rename": ("move", "RENAME", "Rename instances and snapshots", False),
    "restart": ("action", "RESTART", "Restart instances", False),
    "restore": ("snapshot", "RESTORE", "Restore instances from snapshots", False),
    "snapshot": ("snapshot", "COMMAND", "Create instance snapshots", False),
    "start": ("action", "START", "Start instances", False),
    "stop": ("action", "STOP", "Stop instances", False),
    "storage": ("storage", "COMMAND", "Manage storage pools and volumes", False),
    "version": ("version", "COMMAND", "Show local and remote versions", False),
    "warning": ("warning", "COMMAND", "Manage warnings", False),
}
WORD_ALIASES = {"cp": "copy", "freeze": "pause", "ls": "list", "mv": "move", "rm": "delete"}
ROOT_FLAGS = (switch("all", "Show less common commands"), *GLOBAL_FLAGS)
ALIAS_GUARD = "LXC_ALIASES"
INTERRUPTED = 130


def main(argv: list[str]) -> int:
    """Run one command line; `argv[0]` is the program's name. The exit code."""
    product = product_of(argv[0])
    try:
        return _run(product, argv[1:])
    except CorralError as error:
        return _fail(str(error))
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115 - it must outlive this function
        return 1
    except OSError as error:
        if isinstance(error, FileNotFoundError) and error.filename:
            return _fail(f"open {error.filename}: no such file or directory")
        return _fail(f"{error.filename}: {error.strerror}" if error.filename else str(error))


def _fail(message: str) -> int:
    from corral.cli import output

    output.warn(f"Error: {message}")
    return 1


def _run(product: Product, argv: list[str]) -> int:
    expanded = _expand_aliases(product, argv)
    if expanded is not None:
        argv = expanded
    root = _root(product)
    position, word = _first_word(argv)
    if word == "" or word == "help":
        return _help(product, root, argv, position)
    if argv[position : position + 2] == ["config", "profile"]:  # As `profile` was once called.
        del argv[position]
        word = "profile"
    entry = ENTRIES.get(WORD_ALIASES.get(word, word))
    if entry is None:
        raise _unknown(word, product.client, list(ENTRIES))
    command = _load(entry[0], entry[1])
    chain, rest = take_words(command, argv[:position] + argv[position + 1 :], ROOT_FLAGS)
    return _call(product, [root, *chain], rest)


def _root(product: Product) -> Command:
    long = f"Command line client for {product.title}\n\nEvery feature of {product.title} has a command here."
    return Command(product.client, "", long=f"{long}\nCall any of them with --help to learn more about it.")


def _first_word(argv: list[str]) -> tuple[int, str]:
    """Where the command's first word stands, and the word; an empty one where there is none."""
    marker = Command("", "", commands=[Command(word, "") for word in (*ENTRIES, *WORD_ALIASES, "help")])
    chain, rest = take_words(marker, argv, ROOT_FLAGS)
    if len(chain) > 1:
        position = 0
        while position < len(rest) and rest[position] == argv[position]:
            position += 1
        return position, chain[1].name
    for position, word in enumerate(argv):
        if not word.startswith("-"):
            return position, word
    return 0, ""


def _load(module: str, name: str) -> Command:
    loaded = __import__(f"corral.cli.commands.{module}", fromlist=[name])
    command = getattr(loaded, name)
    assert isinstance(command, Command)
    return command


def _unknown(word: str, path: str, names: list[str]) -> UsageError:
    from corral.cli.help import suggestions_for

    found = suggestions_for(word, names)
    hint = "\n\nDid you mean this?\n" + "".join(f"\t{name}\n" for name in found) if found else ""
    return UsageError(f'unknown command "{word}" for "{path}"{hint}')


def load_root(product: Product) -> Command:
    """The root with the declarations of all commands: slow, for what needs all of them."""
    return _full_chain([_root(product)], True)[0]


def print_usage_of(invocation: Invocation) -> None:
    """The usage of a command that was called with too little, on standard error."""
    product = invocation.session.product
    _print_usage(product, [*(Command(word, "") for word in invocation.path.split(" ")[:-1]), invocation.command])


def _call(product: Product, chain: list[Command], rest: list[str]) -> int:
    command = chain[-1]
    own_names = {flag.name for flag in command.flags}
    values, args = parse_flags(rest, [*command.flags, *(flag for flag in GLOBAL_FLAGS if flag.name not in own_names)])
    path = " ".join(part.name for part in chain)
    if values["help"]:
        _print_help(product, chain, bool(values["sub-commands"]))
        return 0
    if command.run is None:
        if args:
            raise UsageError(f'unknown command "{args[0]}" for "{path}"')
        _print_usage(product, chain)
        return 0
    least, most = command.count
    if len(args) < least or (most >= 0 and len(args) > most):
        _print_help(product, chain, False)
        if not args:
            return 0
        raise UsageError("Invalid number of arguments")
    invocation = Invocation(command, path, args, values)
    invocation.session = _session(product, chain, invocation)
    code = command.run(invocation)
    return code or 0


def _session(product: Product, chain: list[Command], invocation: Invocation) -> Session:
    from corral.cli.session import Session

    session = Session(
        product,
        quiet=invocation.switch("quiet"),
        project=invocation.text("project"),
        force_local=invocation.switch("force-local"),
    )
    is_first = not session.force_local and not os.path.exists(f"{product.client_conf_dir_name()}/config.yml")
    if is_first and os.path.exists(product.state_dir_name()):
        from corral.cli.first_run import greet

        greet(session, chain[1].name)
    return session


def _help(product: Product, root: Command, argv: list[str], position: int) -> int:
    """`help [word...]`, `--help`, `--version`, or nothing at all."""
    values, args = parse_flags(argv, ROOT_FLAGS)
    is_help_command = bool(args) and args[0] == "help"
    if values["version"] and not is_help_command and not values["help"]:
        from corral.cli import output

        output.line(product.version)
        return 0
    chain = [root]
    words = args[1:]
    if words:
        entry = ENTRIES.get(WORD_ALIASES.get(words[0], words[0]))
        if entry is not None:
            found, _ = take_words(_load(entry[0], entry[1]), words[1:], ROOT_FLAGS)
            chain += found
        else:
            from corral.cli import output

            output.warn(f"Unknown help topic [`{'` `'.join(words)}`]")
            _print_usage(product, [root])
            return 0
    _print_help(product, chain, bool(values["sub-commands"]), all_commands=bool(values["all"]))
    return 0


def _full_chain(chain: list[Command], deep: bool) -> list[Command]:
    """The chain with the root's commands: their declarations, or only their summaries where nothing is below."""
    if len(chain) > 1:
        return chain
    root = chain[0]
    if deep:
        root.commands = tuple(_load(entry[0], entry[1]) for entry in ENTRIES.values())
    else:
        root.commands = tuple(Command(word, entry[2], hidden=entry[3]) for word, entry in ENTRIES.items())
    return chain


def _print_help(product: Product, chain: list[Command], deep: bool, *, all_commands: bool = False) -> None:
    from corral.cli import output
    from corral.cli.help import render_help

    text = render_help(_full_chain(chain, deep), ROOT_FLAGS, all_commands=all_commands, deep=deep)
    output.write(named(product, text))


def _print_usage(product: Product, chain: list[Command]) -> None:
    from corral.cli import output
    from corral.cli.help import render_usage

    output.warn(named(product, render_usage(_full_chain(chain, False), ROOT_FLAGS)).rstrip("\n"))


def named(product: Product, text: str) -> str:
    """A help text with the product's names in place of the placeholders."""
    return text.replace("{client}", product.client).replace("{title}", product.title)


def _expand_aliases(product: Product, argv: list[str]) -> list[str] | None:
    if os.environ.get(ALIAS_GUARD) == "1" or all(word.startswith("-") for word in argv):
        return None
    word = next(word for word in argv if not word.startswith("-"))
    if word != "shell" and not _has_aliases(product):
        return None
    from corral.cli.aliases import expand

    return expand(product, argv)


def _has_aliases(product: Product) -> bool:
    """Whether the configuration file may define an alias."""
    try:
        with open(f"{product.client_conf_dir_name()}/config.yml", encoding="utf-8", errors="replace") as file:
            content = file.read()
    except OSError:
        return False
    return content.count("aliases:") > content.count("aliases: {}")
