"""The trust store: certificates of clients that may use the API. SQL and checks of their material."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from corral.errors import Conflict, InvalidRequest, NotFound
from corral.server.auth import pem
from corral.server.db import rows
from corral.server.db.database import Tx

KINDS = {"client": 1, "server": 2, "metrics": 3}
"""Types of certificates and how the database calls them."""

_NAMES = {number: name for name, number in KINDS.items()}
MIN_RSA_BITS = 2048


@dataclass(frozen=True, slots=True)
class Certificate:
    """A trusted certificate. `projects` matters where it is restricted."""

    id: int
    fingerprint: str
    kind: str
    name: str
    pem: str
    restricted: bool = False
    projects: tuple[str, ...] = ()


def check_kind(kind: str) -> None:
    """Raise InvalidRequest for an unknown type."""
    if kind not in KINDS:
        raise InvalidRequest(f'Unknown certificate type "{kind}"')


def check_material(der: bytes, now: datetime) -> str:
    """The common name of a certificate that may be trusted; raises InvalidRequest for an unfit one."""
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric import rsa
    from cryptography.x509.oid import NameOID

    try:
        certificate = x509.load_der_x509_certificate(der)
        key = certificate.public_key()
        names = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    except Exception as error:
        # The parser raises many types, some of them from its native code; all say that the bytes are unfit.
        raise InvalidRequest(f"Invalid certificate material: {error}") from error
    if now < certificate.not_valid_before_utc:
        raise InvalidRequest("The provided certificate isn't valid yet")
    if now > certificate.not_valid_after_utc:
        raise InvalidRequest("The provided certificate is expired")
    if isinstance(key, rsa.RSAPublicKey) and key.key_size < MIN_RSA_BITS:
        raise InvalidRequest("RSA key is too weak (minimum of 2048bit)")
    return str(names[0].value) if names else ""


def _load(tx: Tx, where: str, *values: str) -> list[Certificate]:
    found = tx.rows(
        "SELECT id, fingerprint, type, name, certificate, restricted FROM certificates"
        f" WHERE {where} ORDER BY name, id",
        *values,
    )
    projects: dict[int, list[str]] = {}
    if any(row["restricted"] for row in found):
        for certificate, project in tx.rows(
            "SELECT certificate_id, projects.name FROM certificates_projects"
            " JOIN projects ON projects.id = project_id ORDER BY projects.name"
        ):
            projects.setdefault(certificate, []).append(project)
    return [
        Certificate(
            row["id"],
            row["fingerprint"],
            _NAMES.get(row["type"], "client"),
            row["name"],
            row["certificate"],
            bool(row["restricted"]),
            tuple(projects.get(row["id"], [])),
        )
        for row in found
    ]


def find_certificate(tx: Tx, fingerprint: str) -> Certificate | None:
    """The certificate with exactly this fingerprint, or None."""
    found = _load(tx, "fingerprint = ?", fingerprint)
    return found[0] if found else None


def get_certificate(tx: Tx, prefix: str) -> Certificate:
    """The certificate whose fingerprint starts so; NotFound, or InvalidRequest where several do."""
    if not prefix or not prefix.isalnum():
        raise NotFound("Certificate not found")
    found = _load(tx, "fingerprint LIKE ? || '%'", prefix)
    if not found:
        raise NotFound("Certificate not found")
    if len(found) > 1:
        raise InvalidRequest("More than one certificate matches")
    return found[0]


def list_certificates(tx: Tx) -> list[Certificate]:
    """All trusted certificates by name."""
    return _load(tx, "1 = 1")


def insert_certificate(tx: Tx, der: bytes, kind: str, name: str, projects: Sequence[str] | None) -> Certificate:
    """Trust a certificate; `projects` restricts it to some, None does not. Raises Conflict where it is trusted."""
    fingerprint = pem.fingerprint_of(der)
    if find_certificate(tx, fingerprint) is not None:
        raise Conflict("Certificate already in trust store")
    certificate = tx.execute(
        "INSERT INTO certificates (fingerprint, type, name, certificate, restricted) VALUES (?, ?, ?, ?, ?)",
        fingerprint,
        KINDS[kind],
        name,
        pem.from_der(der),
        projects is not None,
    )
    _write_projects(tx, certificate, projects or ())
    return get_certificate(tx, fingerprint)


def update_certificate(tx: Tx, before: Certificate, after: Certificate) -> None:
    """Replace what is known of a certificate, or the certificate itself."""
    if after.fingerprint != before.fingerprint and find_certificate(tx, after.fingerprint) is not None:
        raise Conflict("Certificate already in trust store")
    tx.execute(
        "UPDATE certificates SET fingerprint = ?, type = ?, name = ?, certificate = ?, restricted = ? WHERE id = ?",
        after.fingerprint,
        KINDS[after.kind],
        after.name,
        after.pem,
        after.restricted,
        before.id,
    )
    _write_projects(tx, before.id, after.projects)


def with_material(certificate: Certificate, der: bytes) -> Certificate:
    """The same entry with another certificate in it."""
    return replace(certificate, fingerprint=pem.fingerprint_of(der), pem=pem.from_der(der))


def delete_certificate(tx: Tx, prefix: str) -> Certificate:
    """Trust a certificate no more; returns what it was."""
    certificate = get_certificate(tx, prefix)
    tx.execute("DELETE FROM certificates WHERE id = ?", certificate.id)
    return certificate


def _write_projects(tx: Tx, certificate: int, projects: Sequence[str]) -> None:
    tx.execute("DELETE FROM certificates_projects WHERE certificate_id = ?", certificate)
    found = tx.rows(f"SELECT name, id FROM projects WHERE name IN ({rows.marks(projects)})", *projects)
    known = {row["name"]: row["id"] for row in found}
    for project in dict.fromkeys(projects):
        if project not in known:
            raise NotFound(f'Project "{project}" not found')
        tx.execute(
            "INSERT INTO certificates_projects (certificate_id, project_id) VALUES (?, ?)", certificate, known[project]
        )
