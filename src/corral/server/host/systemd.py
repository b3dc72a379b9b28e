"""The service manager's small protocols: readiness (sd_notify) and passed sockets (sd_listen_fds)."""

import contextlib
import os
import socket
from collections.abc import MutableMapping

_FIRST_FD = 3


def notify(state: str) -> bool:
    """Tell the service manager a state such as "READY=1"; says whether there is one."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address or address[0] not in "/@":
        return False
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as channel:
        try:
            channel.connect("\0" + address[1:] if address[0] == "@" else address)
            channel.sendall(state.encode())
        except OSError:
            return False
    return True


def take_sockets(environment: MutableMapping[str, str] | None = None) -> dict[str, list[socket.socket]]:
    """The sockets that the service manager passed, by name, once: the variables are removed.

    Sockets without a name are found under "unknown", as sd_listen_fds_with_names(3) says.
    """
    variables = os.environ if environment is None else environment
    pid, count, names = (variables.pop(key, "") for key in ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"))
    if pid != str(os.getpid()) or not count.isdigit():
        return {}
    listed = names.split(":") if names else []
    found: dict[str, list[socket.socket]] = {}
    for offset in range(int(count)):
        name = listed[offset] if offset < len(listed) and listed[offset] else "unknown"
        with contextlib.suppress(OSError):
            passed = socket.socket(fileno=_FIRST_FD + offset)
            os.set_inheritable(passed.fileno(), False)
            found.setdefault(name, []).append(passed)
    return found
