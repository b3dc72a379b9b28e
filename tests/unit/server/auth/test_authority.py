"""What a certificate authority has signed and revoked."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from corral.errors import InternalError
from corral.server.auth.authority import Authority

NOW = datetime.now(UTC)


class _CA:
    def __init__(self, name: str = "ca") -> None:
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        self.certificate = self.sign(self.name, self.key, is_ca=True)

    def sign(self, name: x509.Name, key: ec.EllipticCurvePrivateKey, *, is_ca: bool = False) -> x509.Certificate:
        return (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(self.name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(NOW - timedelta(days=1))
            .not_valid_after(NOW + timedelta(days=1))
            .add_extension(x509.BasicConstraints(ca=is_ca, path_length=None), critical=True)
            .sign(self.key, hashes.SHA256())
        )

    def client(self) -> x509.Certificate:
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "client")])
        return self.sign(name, ec.generate_private_key(ec.SECP256R1()))

    def revoke(self, *gone: x509.Certificate) -> bytes:
        builder = x509.CertificateRevocationListBuilder().issuer_name(self.name)
        builder = builder.last_update(NOW).next_update(NOW + timedelta(days=1))
        for one in gone:
            entry = x509.RevokedCertificateBuilder().serial_number(one.serial_number).revocation_date(NOW).build()
            builder = builder.add_revoked_certificate(entry)
        return builder.sign(self.key, hashes.SHA256()).public_bytes(Encoding.PEM)


def _der(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(Encoding.DER)


def test_without_a_ca_nothing_is_signed(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    assert not authority.load()
    assert not authority.is_signed(_der(_CA().client()))


def test_signed_and_revoked(tmp_path: Path) -> None:
    ca, other = _CA(), _CA()
    good, bad, foreign = ca.client(), ca.client(), other.client()
    (tmp_path / "server.ca").write_bytes(ca.certificate.public_bytes(Encoding.PEM))
    authority = Authority(tmp_path)
    assert authority.load()
    assert [authority.is_signed(_der(one)) for one in (good, bad, foreign)] == [True, True, False]
    assert not authority.is_signed(b"nonsense")
    assert not authority.is_revoked(_der(bad))
    (tmp_path / "ca.crl").write_bytes(ca.revoke(bad))
    assert authority.load()
    assert [authority.is_revoked(_der(one)) for one in (good, bad, foreign)] == [False, True, False]


def test_damaged_files_are_reported(tmp_path: Path) -> None:
    ca = _CA()
    (tmp_path / "server.ca").write_bytes(ca.certificate.public_bytes(Encoding.PEM))
    (tmp_path / "ca.crl").write_bytes(_CA().revoke())
    with pytest.raises(InternalError, match="not signed by the CA"):
        Authority(tmp_path).load()
    (tmp_path / "server.ca").write_text("nonsense")
    with pytest.raises(InternalError, match=r"server\.ca"):
        Authority(tmp_path).load()
