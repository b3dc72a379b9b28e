"""`remote add`: get to know a server, by its certificate, a password or a token."""

from __future__ import annotations

import os
import stat
import sys

from corral.cli import output
from corral.client import codec
from corral.client.remotes import SIMPLESTREAMS, Remote
from corral.client.server import escape
from corral.errors import CorralError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from corral.cli.command import Invocation
    from corral.client.remotes import Remotes
    from corral.client.server import Server


def run(invocation: Invocation) -> int:
    """Add a remote."""
    name = invocation.args[0]
    address = invocation.args[-1]
    remotes = invocation.session.remotes
    remotes.project_override = ""
    if ":" in name:
        raise CorralError("Remote names may not contain colons")
    if name in remotes.remotes:
        raise CorralError(f"Remote {name} exists as <{remotes.remotes[name].addr}>")
    token = decode_token(address)
    protocol = invocation.text("protocol") or "lxd"
    if token is not None:
        _add_by_token(invocation, name, address, token)
    elif protocol == SIMPLESTREAMS:
        if not address.startswith("https://"):
            raise CorralError("Only https URLs are supported for simplestreams")
        remotes.remotes[name] = Remote(address, public=True, protocol=protocol)
    elif protocol != "lxd":
        raise CorralError(f"Invalid protocol: {protocol}")
    else:
        _add_server(invocation, name, normalize_address(address))
    remotes.save()
    return 0


def decode_token(text: str) -> dict[str, Any] | None:
    """The parts of a token for adding a client, or None where the text is no token."""
    from base64 import b64decode

    try:
        token = codec.decode(b64decode(text, validate=True).decode())
    except (ValueError, UnicodeDecodeError):
        return None
    if isinstance(token, dict) and token.get("addresses") and token.get("secret") and token.get("fingerprint"):
        return token
    return None


def normalize_address(address: str) -> str:
    """`https://host:port` or `unix://path` from what a user types. Raises CorralError."""
    scheme, separator, rest = address.partition("://")
    if not separator:
        is_socket = os.path.exists(address) and stat.S_ISSOCK(os.stat(address).st_mode)
        if address.startswith("unix:"):
            return f"unix://{address[5:]}"
        if address.startswith("/") or is_socket:
            return f"unix://{address}"
        scheme, rest = "https", address
    if scheme not in ("unix", "https"):
        raise CorralError(f'Invalid URL scheme "{scheme}" in "{address}"')
    if scheme == "unix":
        return f"unix://{rest}"
    return "https://" + _host_with_port(rest.partition("/")[0])


def _host_with_port(host: str) -> str:
    if host.startswith("["):
        return host if "]:" in host else f"{host}:8443"
    if host.count(":") > 1:
        return f"[{host}]:8443"
    return host if ":" in host else f"{host}:8443"


def _ensure_client_certificate(remotes: Remotes) -> None:
    from corral.client.tls import generate_client_certificate, has_client_certificate

    if not has_client_certificate(remotes.directory):
        output.warn("Generating a client certificate. This may take a minute...")
        generate_client_certificate(remotes.directory, remotes.product.title)


def _add_server(invocation: Invocation, name: str, address: str) -> None:
    remotes = invocation.session.remotes
    public = invocation.switch("public")
    if invocation.text("auth-type") not in ("", "tls"):
        raise CorralError(f"Authentication type '{invocation.text('auth-type')}' not supported by server")
    remote = Remote(address, public=public, protocol="" if public else "lxd")
    remotes.remotes[name] = remote
    if address.startswith("unix:"):
        remote.auth_type = "tls"
        remote.project = _find_project(remotes.server(name), invocation.text("project"))
        return
    if not public:
        _ensure_client_certificate(remotes)
    _pin(invocation, name, address)
    server = remotes.image_server(name)
    info = server.query("GET", "/1.0").metadata
    if public or info.get("public"):
        remotes.remotes[name] = Remote(address, public=True)
        return
    remote.auth_type = "tls"
    if "tls" not in (info.get("auth_methods") or ()):
        raise CorralError("Authentication type 'tls' not supported by server")
    if info.get("auth") != "trusted":
        _authenticate(invocation, server, name)
    remote.project = _find_project(server, invocation.text("project"))


def _pin(invocation: Invocation, name: str, address: str) -> None:
    """Ask whether the server's certificate is the right one, unless an authority vouches for it."""
    from corral.client.tls import fetch_server_certificate, fingerprint, is_trusted_by_system, pin_server_certificate

    if is_trusted_by_system(address):
        return
    certificate = fetch_server_certificate(address)
    if not invocation.switch("accept-certificate"):
        digest = fingerprint(certificate)
        output.line(f"Certificate fingerprint: {digest}")
        answer = _ask("ok (y/n/[fingerprint])? ")
        if answer != digest:
            if not answer or answer[0].lower() == "n":
                raise CorralError("Server certificate NACKed by user")
            if answer[0].lower() != "y":
                raise CorralError("Please type 'y', 'n' or the fingerprint:")
    pin_server_certificate(invocation.session.remotes.server_certificate_name(name), certificate)


def _ask(question: str) -> str:
    output.write(question)
    output.flush()
    return sys.stdin.readline().rstrip("\n")


def _authenticate(invocation: Invocation, server: Server, name: str) -> None:
    password = invocation.text("password")
    if not password:
        question = f"Admin password (or token) for {name}: "
        if sys.stdin.isatty():
            import getpass

            password = getpass.getpass(question)
        else:
            password = _ask(question)
            output.line()
    server.query("POST", "/1.0/certificates", _certificate_body(password))
    if server.query("GET", "/1.0").metadata.get("auth") != "trusted":
        raise CorralError("Server doesn't trust us after authentication")
    output.line(f"Client certificate now trusted by server: {name}")


def _certificate_body(password: str) -> dict[str, Any]:
    return {"name": "", "type": "client", "password": password, "restricted": False, "projects": None}


def _find_project(server: Server, project: str) -> str:
    """The project to use on a remote: the chosen one, or the only one there is."""
    if project:
        server.query("GET", f"/1.0/projects/{escape(project)}")
        return project
    names = [str(url).rpartition("/")[2] for url in server.query("GET", "/1.0/projects").metadata or ()]
    if not names or "default" in names:
        return "" if len(names) != 1 else names[0]
    if len(names) == 1:
        return names[0]
    output.line("Available projects:")
    for name in names:
        output.line(f" - {name}")
    while True:
        answer = _ask("Name of the project to use for this remote: ")
        if answer in names:
            return answer
        if not answer:
            raise CorralError("No project was chosen")
        output.warn("Invalid input, try again.\n")


def _add_by_token(invocation: Invocation, name: str, text: str, token: dict[str, Any]) -> None:
    from corral.client.connection import ConnectionLost

    remotes = invocation.session.remotes
    _ensure_client_certificate(remotes)
    for host in token["addresses"]:
        try:
            return _add_address_by_token(invocation, name, f"https://{host}", (text, token["fingerprint"]))
        except ConnectionLost:
            remotes.remotes.pop(name, None)
    output.line("All server addresses are unavailable")
    address = _ask("Please provide an alternate server address (empty to abort): ")
    if not address:
        raise CorralError("Failed to add remote")
    return _add_address_by_token(invocation, name, normalize_address(address), (text, token["fingerprint"]))


def _add_address_by_token(invocation: Invocation, name: str, address: str, token: tuple[str, str]) -> None:
    from corral.client.tls import fetch_server_certificate, fingerprint, pin_server_certificate

    remotes = invocation.session.remotes
    certificate = fetch_server_certificate(address)
    if fingerprint(certificate) != token[1]:
        raise CorralError(f'Certificate fingerprint mismatch between certificate token and server "{address}"')
    pin_server_certificate(remotes.server_certificate_name(name), certificate)
    remote = Remote(address, protocol="lxd")
    remote.auth_type = "tls"
    remotes.remotes[name] = remote
    server = remotes.server(name)
    try:
        server.query("POST", "/1.0/certificates", _certificate_body(token[0]))
    except CorralError as error:
        raise CorralError(f"Failed to create certificate: {error}") from error
    remote.project = _find_project(server, invocation.text("project"))
