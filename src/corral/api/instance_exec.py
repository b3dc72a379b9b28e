"""Wire form of commands and consoles of instances."""

import msgspec


class InstanceExecPost(msgspec.Struct, kw_only=True, rename="kebab"):
    """POST /1.0/instances/NAME/exec."""

    command: list[str]
    wait_for_websocket: bool = False
    interactive: bool = False
    environment: dict[str, str] = {}
    width: int = 0
    height: int = 0
    record_output: bool = False
    user: int = 0
    group: int = 0
    cwd: str = ""


class InstanceConsolePost(msgspec.Struct, kw_only=True):
    """POST /1.0/instances/NAME/console."""

    width: int = 0
    height: int = 0
    type: str = ""


class Control(msgspec.Struct, kw_only=True):
    """A message on the control websocket of a command or a console."""

    command: str = ""
    #: Go's clients send null with a signal.
    args: dict[str, str] | None = None
    signal: int = 0
