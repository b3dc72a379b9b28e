"""/1.0/certificates: the trust store."""

import logging
from typing import Any

import msgspec

from corral import units
from corral.api import certificates as wire
from corral.api.urls import url
from corral.errors import Forbidden, InvalidRequest, NotFound
from corral.server.auth import certificates, password, pem, tokens
from corral.server.auth.certificates import Certificate
from corral.server.auth.guesses import Guesses
from corral.server.auth.server_certificate import ServerCertificate
from corral.server.auth.sessions import Sessions
from corral.server.events.model import Lifecycle, utc_now
from corral.server.host.threads import in_thread
from corral.server.operations.model import Operation
from corral.server.operations.registry import Operations
from corral.server.rest.request import Request
from corral.server.rest.responses import Created, Listing
from corral.server.rest.routing import Access, Routes
from corral.server.settings import environment, keys
from corral.server.settings.settings import Settings

log = logging.getLogger(__name__)

routes = Routes("/1.0/certificates")


def _to_wire(certificate: Certificate) -> wire.Certificate:
    return wire.Certificate(
        name=certificate.name,
        type=certificate.kind,
        restricted=certificate.restricted,
        projects=list(certificate.projects),
        certificate=certificate.pem,
        fingerprint=certificate.fingerprint,
    )


def _publish(request: Request, action: str, fingerprint: str) -> None:
    request.context.events.publish(Lifecycle(f"certificate-{action}", url("/1.0/certificates", fingerprint)))


def _is_visible(request: Request, certificate: Certificate) -> bool:
    """Entries name projects: who is no administrator sees its own only."""
    return request.caller.admin or certificate.fingerprint == request.caller.username


@routes.get("")
async def list_certificates(request: Request) -> Listing[wire.Certificate]:
    """List the trusted certificates."""
    found = [one for one in await request.db.read(certificates.list_certificates) if _is_visible(request, one)]
    return Listing([_to_wire(one) for one in found], lambda one: url("/1.0/certificates", one.fingerprint))


@routes.post("", access=Access.ANYONE)
async def add_certificate(request: Request, body: wire.CertificatesPost) -> Created | Operation:
    """Trust a certificate, or issue a token by which a client becomes trusted later.

    A stranger needs the trust password or a token, and can only add the certificate of its own connection.
    """
    if body.token and body.certificate:
        raise InvalidRequest("Can't use certificate if token is requested")
    if body.token:
        _check_token_wanted(request, body)
    if request.caller.trusted and not body.certificate and not body.token:
        raise InvalidRequest("Client is already trusted")
    if not request.caller.admin:
        body = await _admit(request, body)
    certificates.check_kind(body.type)
    if body.token:
        return _issue_token(request, body)
    der = _material(request, body)
    common_name = await in_thread(certificates.check_material, der, utc_now())
    name = body.name or common_name or request.caller.address.rpartition(":")[0].strip("[]")
    projects = body.projects if body.restricted else None
    added = await request.db.write(certificates.insert_certificate, der, body.type, name, projects)
    _publish(request, "created", added.fingerprint)
    return Created(url("/1.0/certificates", added.fingerprint), None)


def _check_token_wanted(request: Request, body: wire.CertificatesPost) -> None:
    if body.type != "client":
        raise InvalidRequest("Tokens can only be issued for client certificates")
    if not request.context.parts[Settings].config[keys.HTTPS_ADDRESS]:
        raise InvalidRequest("Can't issue token when server isn't listening on network")


async def _admit(request: Request, body: wire.CertificatesPost) -> wire.CertificatesPost:
    """What a caller who is no administrator may add: by token what the token says, by password a client."""
    if body.token or not body.password:
        raise Forbidden("not authorized")
    guesses = request.context.parts[Guesses]
    address = request.caller.address.rpartition(":")[0]
    guesses.check(address)
    token = tokens.parse_token(body.password)
    if token is not None:
        try:
            allowed = tokens.redeem(request.context.parts[Operations], token)
        except Forbidden:
            guesses.add(address)
            log.warning("Wrong certificate add token from %s", request.caller.address)
            raise
        return msgspec.convert({**allowed, "token": False, "password": ""}, wire.CertificatesPost)
    stored = request.context.parts[Settings].config.get(keys.TRUST_PASSWORD.name, "")
    async with request.context.locks.hold("trust password"):
        # Those that waited here came before the others were counted.
        guesses.check(address)
        right = bool(stored) and await in_thread(password.matches, stored, body.password)
        if not right:
            guesses.add(address)
    if not right:
        log.warning("Bad trust password from %s", request.caller.address)
        raise Forbidden("not authorized")
    if body.type == "server":
        raise Forbidden("Only an administrator can add the certificate of a server")
    return body


def _issue_token(request: Request, body: wire.CertificatesPost) -> Operation:
    config = request.context.parts[Settings].config
    life = config[keys.REMOTE_TOKEN_EXPIRY]
    return tokens.issue(
        request.context.parts[Operations],
        request.context.parts[ServerCertificate].fingerprint,
        environment.list_addresses(config[keys.HTTPS_ADDRESS] or ""),
        msgspec.to_builtins(body),
        units.add_expiry(utc_now(), life) if life else None,
    )


def _material(request: Request, body: wire.CertificatesPost) -> bytes:
    if body.certificate:
        return pem.from_base64(body.certificate)
    if request.caller.protocol == "unix":
        raise InvalidRequest("Can't use TLS data on non-TLS link")
    if request.caller.certificate is None:
        raise InvalidRequest("No client certificate provided")
    return request.caller.certificate.der


@routes.get("/{fingerprint}", put=wire.CertificatePut)
async def get_certificate(request: Request, fingerprint: str) -> wire.Certificate:
    """Get a trusted certificate by the start of its fingerprint."""
    found = await request.db.read(certificates.get_certificate, fingerprint)
    if not _is_visible(request, found):
        raise NotFound("Certificate not found")
    return _to_wire(found)


@routes.put("/{fingerprint}")
async def update_certificate(request: Request, fingerprint: str, body: wire.CertificatePut) -> None:
    """Change a certificate's entry; who is no administrator may only replace its own certificate."""
    before = await request.db.read(certificates.get_certificate, fingerprint)
    certificates.check_kind(body.type)
    after = Certificate(
        before.id,
        before.fingerprint,
        body.type,
        body.name,
        before.pem,
        body.restricted,
        tuple(body.projects) if body.restricted else (),
    )
    if not request.caller.admin:
        _check_own(request, before, after)
    if body.certificate and body.certificate.strip() != before.pem.strip():
        der = pem.to_der(body.certificate)
        await in_thread(certificates.check_material, der, utc_now())
        after = certificates.with_material(after, der)
    await request.db.write(certificates.update_certificate, before, after)
    if _rights(before) != _rights(after):
        _end_sessions(request, before.fingerprint)
    _publish(request, "updated", after.fingerprint)


def _end_sessions(request: Request, fingerprint: str) -> None:
    """End what a certificate opened, but for the connection that asks, and what others opened with its secrets."""
    request.context.parts[Operations].end_sessions_of(fingerprint)
    request.context.parts[Sessions].end(fingerprint, besides=request.raw.transport)


def _rights(certificate: Certificate) -> tuple[Any, ...]:
    return certificate.fingerprint, certificate.kind, certificate.restricted, certificate.projects


def _check_own(request: Request, before: Certificate, after: Certificate) -> None:
    def fields(one: Certificate) -> tuple[Any, ...]:
        return one.kind, one.name, one.restricted, one.projects

    if fields(before) != fields(after):
        raise Forbidden("Only the certificate can be changed")
    shown = request.caller.certificate
    if shown is None or shown.fingerprint != before.fingerprint:
        raise Forbidden("Certificate cannot be changed")


@routes.delete("/{fingerprint}", access=Access.ADMIN)
async def delete_certificate(request: Request, fingerprint: str) -> None:
    """Trust a certificate no more."""
    gone = await request.db.write(certificates.delete_certificate, fingerprint)
    _end_sessions(request, gone.fingerprint)
    _publish(request, "deleted", gone.fingerprint)
