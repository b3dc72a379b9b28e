"""A simplestreams image server over HTTPS, browsed by our client as by the unmodified one, and copied from."""

import hashlib
import json
import ssl
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from corral.server.auth import server_certificate
from harness import programs, streams
from harness.client import Client
from harness.daemon import Daemon
from harness.images import tar
from harness.streams import Streams

DOCUMENT = b"architecture: x86_64\ncreation_date: 1700000000\nproperties: {os: Test}\n"


@pytest.fixture(scope="module")
def catalog(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Streams]:
    """Two versions of one image and one of another; programs that start now trust the server's certificate."""
    directory = tmp_path_factory.mktemp("streams")
    certificate, key = server_certificate.make_key_pair("streams")
    (directory / "server.pem").write_bytes(certificate + key)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(directory / "server.pem")
    (directory / "ca.pem").write_bytes(certificate)
    root = directory / "root"
    root.mkdir()
    with pytest.MonkeyPatch.context() as patch, streams.serve(root, context) as serving:
        patch.setenv("SSL_CERT_FILE", str(directory / "ca.pem"))
        metadata = tar({"metadata.yaml": DOCUMENT}, "w:xz")
        serving.add("20240101_0000", metadata, tar({"etc/old": b"1"}, "w:xz"))
        serving.add("20240201_0000", metadata, tar({"etc/new": b"2"}, "w:xz"), support_eol="2030-01-01")
        latest = tar({"etc/other": b"3"}, "w:xz")
        serving.add("20240301_0000", metadata, latest, alias="test/2,test/latest", release="two")
        yield serving


@pytest.fixture(scope="module")
def server(catalog: Streams, make_daemon: Callable[[], Daemon]) -> Daemon:
    """A daemon that trusts the catalog's certificate."""
    daemon = make_daemon()
    daemon.start()
    return daemon


@pytest.fixture(scope="module")
def ours(server: Daemon, catalog: Streams) -> Client:
    """Our client, with the remote `streams`."""
    client = Client(programs.ours(server.dir / "programs").lxc, server)
    client("remote", "add", "streams", catalog.url, "--protocol", "simplestreams")
    return client


BROWSING = (
    ("image", "list", "streams:", "--format", "csv"),
    ("image", "list", "streams:", "--format", "csv", "-c", "lLFpdasut"),
    ("image", "list", "streams:", "test/2", "--format", "json"),
    ("image", "list", "streams:", "release=two", "--format", "csv"),
    ("image", "list", "streams:", "type=container", "architecture=x86_64", "--format", "csv"),
    ("image", "alias", "list", "streams:", "--format", "csv"),
    ("image", "info", "streams:test/1"),
    ("image", "show", "streams:test/latest"),
    ("image", "get-property", "streams:test/1", "os"),
)


@pytest.mark.parametrize("argv", BROWSING, ids=lambda argv: " ".join(argv[1:]))
def test_both_clients_show_the_same(ours: Client, server: Daemon, argv: tuple[str, ...]) -> None:
    found = programs.real_client()
    if found is None:
        pytest.skip("needs the Debian package lxd-client")
    shown, expected = ours(*argv), Client(found, server)(*argv)
    if "json" in argv:
        assert json.loads(shown) == json.loads(expected)
        return
    assert sorted(shown.splitlines()) == sorted(expected.splitlines())
    assert "test" in shown.lower()


def test_what_is_not_there(ours: Client) -> None:
    assert "couldn't be found" in ours.fails("image", "info", "streams:nothing")
    assert "isn't a private" in ours.fails("list", "streams:")
    assert "isn't a private" in ours.fails("image", "delete", "streams:test/1")


def test_a_catalog_out_of_reach_is_told(ours: Client, server: Daemon) -> None:
    ours("remote", "add", "away", "https://127.0.0.1:9", "--protocol", "simplestreams")
    assert "Unable to fetch https://127.0.0.1:9/streams/v1/index.json" in ours.fails("image", "list", "away:")
    ours("remote", "remove", "away")


def test_an_image_is_exported(ours: Client, tmp_path: Path, catalog: Streams) -> None:
    ours("image", "export", "streams:test/1", str(tmp_path))
    names = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert set(names) == {"lxd.tar.xz", "root.tar.xz"}
    fingerprint = hashlib.sha256(names["lxd.tar.xz"] + names["root.tar.xz"]).hexdigest()
    assert f"Fingerprint: {fingerprint}" in ours("image", "info", "streams:test/1")
    path = next(catalog.root.glob("images/20240301_0000/root.tar.xz"))
    before = path.read_bytes()
    path.write_bytes(before[:-1] + b"x")
    try:
        target = tmp_path / "damaged"
        assert "is not the one that its catalog names" in ours.fails("image", "export", "streams:test/2", str(target))
        assert not target.exists()
    finally:
        path.write_bytes(before)


def test_an_image_is_copied(ours: Client) -> None:
    ours("image", "copy", "streams:test/1", "local:", "--alias", "copied")
    try:
        assert "Test" in ours("image", "show", "copied")
        fingerprint = next(line for line in ours("image", "info", "streams:test/1").splitlines() if "Fing" in line)
        assert fingerprint in ours("image", "info", "copied")
    finally:
        ours("image", "delete", "copied")
