"""The server's own key pair: made at the first start, kept as server.crt and server.key in the state directory."""

import ipaddress
import os
import socket
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from corral.errors import InternalError, InvalidRequest
from corral.server.auth import pem
from corral.server.context import Member
from corral.server.events.model import utc_now

LIFE = timedelta(days=3650)


@dataclass(frozen=True, slots=True)
class ServerCertificate:
    """The certificate by which clients know the server."""

    certificate_path: Path
    key_path: Path
    pem: str
    fingerprint: str


def ensure_server_certificate(member: Member) -> ServerCertificate:
    """The server's certificate, made if it is not there. Raises InternalError where the files are damaged."""
    certificate_path, key_path = member.state_dir / "server.crt", member.state_dir / "server.key"
    if not (certificate_path.exists() and key_path.exists()):
        certificate, key = make_key_pair(member.product.name)
        _write(key_path, key, 0o600)
        _write(certificate_path, certificate, 0o644)
    text = certificate_path.read_text()
    try:
        fingerprint = pem.fingerprint_of(pem.to_der(text))
    except InvalidRequest as error:
        raise InternalError(f"The server's certificate {certificate_path} is damaged: {error}") from error
    return ServerCertificate(certificate_path, key_path, text, fingerprint)


def _write(path: Path, data: bytes, mode: int) -> None:
    # Written beside and renamed: a crash never leaves half a key under the name.
    beside = path.with_name(path.name + ".new")
    descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, mode)
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    os.replace(beside, path)


def make_key_pair(organization: str) -> tuple[bytes, bytes]:
    """A self-signed server certificate and its key (ECDSA P-384, ten years), both PEM."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

    host = socket.gethostname()
    key = ec.generate_private_key(ec.SECP384R1())
    name = x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, organization),
            x509.NameAttribute(NameOID.COMMON_NAME, f"root@{host}"[:64]),
        ]
    )
    now = utc_now()
    usage = x509.KeyUsage(
        digital_signature=True,
        key_encipherment=True,
        content_commitment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=False,
        crl_sign=False,
        encipher_only=False,
        decipher_only=False,
    )
    names: list[x509.GeneralName] = [
        x509.IPAddress(ipaddress.ip_address("127.0.0.1")),
        x509.IPAddress(ipaddress.ip_address("::1")),
    ]
    if host.isascii() and host:
        names.insert(0, x509.DNSName(host))
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now)
        .not_valid_after(now + LIFE)
        .add_extension(usage, critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .sign(key, hashes.SHA384())
    )
    return (
        certificate.public_bytes(serialization.Encoding.PEM),
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.TraditionalOpenSSL,
            serialization.NoEncryption(),
        ),
    )
