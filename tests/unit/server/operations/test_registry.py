"""Operations: success, failure, cancellation, progress."""

import asyncio

import pytest

from corral.errors import Conflict, Forbidden, InvalidRequest, NotFound
from corral.server.events.bus import Events
from corral.server.operations import model, registry
from corral.server.operations.model import Operation
from corral.server.operations.registry import Operations


@pytest.fixture
def operations(monkeypatch: pytest.MonkeyPatch) -> Operations:
    monkeypatch.setattr(registry, "KEPT_S", 0.0)
    return Operations(Events())


def make(**more: object) -> Operation:
    return Operation("Testing", "default", {}, **more)  # type: ignore[arg-type]


async def test_success_adds_what_the_work_returned(operations: Operations) -> None:
    async def work() -> dict[str, int]:
        model.report(progress="half")
        return {"answer": 42}

    operation = operations.start(make(), work)
    assert operations.get(operation.id) is operation
    assert operations.running() == [operation]
    await operation.done.wait()
    assert operation.status == model.SUCCESS
    assert operation.to_wire().metadata == {"progress": "half", "answer": 42}
    assert operation.to_wire().status == "Success"
    await asyncio.sleep(0.01)
    with pytest.raises(NotFound):
        operations.get(operation.id)


async def test_failure_shows_our_errors_and_hides_defects(
    operations: Operations, caplog: pytest.LogCaptureFixture
) -> None:
    async def refuse() -> None:
        raise Conflict("taken")

    async def defect() -> None:
        raise KeyError("secret")

    refused, broken = operations.start(make(), refuse), operations.start(make(), defect)
    await refused.done.wait()
    await broken.done.wait()
    assert refused.error == "taken"
    assert "secret" not in broken.error
    assert "secret" in caplog.text


async def test_cancel(operations: Operations) -> None:
    async def forever() -> None:
        await asyncio.Event().wait()

    stubborn = operations.start(make(), forever)
    with pytest.raises(InvalidRequest, match="can't be cancelled"):
        stubborn.cancel()
    operation = operations.start(make(cancellable=True), forever)
    await asyncio.sleep(0)
    assert operation.to_wire().may_cancel
    operation.cancel()
    await operation.done.wait()
    assert operation.status == model.CANCELLED
    with pytest.raises(InvalidRequest):
        operation.cancel()
    await operations.stop(0.01)
    assert stubborn.status == model.CANCELLED


async def test_cancel_before_the_first_step(operations: Operations) -> None:
    async def never() -> None:
        raise AssertionError("must not run")

    operation = operations.start(make(cancellable=True), never)
    operation.cancel()
    async with asyncio.timeout(5):
        await operation.done.wait()
    assert operation.status == model.CANCELLED


async def test_stop_without_operations(operations: Operations) -> None:
    await operations.stop(0)
    assert operations.all("default") == []


def test_descriptors_need_their_secret() -> None:
    operation = make(secrets={"0": "abc", "control": "def"})
    assert operation.descriptor_of("def") == "control"
    for wrong in ("", "x"):
        with pytest.raises(Forbidden):
            operation.descriptor_of(wrong)


def test_report_outside_an_operation_is_nothing() -> None:
    model.report(progress="x")


async def test_progress_is_told_for_people_and_for_programs(operations: Operations) -> None:
    async def work() -> None:
        model.report(download_progress="rootfs: 40% (1.50MB/s)")

    operation = operations.start(make(), work)
    await operation.done.wait()
    assert operation.metadata == {
        "download_progress": "rootfs: 40% (1.50MB/s)",
        "progress": {"stage": "download", "percent": "40", "speed": "1500000"},
    }


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("Unpack: 100%", {"stage": "x", "percent": "100", "speed": "0"}),
        ("12.30MB (900B/s)", {"stage": "x", "speed": "900"}),
        ("Remapping container filesystem", None),
        ("", None),
    ],
)
def test_progress(text: str, parts: dict[str, str] | None) -> None:
    assert model.parse_progress("x_progress", text) == parts
