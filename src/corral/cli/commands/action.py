"""`start`, `stop`, `restart` and `pause`: changing the state of instances, several at once."""

from __future__ import annotations

from corral.cli import output
from corral.cli.command import ANY_NUMBER_OF, Command, Flag, Invocation, number, switch, text
from corral.cli.progress import Progress
from corral.client.server import escape
from corral.errors import CorralError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from corral.cli.session import Session
    from corral.client.server import Server

_FROZEN = 110


def run(invocation: Invocation) -> int:
    """Change the state of the named instances, or of all."""
    session = invocation.session
    action = invocation.command.name
    takes_all = invocation.switch("all")
    console = str(invocation.values.get("console") or "")
    if not takes_all and not invocation.args:
        from corral.cli.main import print_usage_of

        print_usage_of(invocation)
        return 0
    if console and takes_all:
        raise CorralError("--console can't be used with --all")
    if takes_all:
        _act_on_all(invocation, action)
        return 0
    if console and len(invocation.args) != 1:
        raise CorralError("--console only works with a single instance")
    if len(invocation.args) == 1:
        _act(invocation, action, invocation.args[0])
        return 0
    _act_on_many(invocation, session, action)
    return 0


def _act_on_many(invocation: Invocation, session: Session, action: str) -> None:
    """Each instance in a thread of its own, so that slow stops overlap."""
    from threading import Thread

    failures: list[tuple[str, str]] = []
    own_sessions = {name: session.copy() for name in invocation.args}

    def act(name: str) -> None:
        try:
            _act(invocation, action, name, own_sessions[name])
        except (CorralError, OSError) as error:
            failures.append((name, str(error)))

    threads = [Thread(target=act, args=(name,)) for name in invocation.args]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        for name, message in failures:
            for line in f"error: {message}".split("\n"):
                output.warn(f"{name}: {line}")
        output.warn("")
        raise CorralError(f"Some instances failed to {action}")


def _body(invocation: Invocation, action: str) -> dict[str, object]:
    return {
        "action": "freeze" if action == "pause" else action,
        "timeout": invocation.values.get("timeout", 0),
        "force": bool(invocation.values.get("force")),
        "stateful": action == "stop" and bool(invocation.values.get("stateful")),
    }


def _act_on_all(invocation: Invocation, action: str) -> None:
    session = invocation.session
    for argument in invocation.args or [f"{session.remotes.default_remote}:"]:
        resource = session.resource(argument)
        if resource.name:
            raise CorralError("Both --all and instance name given")
        try:
            Progress(session).run(resource.server, "PUT", "/instances", {"state": _body(invocation, action)})
        except CorralError as error:
            raise CorralError(f"{resource.remote}: {error}") from error


def _act(invocation: Invocation, action: str, argument: str, session: Session | None = None) -> None:
    session = session or invocation.session
    console = str(invocation.values.get("console") or "")
    if action == "stop" and invocation.switch("force") and console:
        raise CorralError("--console can't be used while forcing instance shutdown")
    resource = session.resource(argument, f'Must supply instance name for: "{argument}"')
    server, name = resource.server, resource.name
    body = _body(invocation, action)
    if action == "start":
        current = server.get(f"/instances/{escape(name)}")
        if current["status_code"] == _FROZEN:
            body["action"] = "unfreeze"
        elif current["stateful"] and not invocation.switch("stateless"):
            body["stateful"] = True
    if action == "stop" and console:
        server.start("PUT", f"/instances/{escape(name)}/state", body)
        return _attach(invocation, server, name, console)
    change_state(session, server, name, body, argument)
    if console:
        _attach(invocation, server, name, console)
    return None


def change_state(session: Session, server: Server, name: str, body: dict[str, object], shown_name: str) -> None:
    """Ask for a state and wait for it. A failure names the command that shows the log."""
    progress = Progress(session)
    try:
        operation = server.start(
            "PUT", f"/instances/{escape(name)}/state", body, watch=progress.watch if progress.is_shown else None
        )
    except BaseException:
        progress.done()
        raise
    try:
        operation.wait(progress.warn)
    except CorralError as error:
        progress.done()
        hint = f"Try `{session.product.client} info --show-log {shown_name}` for more info"
        raise CorralError(f"{error}\n{hint}") from error
    progress.done()


def _attach(invocation: Invocation, server: Server, name: str, kind: str) -> None:
    from corral.cli.commands.console import attach

    attach(invocation.session, server, name, kind)


_ALL = switch("all", "Run against all instances")
CONSOLE = text("console", "Immediately attach to the console", implied="console")
_FORCE = switch("force", "Force the instance to shutdown", "f")
_TIMEOUT = number("timeout", "Time to wait for the instance before killing it")
_USE = "[<remote>:]<instance> [[<remote>:]<instance>...]"


def _command(name: str, short: str, *flags: Flag, **more: Any) -> Command:
    return Command(f"{name} {_USE}", short, run, (0, ANY_NUMBER_OF), flags=(_ALL, *flags), **more)


START = _command("start", "Start instances", switch("stateless", "Ignore the instance state"), CONSOLE)
STOP = _command("stop", "Stop instances", switch("stateful", "Store the instance state"), CONSOLE, _FORCE, _TIMEOUT)
RESTART = _command("restart", "Restart instances", CONSOLE, _FORCE, _TIMEOUT)
PAUSE = _command(
    "pause",
    "Pause instances",
    aliases=("freeze",),
    long='Pause instances\n\nThe opposite of "{client} pause" is "{client} start".',
    hidden=True,
)
