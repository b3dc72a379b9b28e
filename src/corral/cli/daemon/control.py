"""`waitready` and `shutdown`: is the daemon there, and making it go."""

from __future__ import annotations

import time

from corral.client.remotes import unix_connection, user_agent
from corral.client.server import Server, query_string
from corral.errors import CorralError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from corral.cli.command import Invocation
    from corral.product import Product

_RETRY_S = 0.1


def local_server(product: Product) -> Server:
    """The local daemon's API."""
    return Server(unix_connection(product, "", user_agent(product)), "http://unix.socket")


def wait_ready(invocation: Invocation) -> int:
    """Block until the daemon has finished its start. Raises CorralError when the time is over."""
    product = invocation.session.product
    timeout_s = invocation.number("timeout")
    server = local_server(product)
    deadline = time.monotonic() + timeout_s if timeout_s > 0 else None
    while True:
        if deadline is not None:
            # A socket of systemd takes connections that nobody answers while the daemon cannot be started.
            server.connection.limit_wait(max(_RETRY_S, deadline - time.monotonic()))
        try:
            server.query("GET", "/internal/ready")
            return 0
        except (CorralError, TimeoutError) as error:
            if deadline is not None and time.monotonic() >= deadline:
                message = f"{product.title} still not running after {timeout_s}s timeout ({error})"
                raise CorralError(message) from error
        server.connection.close()
        time.sleep(_RETRY_S)


def shut_down(invocation: Invocation) -> int:
    """Ask the daemon to stop its instances and itself, and wait for that."""
    product = invocation.session.product
    timeout_s = invocation.number("timeout")
    server = local_server(product)
    force = {"force": "true" if invocation.switch("force") else "false"}
    target = "/internal/shutdown" + query_string(force)
    if timeout_s > 0:
        server.connection.limit_wait(timeout_s)
    try:
        server.query("PUT", target)
    except TimeoutError as error:
        message = f"{product.title} still running after {timeout_s}s timeout"
        raise CorralError(message) from error
    return 0
