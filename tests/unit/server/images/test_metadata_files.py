"""metadata.yaml and templates/: kept, replaced and shown, whatever an image planted there."""

import os
from pathlib import Path

import pytest

from corral.errors import InvalidRequest, NotFound
from corral.server.images import metadata_files
from corral.server.images.formats import ImageMetadata, Template

METADATA = ImageMetadata("x86_64", 5, 6, {"os": "Büsy", "n": "null"}, {"/f": Template(("start",), "f.tpl", True)})


def test_what_is_written_is_read(tmp_path: Path) -> None:
    assert metadata_files.read_metadata(tmp_path) is None
    metadata_files.write_metadata(tmp_path, METADATA)
    assert metadata_files.read_metadata(tmp_path) == METADATA
    metadata_files.write_metadata(tmp_path, ImageMetadata("", 0))
    assert metadata_files.read_metadata(tmp_path) == ImageMetadata("", 0)
    assert os.listdir(tmp_path) == ["metadata.yaml"]


def test_what_no_start_could_use_is_refused(tmp_path: Path) -> None:
    metadata_files.write_metadata(tmp_path, METADATA)
    for path, template in (("/f", "../f"), ("/f", "/f"), ("/../f", "f"), ("", "f"), ("/f", "")):
        with pytest.raises(InvalidRequest, match=r"metadata\.yaml"):
            metadata_files.write_metadata(
                tmp_path, ImageMetadata("x86_64", 1, templates={path: Template((), template)})
            )
    with pytest.raises(InvalidRequest, match="out of range"):
        metadata_files.write_metadata(tmp_path, ImageMetadata("x86_64", -1))
    with pytest.raises(InvalidRequest, match=r"too long|larger"):
        metadata_files.write_metadata(tmp_path, ImageMetadata("x86_64", 1, properties={"a": "b" * (2 << 20)}))
    assert metadata_files.read_metadata(tmp_path) == METADATA


def test_templates_come_and_go(tmp_path: Path) -> None:
    assert metadata_files.list_templates(tmp_path) == []
    metadata_files.write_template(tmp_path, "b.tpl", b"null")
    metadata_files.write_template(tmp_path, "a.tpl", b"\xff")
    metadata_files.write_template(tmp_path, "a.tpl", b"two")
    (tmp_path / "templates" / "directory").mkdir()
    assert metadata_files.list_templates(tmp_path) == ["a.tpl", "b.tpl"]
    assert metadata_files.read_template(tmp_path, "a.tpl") == b"two"
    metadata_files.delete_template(tmp_path, "a.tpl")
    for act in (metadata_files.read_template, metadata_files.delete_template):
        with pytest.raises(NotFound, match=r'Template "a\.tpl" not found'):
            act(tmp_path, "a.tpl")
        with pytest.raises(InvalidRequest):
            act(tmp_path, "directory")
    with pytest.raises(InvalidRequest):
        metadata_files.write_template(tmp_path, "directory", b"")
    assert sorted(os.listdir(tmp_path / "templates")) == ["b.tpl", "directory"]


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "/etc/passwd", "../x", ".new-x", "a\nb", "a\0b", "x" * 201])
def test_odd_names_of_templates(tmp_path: Path, name: str) -> None:
    with pytest.raises(InvalidRequest, match="Invalid template filename"):
        metadata_files.write_template(tmp_path, name, b"")
    with pytest.raises(InvalidRequest, match="Invalid template filename"):
        metadata_files.read_template(tmp_path, name)


def test_links_are_not_followed_out(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("architecture: secret\n")
    instance = tmp_path / "instance"
    instance.mkdir()
    (instance / "metadata.yaml").symlink_to(secret)
    assert metadata_files.read_metadata(instance) is None  # the link leads to /secret below the instance
    metadata_files.write_metadata(instance, METADATA)
    assert secret.read_text() == "architecture: secret\n"
    assert not (instance / "metadata.yaml").is_symlink()
    (instance / "templates").mkdir()
    (instance / "templates" / "t").symlink_to(secret)
    with pytest.raises(NotFound):
        metadata_files.read_template(instance, "t")
    metadata_files.write_template(instance, "t", b"own")
    assert secret.read_text() == "architecture: secret\n"
    assert metadata_files.read_template(instance, "t") == b"own"


def test_a_link_as_templates_directory(tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "kept").write_text("")
    instance = tmp_path / "instance"
    instance.mkdir()
    (instance / "templates").symlink_to(elsewhere)
    for act in (
        lambda: metadata_files.list_templates(instance),
        lambda: metadata_files.read_template(instance, "kept"),
        lambda: metadata_files.write_template(instance, "new", b""),
        lambda: metadata_files.delete_template(instance, "kept"),
    ):
        with pytest.raises(InvalidRequest, match="no directory"):
            act()
    assert os.listdir(elsewhere) == ["kept"]


def test_pipes_and_large_files_are_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "metadata.yaml")
    with pytest.raises(InvalidRequest, match="no plain file"):
        metadata_files.read_metadata(tmp_path)
    metadata_files.write_metadata(tmp_path, METADATA)
    with pytest.raises(InvalidRequest, match="larger"):
        metadata_files.write_template(tmp_path, "t", b"x" * (metadata_files.TEMPLATE_LIMIT + 1))
    (tmp_path / "templates").mkdir()
    with open(tmp_path / "templates" / "huge", "wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(InvalidRequest, match="larger"):
        metadata_files.read_template(tmp_path, "huge")
