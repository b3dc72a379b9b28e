"""Certificates as text and bytes: PEM, DER and fingerprints, without a cryptographic library."""

import base64
import binascii
import hashlib
import ssl

from corral.errors import InvalidRequest


def fingerprint_of(der: bytes) -> str:
    """SHA-256 of a certificate in hexadecimal: its name in the trust store."""
    return hashlib.sha256(der).hexdigest()


def to_der(pem: str) -> bytes:
    """The first certificate of a PEM text; raises InvalidRequest."""
    start = pem.find("-----BEGIN CERTIFICATE-----")
    end = pem.find("-----END CERTIFICATE-----", start)
    if start < 0 or end < 0:
        raise InvalidRequest("Invalid certificate material: no PEM certificate")
    try:
        return ssl.PEM_cert_to_DER_cert(pem[start : end + len("-----END CERTIFICATE-----")])
    except (ValueError, binascii.Error) as error:
        raise InvalidRequest(f"Invalid certificate material: {error}") from error


def from_der(der: bytes) -> str:
    """A certificate as PEM text with a final newline."""
    return ssl.DER_cert_to_PEM_cert(der)


def from_base64(text: str) -> bytes:
    """DER bytes from plain base64, in one line or several; raises InvalidRequest."""
    try:
        return base64.b64decode(text.replace("\n", "").replace("\r", ""), validate=True)
    except (ValueError, binascii.Error) as error:
        raise InvalidRequest(f"Invalid certificate data: {error}") from error
