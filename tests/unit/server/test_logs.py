"""Which lines reach which log."""

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

from corral.server import logs


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    root, area = logging.getLogger(), logging.getLogger("corral.server.db")
    handlers, level, kept = list(root.handlers), root.level, list(area.handlers)
    yield
    for handler in set(root.handlers) - set(handlers):
        root.removeHandler(handler)
        handler.close()
    root.setLevel(level)
    area.handlers[:] = kept
    area.setLevel(logging.NOTSET)


def test_an_area_is_traced_in_every_log(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "log"
    logs.configure(debug=False, verbose=False, file=file, syslog=None)
    logs.trace("database,networks")
    for area in ("db.database", "rest.dispatch"):
        logger = logging.getLogger(f"corral.server.{area}")
        logger.debug("fine of %s", area)
        logger.warning("bad of %s", area)
    for text in (file.read_text(), capsys.readouterr().err):
        assert text.count("fine of db.database") == 1
        assert "fine of rest.dispatch" not in text
        assert text.count("bad of db.database") == text.count("bad of rest.dispatch") == 1


def test_a_line_is_logfmt(tmp_path: Path) -> None:
    file = tmp_path / "log"
    logs.configure(debug=False, verbose=False, file=file, syslog=None)
    logging.getLogger("corral.x").warning('a "quoted"\nline')
    assert file.read_text().endswith('level=warning msg="a \\"quoted\\"\\nline"\n')
