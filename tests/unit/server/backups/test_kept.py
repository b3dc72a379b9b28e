"""What a start of the daemon makes of archives and rows that do not fit together."""

from pathlib import Path

from corral.server.backups import store
from corral.server.backups.kept import Owner, _sweep


def owner(root: Path, number: int, name: str) -> Owner:
    return Owner(store.VOLUMES, number, root / name, ("/1.0", name), "default", "storage-volume")


def put(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(path.name)


def test_what_fits_stays_and_what_was_half_made_goes(tmp_path: Path) -> None:
    one = owner(tmp_path, 1, "one")
    put(one.path_of("b0"))
    put(one.path_of(".partial_b1"))
    put(tmp_path / "empty" / ".partial_b0")
    put(tmp_path / "lost" / "b0")
    assert _sweep([one], [one], {1: {"b0"}}) == []
    assert sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()) == [
        "lost/b0",
        "one/b0",
    ]
    assert not (tmp_path / "empty").exists()


def test_a_rename_that_was_cut_short_is_finished(tmp_path: Path) -> None:
    one = owner(tmp_path, 1, "one")
    put(one.path_of("old"))
    assert _sweep([one], [one], {1: {"new"}}) == []
    assert one.path_of("new").read_text() == "old"


def test_archives_follow_an_owner_that_was_being_renamed(tmp_path: Path) -> None:
    renamed, other = owner(tmp_path, 1, "new"), owner(tmp_path, 2, "other")
    put(tmp_path / "old" / "b0")
    put(other.path_of("b0"))
    assert _sweep([renamed, other], [renamed, other], {1: {"b0"}, 2: {"b0"}}) == []
    assert renamed.path_of("b0").exists()


def test_rows_without_an_archive_are_told(tmp_path: Path) -> None:
    one = owner(tmp_path, 1, "one")
    put(one.path_of("b0"))
    assert _sweep([one], [one], {1: {"b0", "b1"}}) == [(one, "b1")]
