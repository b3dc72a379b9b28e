"""The HTTPS listener, callers by certificate, the trust store and restricted clients, over real sockets."""

import asyncio
import base64
import json
import socket
import ssl
from collections.abc import Callable
from pathlib import Path

import pytest

from corral.errors import InvalidRequest
from corral.server.auth import certificates, pem
from corral.server.auth.guesses import ALLOWED
from corral.server.rest import network

from .conftest import Answer, Server

Make = Callable[[str], Path]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


async def listen(server: Server, **config: str) -> int:
    port = free_port()
    answer = await server.ask("PATCH", "/1.0", {"config": {"core.https_address": f"127.0.0.1:{port}", **config}})
    assert answer.status == 200, answer.error
    return port


def fingerprint_of(path: Path) -> str:
    return pem.fingerprint_of(pem.to_der(path.read_text()))


async def trust(server: Server, path: Path, **more: object) -> str:
    der = base64.b64encode(pem.to_der(path.read_text())).decode()
    answer = await server.ask("POST", "/1.0/certificates", {"type": "client", "certificate": der, **more})
    assert answer.status == 201, answer.error
    return fingerprint_of(path)


async def test_a_stranger_sees_only_what_it_needs(server: Server, client_certificate: Make) -> None:
    port = await listen(server)
    for certificate in (None, client_certificate("stranger")):
        answer = await server.ask_tls(port, "GET", "/1.0", cert=certificate)
        assert answer.metadata["auth"] == "untrusted"
        assert set(answer.metadata) == {
            "api_extensions",
            "api_status",
            "api_version",
            "auth",
            "auth_methods",
            "public",
        }
        for path in ("/1.0/profiles", "/1.0/certificates", "/1.0/operations", "/internal/ready"):
            assert (await server.ask_tls(port, "GET", path, cert=certificate)).status == 403
        assert (await server.ask_tls(port, "PUT", "/1.0", {"config": {}}, cert=certificate)).status == 403


async def test_trust_by_password(server: Server, client_certificate: Make) -> None:
    port = await listen(server, **{"core.trust_password": "right"})
    certificate = client_certificate("client")
    wrong = {"type": "client", "password": "wrong"}
    right = {"type": "client", "password": "right"}
    assert (await server.ask_tls(port, "POST", "/1.0/certificates", wrong, cert=certificate)).status == 403
    assert (await server.ask_tls(port, "POST", "/1.0/certificates", {"type": "client"}, cert=certificate)).status == 403
    assert "No client certificate" in (await server.ask_tls(port, "POST", "/1.0/certificates", right)).error
    answer = await server.ask_tls(port, "POST", "/1.0/certificates", right, cert=certificate)
    assert (answer.status, answer.headers["location"]) == (201, f"/1.0/certificates/{fingerprint_of(certificate)}")
    shown = await server.ask_tls(port, "GET", "/1.0", cert=certificate)
    assert shown.metadata["auth"] == "trusted"
    assert shown.metadata["config"]["core.trust_password"] is True
    again = await server.ask_tls(port, "POST", "/1.0/certificates", right, cert=certificate)
    assert (again.status, again.error) == (400, "Client is already trusted")


async def test_without_a_password_none_is_right(server: Server, client_certificate: Make) -> None:
    port = await listen(server)
    body = {"type": "client", "password": "x"}
    answer = await server.ask_tls(port, "POST", "/1.0/certificates", body, cert=client_certificate("client"))
    assert answer.status == 403


async def test_guessing_is_stopped(server: Server, client_certificate: Make) -> None:
    port = await listen(server, **{"core.trust_password": "right"})
    certificate = client_certificate("guesser")

    async def guess(word: str) -> Answer:
        body = {"type": "client", "password": word}
        return await server.ask_tls(port, "POST", "/1.0/certificates", body, cert=certificate)

    for _ in range(ALLOWED):
        assert (await guess("wrong")).error == "not authorized"
    assert "too many" in (await guess("right")).error


def add_token(metadata: dict[str, object]) -> str:
    token = {"client_name": "t", **{name: metadata[name] for name in ("fingerprint", "addresses", "secret")}}
    return base64.b64encode(json.dumps(token).encode()).decode()


async def test_trust_by_token(server: Server, client_certificate: Make) -> None:
    port = await listen(server)
    await server.ask("POST", "/1.0/projects", {"name": "p"})
    body = {"type": "client", "name": "t", "token": True, "restricted": True, "projects": ["p"]}
    issued = await server.ask("POST", "/1.0/certificates", body)
    assert issued.status == 202
    assert issued.metadata["class"] == "token"
    assert issued.metadata["metadata"]["addresses"] == [f"127.0.0.1:{port}"]
    token = add_token(issued.metadata["metadata"])
    certificate = client_certificate("client")
    wish = {"type": "client", "password": token, "name": "other", "restricted": False}
    assert (await server.ask_tls(port, "POST", "/1.0/certificates", wish, cert=certificate)).status == 201
    entry = (await server.ask("GET", "/1.0/certificates?recursion=1")).metadata[0]
    assert (entry["name"], entry["restricted"], entry["projects"]) == ("t", True, ["p"])
    second = await server.ask_tls(port, "POST", "/1.0/certificates", wish, cert=client_certificate("second"))
    assert (second.status, second.error) == (403, "No matching certificate add operation found")


async def test_tokens_are_refused_where_they_make_no_sense(server: Server, client_certificate: Make) -> None:
    body = {"type": "client", "token": True}
    assert "isn't listening" in (await server.ask("POST", "/1.0/certificates", body)).error
    port = await listen(server)
    assert (
        "only be issued for client"
        in (await server.ask("POST", "/1.0/certificates", {"type": "metrics", "token": True})).error
    )
    assert (
        "Can't use certificate" in (await server.ask("POST", "/1.0/certificates", {**body, "certificate": "x"})).error
    )
    stranger = await server.ask_tls(port, "POST", "/1.0/certificates", body, cert=client_certificate("s"))
    assert stranger.status == 403


async def test_a_token_is_secret_and_ends(server: Server, client_certificate: Make) -> None:
    port = await listen(server, **{"core.remote_token_expiry": "1S"})
    certificate = client_certificate("restricted")
    await trust(server, certificate, restricted=True, projects=["default"])
    issued = await server.ask("POST", "/1.0/certificates", {"type": "client", "token": True})
    url = issued.body["operation"]
    assert "expiresAt" in issued.metadata["metadata"]
    assert (await server.ask_tls(port, "GET", url, cert=certificate)).status == 404
    assert (await server.ask_tls(port, "GET", "/1.0/operations?recursion=1", cert=certificate)).metadata == {}
    ended = await server.ask("GET", url + "/wait?timeout=5")
    assert (ended.metadata["status_code"], ended.metadata["err"]) == (400, "Token has expired")


async def test_restricted_clients(server: Server, client_certificate: Make) -> None:
    port = await listen(server)
    for name in ("mine", "other"):
        await server.ask("POST", "/1.0/projects", {"name": name})
    certificate = client_certificate("restricted")
    fingerprint = await trust(server, certificate, restricted=True, projects=["mine"])

    async def ask(method: str, path: str, body: object = None) -> Answer:
        return await server.ask_tls(port, method, path, body, cert=certificate)

    assert (await ask("GET", "/1.0")).metadata["config"] == {}
    assert (await ask("GET", "/1.0/projects")).metadata == ["/1.0/projects/mine"]
    assert (await ask("GET", "/1.0/projects/mine")).status == 200
    assert (await ask("GET", "/1.0/profiles?project=mine")).status == 200
    assert (await ask("POST", "/1.0/profiles?project=mine", {"name": "a"})).status == 201
    forbidden = [
        ("GET", "/1.0/projects/other"),
        ("GET", "/1.0/projects/other/state"),
        ("GET", "/1.0/profiles"),
        ("GET", "/1.0/profiles?project=other"),
        ("GET", "/1.0/profiles?all-projects=true"),
        ("GET", "/1.0/instances/c1?all-projects=true"),
        ("POST", "/1.0/instances?all-projects=true"),
        ("GET", "/1.0/instances?project=other"),
        ("GET", "/1.0/events?project=other"),
        ("POST", "/1.0/profiles?project=other"),
        ("POST", "/1.0/projects"),
        ("POST", "/1.0/storage-pools"),
        ("PATCH", "/1.0"),
        ("GET", "/1.0/warnings"),
        ("DELETE", f"/1.0/certificates/{fingerprint}"),
    ]
    for method, path in forbidden:
        answer = await ask(method, path, {"name": "x"} if method != "GET" else None)
        assert (answer.status, answer.error) == (403, "not authorized"), path


async def test_what_a_project_shares_cannot_be_changed_by_a_restricted_client(
    server: Server, client_certificate: Make
) -> None:
    port = await listen(server)
    await server.ask("POST", "/1.0/projects", {"name": "mine", "config": {"features.profiles": "false"}})
    certificate = client_certificate("restricted")
    await trust(server, certificate, restricted=True, projects=["mine"])
    path = "/1.0/profiles/default?project=mine"
    assert (await server.ask_tls(port, "GET", path, cert=certificate)).status == 200
    answer = await server.ask_tls(port, "PATCH", path, {"description": "x"}, cert=certificate)
    assert answer.status == 403


async def test_trust_ends_with_the_entry(server: Server, client_certificate: Make) -> None:
    port = await listen(server)
    certificate = client_certificate("client")
    fingerprint = await trust(server, certificate)
    assert (await server.ask_tls(port, "GET", "/1.0/profiles", cert=certificate)).status == 200
    assert (await server.ask("DELETE", f"/1.0/certificates/{fingerprint[:12]}")).status == 200
    assert (await server.ask_tls(port, "GET", "/1.0/profiles", cert=certificate)).status == 403


async def test_metrics_certificates_open_nothing_else(server: Server, client_certificate: Make) -> None:
    port = await listen(server)
    certificate = client_certificate("metrics")
    await trust(server, certificate, type="metrics")
    assert (await server.ask_tls(port, "GET", "/1.0", cert=certificate)).metadata["auth"] == "untrusted"


async def test_a_client_replaces_its_own_certificate(server: Server, client_certificate: Make) -> None:
    port = await listen(server)
    await server.ask("POST", "/1.0/projects", {"name": "p"})
    old, new = client_certificate("old"), client_certificate("new")
    path = f"/1.0/certificates/{await trust(server, old, name='n', restricted=True, projects=['p'])}"
    entry = {"type": "client", "name": "n", "restricted": True, "projects": ["p"]}
    more = await server.ask_tls(port, "PUT", path, {**entry, "restricted": False, "projects": []}, cert=old)
    assert (more.status, more.error) == (403, "Only the certificate can be changed")
    stranger = client_certificate("stranger")
    await trust(server, stranger, restricted=True, projects=["p"])
    changed = {**entry, "certificate": new.read_text()}
    assert (await server.ask_tls(port, "PUT", path, changed, cert=stranger)).status == 404
    assert (await server.ask_tls(port, "PUT", path, changed, cert=old)).status == 200
    assert (await server.ask_tls(port, "GET", "/1.0", cert=old)).metadata["auth"] == "untrusted"
    assert (await server.ask_tls(port, "GET", "/1.0", cert=new)).metadata["auth"] == "trusted"


async def test_an_administrator_edits_an_entry(server: Server, client_certificate: Make) -> None:
    path = f"/1.0/certificates/{await trust(server, client_certificate('c'))}"
    assert (await server.ask("PATCH", path, {"name": "new"})).status == 200
    assert (await server.ask("GET", path)).metadata["name"] == "new"
    assert (await server.ask("PATCH", path, {"restricted": True, "projects": ["none"]})).status == 404
    assert (await server.ask("PATCH", path, {"type": "strange"})).status == 400
    assert (await server.ask("PATCH", path, {"certificate": "rubbish"})).status == 400


async def test_bad_certificates_are_refused(server: Server, client_certificate: Make) -> None:
    rubbish = base64.b64encode(b"rubbish").decode()
    for text in ("!", rubbish):
        answer = await server.ask("POST", "/1.0/certificates", {"type": "client", "certificate": text})
        assert answer.status == 400, text
    certificate = client_certificate("c")
    await trust(server, certificate)
    der = base64.b64encode(pem.to_der(certificate.read_text())).decode()
    answer = await server.ask("POST", "/1.0/certificates", {"type": "client", "certificate": der})
    assert (answer.status, answer.error) == (409, "Certificate already in trust store")
    assert (await server.ask("GET", "/1.0/certificates/zz")).status == 404
    assert (await server.ask("GET", "/1.0/certificates/%25")).status == 404


async def test_strangers_send_little(server: Server, client_certificate: Make) -> None:
    port = await listen(server)
    body = {"type": "client", "password": "x" * 100_000}
    answer = await server.ask_tls(port, "POST", "/1.0/certificates", body, cert=client_certificate("c"))
    assert answer.status == 413


async def test_tls_12_is_refused(server: Server) -> None:
    port = await listen(server)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    with pytest.raises((ssl.SSLError, ConnectionError)):
        await asyncio.open_connection("127.0.0.1", port, ssl=context)


async def is_open(port: int) -> bool:
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        return False
    writer.close()
    return True


async def test_the_listener_moves(server: Server, client_certificate: Make) -> None:
    port = await listen(server)
    certificate = client_certificate("c")
    await trust(server, certificate)
    # The request that moves it comes in over it; the wildcard has the port of the old address.
    body = {"config": {"core.https_address": f"0.0.0.0:{port}"}}
    assert (await server.ask_tls(port, "PATCH", "/1.0", body, cert=certificate)).status == 200
    assert await is_open(port)
    new = free_port()
    body = {"config": {"core.https_address": f"127.0.0.1:{new}"}}
    assert (await server.ask_tls(port, "PATCH", "/1.0", body, cert=certificate)).status == 200
    assert await is_open(new)
    assert not await is_open(port)
    assert (await server.ask("PUT", "/1.0", {"config": {}})).status == 200
    assert not await is_open(new)


async def test_an_address_that_cannot_be_had_changes_nothing(server: Server) -> None:
    port = await listen(server)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        wanted = f"127.0.0.1:{taken.getsockname()[1]}"
        answer = await server.ask("PATCH", "/1.0", {"config": {"core.https_address": wanted}})
    assert answer.status == 400
    assert "already in use" in answer.error
    answer = await server.ask("PATCH", "/1.0", {"config": {"core.https_address": "192.0.2.1:8443"}})
    assert "no interface has this address" in answer.error
    assert (await server.ask("GET", "/1.0")).metadata["config"]["core.https_address"] == f"127.0.0.1:{port}"
    assert await is_open(port)


async def test_a_wildcard_that_is_blocked_elsewhere_gives_the_old_address_back(server: Server) -> None:
    port = await listen(server)
    with socket.socket() as taken:
        taken.bind(("127.0.0.2", port))
        taken.listen()
        answer = await server.ask("PATCH", "/1.0", {"config": {"core.https_address": f"0.0.0.0:{port}"}})
    assert "already in use" in answer.error
    assert await is_open(port)


async def test_both_families_behind_a_wildcard() -> None:
    listener = await network.bind(f"[::]:{free_port()}")
    with listener:
        if listener.family == socket.AF_INET6:
            assert listener.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY) == 0


async def test_a_name_that_does_not_resolve() -> None:
    with pytest.raises(InvalidRequest, match="Couldn't resolve"):
        await network.bind("-not-a-name-:1")


async def test_the_start_goes_on_without_an_address(server: Server, caplog: pytest.LogCaptureFixture) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        settings = {"core.https_address": f"127.0.0.1:{taken.getsockname()[1]}"}
        from corral.server.keys import Config
        from corral.server.settings.settings import Settings

        server.context.parts[Settings].config = Config(settings)
        await server.networks[0].start()
    assert "already in use" in caplog.text
    assert "trying again" in caplog.text


async def test_expired_certificates_are_strangers(server: Server, client_certificate: Make) -> None:
    from corral.server.auth.peer import PeerCertificate

    peer = PeerCertificate(b"", "f", "n", 100.0, 200.0)
    assert [peer.is_valid_at(moment) for moment in (99, 100, 200, 201)] == [False, True, True, False]


def test_weak_and_expired_material(tmp_path: Path) -> None:
    from datetime import timedelta

    from corral.server.auth import server_certificate
    from corral.server.events.model import utc_now

    certificate, _ = server_certificate.make_key_pair("x")
    der = pem.to_der(certificate.decode())
    assert certificates.check_material(der, utc_now()).startswith("root@")
    with pytest.raises(InvalidRequest, match="expired"):
        certificates.check_material(der, utc_now() + timedelta(days=4000))
    with pytest.raises(InvalidRequest, match="isn't valid yet"):
        certificates.check_material(der, utc_now() - timedelta(days=1))
