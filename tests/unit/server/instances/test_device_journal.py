"""The note of a change of devices: found again whole, or not at all."""

from pathlib import Path

from corral.server.instances.attachments import device_journal
from corral.server.instances.attachments.device_journal import Journal


def test_a_note_is_found_until_it_is_removed(tmp_path: Path) -> None:
    directory = tmp_path / "c1"
    journal = Journal({}, {"d": {"type": "none"}}, {}, {}, {}, {"volatile.d.x": "1"}, ["limits.cpu"], prepared=True)
    device_journal.write(directory, journal)
    assert device_journal.find(directory) == journal
    assert journal.names == {"d"}
    device_journal.remove(directory)
    assert not directory.exists()


def test_a_note_that_was_only_being_made(tmp_path: Path) -> None:
    directory = tmp_path / "c1"
    directory.mkdir()
    (directory / ".changing.new").write_text('{"bef')
    assert device_journal.find(directory) is None
    assert not directory.exists()


def test_a_note_that_nobody_can_read(tmp_path: Path) -> None:
    (tmp_path / "changing").write_text('{"unknown": 1}')
    assert device_journal.find(tmp_path) is None
