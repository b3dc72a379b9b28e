"""`config trust`: the clients that the server trusts, and tokens for new ones."""

from __future__ import annotations

import os
import sys

from corral.cli import keyed, output, table
from corral.cli.command import FORMAT, Command, Invocation, switch, text
from corral.cli.keyed import Kind, bind
from corral.cli.records import CERTIFICATE, CERTIFICATE_WRITABLE
from corral.cli.session import order
from corral.client import codec
from corral.client.server import escape
from corral.errors import CorralError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from corral.client.server import Server

KIND = Kind(
    "/certificates",
    "Missing certificate fingerprint",
    CERTIFICATE,
    CERTIFICATE_WRITABLE,
    """This is a YAML representation of the certificate.
Any line starting with a '#' will be ignored.

Note that the fingerprint is shown but cannot be changed""",
)
_RUNNING = 103


def add(invocation: Invocation) -> int:
    """Trust a certificate, or make a token by which a client adds its own."""
    args = invocation.args
    kind = invocation.text("type")
    if kind not in ("client", "metrics"):
        raise CorralError(f'Unknown certificate type "{kind}"')
    server = invocation.session.server(args[0] if args and args[0].endswith(":") else "")
    files = [argument for argument in args if not argument.endswith(":")]
    projects = invocation.text("projects")
    body: dict[str, Any] = {
        "name": invocation.text("name"),
        "type": kind,
        "restricted": invocation.switch("restricted"),
        "projects": projects.split(",") if projects else None,
    }
    if files:
        body["certificate"] = _read_certificate(files[-1])
        body["name"] = body["name"] or os.path.basename("stdin" if files[-1] == "-" else files[-1])
        server.post("/certificates", body)
        return 0
    if kind == "metrics":
        raise CorralError("Cannot use metrics type certificate when using a token")
    body["name"] = body["name"] or _ask_name()
    operation = server.query("POST", server.path("/certificates"), {**body, "token": True}).metadata
    invocation.session.say(f"Client {body['name']} certificate add token:")
    output.line(encode_token(operation))
    return 0


def _ask_name() -> str:
    while True:
        output.write("Please provide client name: ")
        output.flush()
        line = sys.stdin.readline()
        if line.strip():
            return line.strip()
        if not line:
            raise CorralError("A client name is needed: give one with --name")
        output.warn("Invalid input, try again.\n")


def _read_certificate(path: str) -> str:
    """The base64 text of a certificate in PEM. Raises CorralError."""
    import binascii
    import ssl

    name = "/dev/stdin" if path == "-" else path
    with open(name, encoding="ascii", errors="replace") as file:
        content = file.read()
    try:
        der = ssl.PEM_cert_to_DER_cert(content[content.index("-----BEGIN") :])
    except ValueError as error:
        raise CorralError(f"Invalid certificate file: {path} holds no certificate in PEM") from error
    return binascii.b2a_base64(der, newline=False).decode()


def encode_token(operation: dict[str, Any]) -> str:
    """The token that the operation of a certificate token stands for. Raises CorralError for another operation."""
    import binascii

    metadata = operation.get("metadata") or {}
    request = metadata.get("request") or {}
    try:
        token = {
            "client_name": request["name"],
            "fingerprint": metadata["fingerprint"],
            "addresses": metadata["addresses"],
            "secret": metadata["secret"],
            "expires_at": metadata.get("expiresAt") or "0001-01-01T00:00:00Z",
        }
    except (KeyError, TypeError) as error:
        message = f"Failed converting token operation to certificate add token: no {error} in it"
        raise CorralError(message) from error
    return binascii.b2a_base64(codec.encode(token).encode(), newline=False).decode()


def _tokens(server: Server) -> list[tuple[str, dict[str, Any]]]:
    """(Client name, operation) of the tokens that can still be used."""
    by_status = server.with_project("default").get("/operations", {"recursion": "1"}) or {}
    found = []
    for operations in by_status.values():
        for operation in operations or ():
            metadata = operation.get("metadata") or {}
            is_token = operation["class"] == "token" and operation["status_code"] == _RUNNING
            if is_token and "secret" in metadata and isinstance(metadata.get("request"), dict):
                found.append((str(metadata["request"].get("name", "")), operation))
    return found


def list_certificates(invocation: Invocation) -> int:
    """List the trusted clients."""
    from cryptography import x509
    from cryptography.x509.oid import NameOID

    from corral.cli.times import format_long_utc

    certificates = invocation.session.server(invocation.arg(0)).get("/certificates", {"recursion": "1"}) or []
    rows = []
    for entry in certificates:
        certificate = x509.load_pem_x509_certificate(entry["certificate"].encode())
        names = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
        common_name = str(names[0].value) if names else ""
        dates = [
            format_long_utc(moment.strftime("%Y-%m-%dT%H:%M:%SZ"))
            for moment in (certificate.not_valid_before_utc, certificate.not_valid_after_utc)
        ]
        rows.append([entry["type"], entry["name"], common_name, entry["fingerprint"][:12], *dates])
    table.sort_rows(rows)
    header = ["TYPE", "NAME", "COMMON NAME", "FINGERPRINT", "ISSUE DATE", "EXPIRY DATE"]
    table.show(invocation.text("format"), header, rows, [order(entry, CERTIFICATE) for entry in certificates])
    return 0


def list_tokens(invocation: Invocation) -> int:
    """List the tokens that can still be used."""
    from corral.cli.times import format_local, is_set

    rows = []
    for name, operation in _tokens(invocation.session.server(invocation.arg(0))):
        expiry = str(operation["metadata"].get("expiresAt") or "")
        rows.append([name, encode_token(operation), format_local(expiry) if is_set(expiry) else ""])
    table.sort_rows(rows)
    raw = [dict(zip(("ClientName", "Token", "ExpiresAt"), row, strict=True)) for row in rows]
    table.show(invocation.text("format"), ["NAME", "TOKEN", "EXPIRES AT"], rows, raw)
    return 0


def remove(invocation: Invocation) -> int:
    """Trust a client no longer."""
    resource = invocation.session.resource(invocation.args[0])
    fingerprint = invocation.arg(1, resource.name)
    resource.server.delete(f"/certificates/{escape(fingerprint)}")
    return 0


def revoke_token(invocation: Invocation) -> int:
    """Make a token useless."""
    resource = invocation.session.resource(invocation.args[0])
    for name, operation in _tokens(resource.server):
        if name == resource.name:
            resource.server.delete(f"/operations/{escape(operation['id'])}")
            invocation.session.say(f"Certificate add token for {name} deleted")
            return 0
    raise CorralError(f"No certificate add token for member {resource.name} on remote: {resource.remote}")


_ONE = "[<remote>:]<fingerprint>"

COMMAND = Command(
    "trust",
    "Manage trusted clients",
    commands=(
        Command(
            "add [<remote>:] [<cert>]",
            "Add new trusted client",
            add,
            (0, 2),
            long="""Add new trusted client

A certificate is of type client (the default) or metrics.

Without a certificate a token is made: the client that shows it has its own certificate trusted, once. Tokens and
certificates can be restricted to projects.""",
            flags=(
                switch("restricted", "Restrict the certificate to one or more projects"),
                text("projects", "List of projects to restrict the certificate to"),
                text("name", "Alternative certificate name"),
                text("type", "Type of certificate", default="client"),
            ),
        ),
        Command(f"edit {_ONE}", "Edit trust configurations as YAML", bind(keyed.edit, KIND), (1, 1)),
        Command(
            "list [<remote>:]", "List trusted clients", list_certificates, (0, 1), aliases=("ls",), flags=(FORMAT,)
        ),
        Command(
            "list-tokens [<remote>:]", "List all active certificate add tokens", list_tokens, (0, 1), flags=(FORMAT,)
        ),
        Command(f"remove {_ONE}", "Remove trusted client", remove, (1, 2), aliases=("rm",)),
        Command("revoke-token [<remote>:] <name>", "Revoke certificate add token", revoke_token, (1, 1)),
        Command(f"show {_ONE}", "Show trust configurations", bind(keyed.show, KIND), (1, 1)),
    ),
)
