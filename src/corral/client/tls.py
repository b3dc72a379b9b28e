"""HTTPS to remote servers: the client's certificate, the pinned certificates of servers, and the transport."""

from __future__ import annotations

import os
import socket
import ssl

from corral.client.connection import Connection, ConnectionLost
from corral.errors import CorralError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from corral.client.remotes import Remote, Remotes

DEFAULT_PORT = 8443
_CONNECT_TIMEOUT_S = 10.0
_VALIDITY_DAYS = 3650


class TlsTransport:
    """A TLS stream with the manners of a plain socket: what would block raises BlockingIOError."""

    def __init__(self, stream: ssl.SSLSocket) -> None:
        self._stream = stream

    def sendall(self, data: bytes | memoryview) -> None:
        """Send everything."""
        self._stream.sendall(data)

    def send(self, data: memoryview) -> int:
        """Send something."""
        try:
            return self._stream.send(data)
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError) as error:
            raise BlockingIOError from error

    def recv(self, size: int) -> bytes:
        """Receive something; nothing at the end."""
        try:
            return self._stream.recv(size)
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError) as error:
            raise BlockingIOError from error
        except ssl.SSLEOFError:
            return b""

    def pending(self) -> int:
        """How much was received and decrypted already."""
        return self._stream.pending()

    def fileno(self) -> int:
        """The descriptor to poll."""
        return self._stream.fileno()

    def settimeout(self, timeout: float | None) -> None:
        """How long a call may block."""
        self._stream.settimeout(timeout)

    def close(self) -> None:
        """Close the stream."""
        self._stream.close()


def split_address(url: str) -> tuple[str, int]:
    """(Host, port) of `https://host[:port]`."""
    rest = url.removeprefix("https://").partition("/")[0]
    if rest.startswith("["):
        host, _, tail = rest[1:].partition("]")
        port = tail.removeprefix(":")
    else:
        host, _, port = rest.partition(":")
    if port and not port.isdecimal():
        raise CorralError(f'Invalid port in "{url}"')
    return host, int(port) if port else DEFAULT_PORT


def https_connection(remotes: Remotes, name: str, remote: Remote) -> Connection:
    """A connection to an HTTPS remote, with the client's certificate and the server's pinned one."""
    pinned = _read_certificate(remotes.server_certificate_name(name))
    certificate, key = client_certificate_names(remotes.directory)
    has_certificate = os.path.exists(certificate) and os.path.exists(key)
    if not has_certificate and not remote.public:
        raise CorralError("Missing TLS client certificate and key")

    def connect() -> TlsTransport:
        context = _context(is_pinned=pinned is not None)
        if has_certificate:
            context.load_cert_chain(certificate, key)
        host, _ = split_address(remote.addr)
        stream = _connect(remote.addr, context, host)
        if pinned is not None and stream.getpeercert(binary_form=True) != pinned:
            stream.close()
            raise ConnectionLost(
                f'The server of the remote "{name}" shows another certificate than the one it was added with\n'
                f"If that is right, remove and add the remote again"
            )
        return TlsTransport(stream)

    return Connection(connect, remote.addr.removeprefix("https://").partition("/")[0], remotes.user_agent)


def _context(*, is_pinned: bool) -> ssl.SSLContext:
    context = ssl.create_default_context()
    if is_pinned:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


def _connect(url: str, context: ssl.SSLContext, host: str) -> ssl.SSLSocket:
    address = split_address(url)
    try:
        plain = socket.create_connection(address, _CONNECT_TIMEOUT_S)
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        stream = context.wrap_socket(plain, server_hostname=host)
    except ssl.SSLCertVerificationError as error:
        raise ConnectionLost(f"{url}: the server's certificate is not trusted: {error.verify_message}") from error
    except OSError as error:
        raise ConnectionLost(f"{url}: {error.strerror or error}") from error
    stream.settimeout(None)
    return stream


def fetch_server_certificate(url: str) -> bytes:
    """The certificate (DER) that a server shows, whoever it is. Raises ConnectionLost."""
    host, _ = split_address(url)
    with _connect(url, _context(is_pinned=True), host) as stream:
        certificate = stream.getpeercert(binary_form=True)
    if certificate is None:
        raise ConnectionLost(f"{url}: the server shows no certificate")
    return certificate


def is_trusted_by_system(url: str) -> bool:
    """Whether the server's certificate is one that the system's authorities vouch for."""
    host, _ = split_address(url)
    try:
        _connect(url, _context(is_pinned=False), host).close()
    except ConnectionLost:
        return False
    return True


def fingerprint(certificate: bytes) -> str:
    """The SHA-256 sum of a certificate in DER."""
    from hashlib import sha256

    return sha256(certificate).hexdigest()


def _read_certificate(path: str) -> bytes | None:
    try:
        with open(path, encoding="ascii") as file:
            return ssl.PEM_cert_to_DER_cert(file.read())
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise CorralError(f"Cannot read the server certificate {path}: {error}") from error


def pin_server_certificate(path: str, certificate: bytes) -> None:
    """Remember a server's certificate."""
    os.makedirs(os.path.dirname(path), 0o750, exist_ok=True)
    with open(path, "w", encoding="ascii") as file:
        file.write(ssl.DER_cert_to_PEM_cert(certificate))


def client_certificate_names(directory: str) -> tuple[str, str]:
    """(Certificate, key) files of the client."""
    return f"{directory}/client.crt", f"{directory}/client.key"


def has_client_certificate(directory: str) -> bool:
    """Whether the client has a certificate with its key."""
    return all(os.path.exists(name) for name in client_certificate_names(directory))


def generate_client_certificate(directory: str, title: str) -> None:
    """Make the client's key and its self-signed certificate, valid for ten years."""
    import datetime

    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

    key = ec.generate_private_key(ec.SECP384R1())
    user = os.environ.get("USER") or str(os.getuid())
    attributes = [
        x509.NameAttribute(NameOID.ORGANIZATION_NAME, title),
        x509.NameAttribute(NameOID.COMMON_NAME, f"{user}@{socket.gethostname()}"[:64]),
    ]
    name = x509.Name(attributes)
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now)
        .not_valid_after(now + datetime.timedelta(days=_VALIDITY_DAYS))
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False)
        .sign(key, hashes.SHA384())
    )
    certificate_name, key_name = client_certificate_names(directory)
    os.makedirs(directory, 0o750, exist_ok=True)
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption()
    )
    descriptor = os.open(key_name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with open(descriptor, "wb") as file:
        file.write(private)
    with open(certificate_name, "wb") as file:
        file.write(certificate.public_bytes(serialization.Encoding.PEM))
