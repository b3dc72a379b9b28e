"""The certificate that a client showed in the TLS handshake, and what can be read from it."""

import ssl
from dataclasses import dataclass
from typing import Any

from corral.server.auth import pem


@dataclass(frozen=True, slots=True)
class PeerCertificate:
    """A client certificate whose key the client has. Times are seconds since 1970."""

    der: bytes
    fingerprint: str
    common_name: str
    not_before: float
    not_after: float

    def is_valid_at(self, moment: float) -> bool:
        """Whether the certificate's dates include a moment."""
        return self.not_before <= moment <= self.not_after


def find_peer_certificate(connection: Any) -> PeerCertificate | None:
    """The peer's certificate on an SSLObject or SSLSocket, or None; one that cannot be read counts as none."""
    try:
        der = connection.getpeercert(True)
        details = connection.getpeercert() if der else None
        if not der or not details:
            return None
        return PeerCertificate(
            der,
            pem.fingerprint_of(der),
            _common_name(details),
            ssl.cert_time_to_seconds(details["notBefore"]),
            ssl.cert_time_to_seconds(details["notAfter"]),
        )
    except (ValueError, KeyError, ssl.SSLError):
        return None


def _common_name(details: dict[str, Any]) -> str:
    for part in details.get("subject", ()):
        for name, value in part:
            if name == "commonName":
                return str(value)
    return ""
