"""pylxd, unmodified, over the Unix socket and over HTTPS: containers, images, networks, profiles, projects, storage."""

import itertools
import socket
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from harness.api import Api
from harness.daemon import Daemon

with warnings.catch_warnings():
    # What its own dependencies are warned of at their import is not ours.
    warnings.simplefilter("ignore")
    pylxd = pytest.importorskip("pylxd")
    from pylxd.exceptions import LXDAPIException, NotFound

pytestmark = pytest.mark.filterwarnings("ignore")

_names = (f"pylxd-{number}" for number in itertools.count(1))


def _key_pair(directory: Path) -> tuple[str, str]:
    from corral.server.auth.server_certificate import make_key_pair

    certificate, key = make_key_pair("client")
    paths = directory / "client.crt", directory / "client.key"
    paths[0].write_bytes(certificate)
    paths[1].write_bytes(key)
    return str(paths[0]), str(paths[1])


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="module")
def address(daemon: Daemon) -> Iterator[str]:
    """Where the daemon serves its API over HTTPS."""
    port = _free_port()
    with daemon.api() as api:
        api.call("PATCH", "/1.0", {"config": {"core.https_address": f"127.0.0.1:{port}", "core.trust_password": "foo"}})
        yield f"https://127.0.0.1:{port}"
        api.call("PATCH", "/1.0", {"config": {"core.https_address": "", "core.trust_password": ""}})


@pytest.fixture(params=["unix", "https"])
def client(
    request: pytest.FixtureRequest,
    daemon: Daemon,
    api: Api,
    address: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Any]:
    """A client of the library; over HTTPS it becomes trusted by the password."""
    # With these the library underneath forgets which certificate it was told to trust.
    monkeypatch.delenv("REQUESTS_CA_BUNDLE", raising=False)
    monkeypatch.delenv("CURL_CA_BUNDLE", raising=False)
    if request.param == "unix":
        yield pylxd.Client(endpoint=f"http+unix://{str(daemon.socket).replace('/', '%2F')}")
        return
    made = pylxd.Client(endpoint=address, cert=_key_pair(tmp_path), verify=str(daemon.state_dir / "server.crt"))
    assert not made.trusted
    made.authenticate("foo")
    assert made.trusted
    yield made
    for certificate in made.certificates.all():
        api.call("DELETE", f"/1.0/certificates/{certificate.fingerprint}")


@pytest.fixture
def container(client: Any) -> Iterator[Any]:
    """A stopped container; removed after the test."""
    name = next(_names)
    made = client.instances.create({"name": name, "source": {"type": "image", "alias": "busybox"}}, wait=True)
    yield made
    made.sync()
    if made.status != "Stopped":
        made.stop(force=True, wait=True)
    made.delete(wait=True)


def test_server(client: Any) -> None:
    assert client.host_info["api_version"] == "1.0"
    assert client.has_api_extension("instances")
    assert client.resources is not None


def test_instances(client: Any, container: Any) -> None:
    assert client.instances.exists(container.name)
    assert container.name in [one.name for one in client.instances.all()]
    assert client.containers.get(container.name).name == container.name
    container.config["user.key"] = "value"
    container.description = "changed"
    container.save(wait=True)
    again = client.instances.get(container.name)
    assert (again.config["user.key"], again.description) == ("value", "changed")
    container.start(wait=True)
    assert container.status == "Running"
    assert container.state().pid > 0
    container.freeze(wait=True)
    assert container.status == "Frozen"
    container.unfreeze(wait=True)
    container.restart(wait=True, force=True)
    container.stop(wait=True, force=True)
    assert container.status == "Stopped"
    with pytest.raises(NotFound):
        client.instances.get("nobody")
    with pytest.raises(LXDAPIException, match="already exists"):
        client.instances.create({"name": container.name, "source": {"type": "none"}}, wait=True)


def test_renaming(client: Any, container: Any) -> None:
    before, after = container.name, next(_names)
    container.rename(after, wait=True)
    assert client.instances.exists(after)
    assert not client.instances.exists(before)


def test_commands(container: Any) -> None:
    container.start(wait=True)
    done = container.execute(["sh", "-c", "echo out; echo err >&2; exit 3"])
    assert (done.exit_code, done.stdout, done.stderr) == (3, "out\n", "err\n")
    # Its client goes when the outputs end, which need not be the command's end.
    for closed in ("exec >/dev/null 2>&1", "exec >/dev/null", "exec 2>/dev/null"):
        assert container.execute(["sh", "-c", f"{closed}; sleep 0.3; exit 4"]).exit_code == 4
    done = container.execute(["cat"], stdin_payload="some input")
    assert (done.exit_code, done.stdout) == (0, "some input")
    assert container.execute(["sh", "-c", "echo $KEY"], environment={"KEY": "value"}).stdout == "value\n"


def test_files(container: Any, tmp_path: Path) -> None:
    container.start(wait=True)
    container.files.mk_dir("/root/dir", mode=0o700)
    container.files.put("/root/dir/file", b"some data", mode=0o600, uid=0, gid=0)
    assert container.files.get("/root/dir/file") == b"some data"
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "one").write_text("1")
    container.files.recursive_put(str(tmp_path / "sub"), "/root/put")
    container.files.recursive_get("/root/put", str(tmp_path / "got"))
    assert (tmp_path / "got" / "one").read_text() == "1"
    container.files.delete("/root/dir/file")
    with pytest.raises(NotFound):
        container.files.get("/root/dir/file")


def test_snapshots(client: Any, container: Any) -> None:
    snapshot = container.snapshots.create("one", wait=True)
    assert [one.name for one in container.snapshots.all()] == ["one"]
    snapshot.rename("two", wait=True)
    container.restore_snapshot("two", wait=True)
    container.snapshots.get("two").delete(wait=True)
    assert container.snapshots.all() == []


def test_copies(client: Any, container: Any) -> None:
    name = next(_names)
    container.snapshots.create("one", wait=True)
    source = {"type": "copy", "source": container.name}
    copied = client.instances.create({"name": name, "source": source}, wait=True)
    assert [one.name for one in copied.snapshots.all()] == ["one"]
    copied.delete(wait=True)
    container.snapshots.get("one").delete(wait=True)


def test_images(client: Any, busybox_image: Path) -> None:
    image = client.images.get_by_alias("busybox")
    assert image.fingerprint in [one.fingerprint for one in client.images.all()]
    assert client.images.exists("busybox", alias=True)
    image.add_alias("another", "an alias")
    assert client.images.exists("another", alias=True)
    image.delete_alias("another")
    with image.export() as exported:
        assert len(exported.read()) == image.size
    with pytest.raises(LXDAPIException, match="already exists"):
        client.images.create(busybox_image.read_bytes(), wait=True)


def test_profiles(client: Any) -> None:
    name = next(_names)
    profile = client.profiles.create(name, config={"user.a": "1"}, devices={})
    assert client.profiles.exists(name)
    profile.config["user.b"] = "2"
    profile.save()
    assert client.profiles.get(name).config == {"user.a": "1", "user.b": "2"}
    profile = profile.rename(f"{name}-new")
    profile.delete()
    assert not client.profiles.exists(f"{name}-new")


def test_networks(client: Any) -> None:
    name = "ctpylxd"
    network = client.networks.create(name, config={"ipv4.address": "none", "ipv6.address": "none"})
    assert name in [one.name for one in client.networks.all()]
    network.description = "changed"
    network.save()
    assert client.networks.get(name).description == "changed"
    assert client.networks.get(name).managed
    network.delete()
    assert not client.networks.exists(name)


def test_projects(client: Any) -> None:
    name = next(_names)
    project = client.projects.create(name, description="some", config={"limits.containers": "0"})
    assert client.projects.exists(name)
    project.config["user.key"] = "value"
    project.save()
    assert client.projects.get(name).config["user.key"] == "value"
    project.delete(wait=True)
    assert not client.projects.exists(name)


def test_storage(client: Any) -> None:
    pool = client.storage_pools.get("default")
    assert pool.resources.get().space["total"] > 0
    volume = pool.volumes.create({"name": next(_names), "type": "custom"}, wait=True)
    assert ("custom", volume.name) in [(one.type, one.name) for one in pool.volumes.all()]
    volume.config["user.key"] = "value"
    volume.save(wait=True)
    snapshot = volume.snapshots.create(name="one")
    assert volume.snapshots.all() == ["one"]
    snapshot.delete(wait=True)
    volume.delete()


def test_events(client: Any, container: Any) -> None:
    from pylxd.client import _WebsocketClient

    class First(_WebsocketClient):  # type: ignore[misc]
        def received_message(self, message: Any) -> None:
            super().received_message(message)
            self.close()

    events = client.events(websocket_client=First, event_types={pylxd.EventType.Lifecycle})
    events.connect()
    container.description = "watched"
    container.save(wait=True)
    events.run()
    assert events.messages[0]["metadata"]["action"] == "instance-updated"


def test_operations(client: Any, container: Any) -> None:
    answer = client.api.instances[container.name].state.put(json={"action": "start", "timeout": 30})
    operation = answer.json()["operation"]
    client.operations.wait_for_operation(operation)
    assert client.operations.get(operation).status == "Success"
    container.sync()
    assert container.status == "Running"
