"""/1.0/metrics: who may read them, what they say, and their own listener."""

import asyncio
import base64
import shutil
import ssl
from collections.abc import Callable
from pathlib import Path

import pytest

from corral.server.auth import pem
from corral.server.host.programs import command
from corral.server.instances import store
from corral.server.instances.metrics import Collected
from corral.server.metrics import openmetrics
from corral.server.metrics.openmetrics import MetricSet

from .conftest import Server
from .test_network import free_port

Make = Callable[[str], Path]


@pytest.fixture
async def metered(server: Server) -> Server:
    """A server with a second project and collected metrics for both."""
    kept = server.context.parts.add(Collected())
    answer = await server.ask("POST", "/1.0/projects", {"name": "blue", "config": {}})
    assert answer.status == 201, answer.error
    for project in ("default", "blue"):
        metrics = MetricSet({"name": f"c-{project}", "project": project, "type": "container"})
        metrics.add(openmetrics.CPU_SECONDS, 1.25, cpu="0", mode="user")
        metrics.add(openmetrics.PROCS, 7)
        kept.keep(project, metrics)
    return server


async def read(server: Server, path: str = "/1.0/metrics", port: int = 0, cert: Path | None = None) -> tuple[int, str]:
    if port:
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        tls.check_hostname, tls.verify_mode = False, ssl.CERT_NONE
        if cert is not None:
            tls.load_cert_chain(cert)
        reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=tls)
    else:
        reader, writer = await asyncio.open_unix_connection(server.socket)
    writer.write(f"GET {path} HTTP/1.1\r\nHost: lxd\r\nConnection: close\r\n\r\n".encode())
    raw = await asyncio.wait_for(reader.read(), 10)
    writer.close()
    head, _, text = raw.partition(b"\r\n\r\n")
    return int(head.split()[1]), text.decode()


async def trust(server: Server, path: Path, **more: object) -> None:
    der = base64.b64encode(pem.to_der(path.read_text())).decode()
    answer = await server.ask("POST", "/1.0/certificates", {"type": "metrics", "certificate": der, **more})
    assert answer.status == 201, answer.error


async def test_an_administrator_reads_all_projects_or_one(metered: Server) -> None:
    status, text = await read(metered)
    assert status == 200
    assert 'lxd_cpu_seconds_total{cpu="0",mode="user",name="c-blue",project="blue",type="container"} 1.25' in text
    assert 'name="c-default"' in text
    assert text.endswith("# EOF\n")
    assert "lxd_uptime_seconds " in text
    _, text = await read(metered, "/1.0/metrics?project=blue")
    assert 'name="c-blue"' in text
    assert 'name="c-default"' not in text
    assert "lxd_uptime_seconds" not in text


async def test_the_listener_serves_metrics_only_to_those_who_may(metered: Server, client_certificate: Make) -> None:
    port = free_port()
    answer = await metered.ask("PATCH", "/1.0", {"config": {"core.metrics_address": f"127.0.0.1:{port}"}})
    assert answer.status == 200, answer.error
    known, restricted = client_certificate("known"), client_certificate("restricted")
    await trust(metered, known)
    await trust(metered, restricted, restricted=True, projects=["blue"])
    assert (await read(metered, port=port))[0] == 403
    assert (await read(metered, port=port, cert=client_certificate("stranger")))[0] == 403
    _, text = await read(metered, port=port, cert=known)
    assert 'name="c-default"' in text
    assert (await read(metered, "/1.0/instances", port, known))[0] == 404
    _, text = await read(metered, port=port, cert=restricted)
    assert 'name="c-blue"' in text
    assert 'name="c-default"' not in text
    assert (await read(metered, "/1.0/metrics?project=default", port, restricted))[0] == 403
    answer = await metered.ask("PATCH", "/1.0", {"config": {"core.metrics_authentication": "false"}})
    assert answer.status == 200, answer.error
    assert 'name="c-default"' in (await read(metered, port=port))[1]
    await metered.ask("PATCH", "/1.0", {"config": {"core.metrics_address": ""}})
    with pytest.raises(ConnectionRefusedError):
        await read(metered, port=port)


async def test_a_metrics_certificate_is_good_for_nothing_else(metered: Server, client_certificate: Make) -> None:
    port = free_port()
    await metered.ask("PATCH", "/1.0", {"config": {"core.https_address": f"127.0.0.1:{port}"}})
    known = client_certificate("known")
    await trust(metered, known)
    assert (await read(metered, "/1.0/instances", port, known))[0] == 403
    assert (await read(metered, "/1.0/metrics", port, known))[0] == 200


async def test_collecting_is_not_repeated_within_its_time(metered: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise AssertionError("collected again")

    monkeypatch.setattr(store, "list_instances", fail)
    assert (await read(metered))[0] == 200
    monkeypatch.setattr("corral.server.instances.metrics.KEPT_S", -1.0)
    assert (await read(metered))[0] == 500


def every_series() -> str:
    metrics = MetricSet({"name": 'a"b\\c', "project": "default", "type": "container"})
    for series in openmetrics.ALL:
        metrics.add(series, 1, device="eth0")
        metrics.add(series, 2.5, device="eth1")
    return metrics.render()


@pytest.mark.skipif(shutil.which("promtool") is None, reason="the Debian package prometheus is not installed")
async def test_prometheus_understands_every_series(tmp_path: Path) -> None:
    file = tmp_path / "metrics"
    file.write_text(every_series())
    with open(file, "rb") as stream:
        done = await command.run(["promtool", "check", "metrics"], stdin=stream.fileno(), ok=(0, 1, 2, 3))
    # LXD's names are kept, so these gauges are called totals.
    known = {
        f'{one.name} non-counter metrics should not have "_total" suffix'
        for one in openmetrics.ALL
        if one.kind == openmetrics.GAUGE and one.name.endswith("_total")
    }
    said = {line for line in (done.stdout + done.stderr).splitlines() if line}
    assert {line for line in said if "snake_case" not in line and "camelCase" not in line} <= known


def test_an_independent_parser_understands_every_series() -> None:
    parser = pytest.importorskip("prometheus_client.parser")
    families = list(parser.text_string_to_metric_families(every_series()))
    assert len(families) == len(openmetrics.ALL)
    kinds = {sample.name: family.type for family in families for sample in family.samples}
    assert kinds == {one.name: one.kind for one in openmetrics.ALL}
    samples = [sample for family in families for sample in family.samples]
    assert len(samples) == 2 * len(openmetrics.ALL)
    assert {sample.labels["name"] for sample in samples} == {'a"b\\c'}


def test_all_names_of_lxd_5_0_are_there() -> None:
    names = {one.name for one in openmetrics.ALL}
    assert len(names) == len(openmetrics.ALL) == 40
    text = every_series()
    assert all(text.count(f"# TYPE {name} ") == 1 for name in names)
    assert 'name="a\\"b\\\\c"' in text
