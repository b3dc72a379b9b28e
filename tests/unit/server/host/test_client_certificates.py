"""The switch that lets a TLS server see unknown client certificates."""

import ssl
from pathlib import Path

import pytest

from corral.errors import NotSupported
from corral.server.auth.server_certificate import make_key_pair
from corral.server.host import client_certificates


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path]:
    certificate, key = make_key_pair("test")
    paths = tmp_path / "c.pem", tmp_path / "k.pem"
    paths[0].write_bytes(certificate)
    paths[1].write_bytes(key)
    return paths


def server_context(pair: tuple[Path, Path]) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*pair)
    return context


def test_the_certificate_is_seen(pair: tuple[Path, Path]) -> None:
    for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
        context = server_context(pair)
        context.minimum_version = context.maximum_version = version
        client_certificates.request_client_certificates(context)
        client_certificates.prove(context, *pair)


@pytest.mark.parametrize("mode", [ssl.CERT_NONE, ssl.CERT_OPTIONAL])
def test_the_proof_fails_without_the_switch(pair: tuple[Path, Path], mode: ssl.VerifyMode) -> None:
    context = server_context(pair)
    context.verify_mode = mode
    with pytest.raises(NotSupported, match="HTTPS is not available"):
        client_certificates.prove(context, *pair)


def test_a_wrong_pointer_is_not_touched(pair: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    context = server_context(pair)
    monkeypatch.setattr(client_certificates, "_is_writable_memory", lambda address: False)
    with pytest.raises(NotSupported, match="unknown layout"):
        client_certificates.request_client_certificates(context)
    assert context.verify_mode == ssl.CERT_NONE


def test_another_openssl_is_refused(pair: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    client_certificates._libssl.cache_clear()
    monkeypatch.setattr(ssl, "OPENSSL_VERSION_NUMBER", 1)
    with pytest.raises(NotSupported, match="another OpenSSL"):
        client_certificates.request_client_certificates(server_context(pair))
    client_certificates._libssl.cache_clear()
