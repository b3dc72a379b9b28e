"""Wire form of trusted certificates."""

import msgspec


class CertificatePut(msgspec.Struct, kw_only=True):
    """What may be changed of a certificate; `certificate` is PEM."""

    name: str = ""
    type: str = ""
    restricted: bool = False
    projects: list[str] = []
    certificate: str = ""


class CertificatesPost(msgspec.Struct, kw_only=True):
    """A certificate to trust: base64 DER in `certificate`, else that of the TLS connection, or a wish for a token."""

    name: str = ""
    type: str = ""
    restricted: bool = False
    projects: list[str] = []
    certificate: str = ""
    password: str = ""
    token: bool = False


class Certificate(msgspec.Struct, kw_only=True):
    """A trusted certificate."""

    name: str
    type: str
    restricted: bool
    projects: list[str]
    certificate: str
    fingerprint: str
