"""The certificate authority of a PKI: server.ca and ca.crl in the state directory, read again when they change."""

import logging
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from corral.errors import InternalError

if TYPE_CHECKING:
    from cryptography import x509

log = logging.getLogger(__name__)

Stamp = tuple[int, int] | None
"""Time of change and size of a file; None where it is not there."""


class Authority:
    """Says which certificates a CA has signed and which of those it has revoked. Without server.ca it is not in use."""

    def __init__(self, state_dir: Path) -> None:
        self._ca_path, self._crl_path = state_dir / "server.ca", state_dir / "ca.crl"
        self._stamps: tuple[Stamp, Stamp] = (None, None)
        self._ca: x509.Certificate | None = None
        self._revoked: frozenset[int] = frozenset()
        self._signed = lru_cache(maxsize=1024)(self._verify)

    def load(self) -> bool:
        """Read the files where they changed, and say whether there is a CA. Raises InternalError for damaged ones."""
        stamps = (_stamp(self._ca_path), _stamp(self._crl_path))
        if stamps != self._stamps:
            self._read(stamps)
            self._stamps = stamps
        return self._ca is not None

    def _read(self, stamps: tuple[Stamp, Stamp]) -> None:
        from cryptography import x509

        ca, revoked = None, frozenset[int]()
        try:
            if stamps[0] is not None:
                ca = x509.load_pem_x509_certificate(self._ca_path.read_bytes())
            if ca is not None and stamps[1] is not None:
                crl = x509.load_pem_x509_crl(self._crl_path.read_bytes())
                if not crl.is_signature_valid(ca.public_key()):  # type: ignore[arg-type]
                    raise ValueError("the revocation list is not signed by the CA")
                revoked = frozenset(entry.serial_number for entry in crl)
        except (ValueError, OSError) as error:
            raise InternalError(f"Failed to load {self._ca_path} and {self._crl_path}: {error}") from error
        self._ca, self._revoked = ca, revoked
        self._signed.cache_clear()

    def is_signed(self, der: bytes) -> bool:
        """Whether the CA has signed a certificate."""
        return self._signed(der) is not None

    def is_revoked(self, der: bytes) -> bool:
        """Whether the CA has revoked a certificate of its own."""
        serial = self._signed(der)
        return serial is not None and serial in self._revoked

    def _verify(self, der: bytes) -> int | None:
        """The serial number of a certificate that the CA has signed, else None."""
        from cryptography import x509
        from cryptography.exceptions import InvalidSignature

        if self._ca is None:
            return None
        try:
            certificate = x509.load_der_x509_certificate(der)
            certificate.verify_directly_issued_by(self._ca)
        except (ValueError, TypeError, InvalidSignature):
            return None
        return certificate.serial_number


def _stamp(path: Path) -> Stamp:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size
