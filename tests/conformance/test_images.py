"""`lxc image` by the unmodified client."""

import csv
import hashlib
import io
import lzma
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from harness import images
from harness.client import Client
from harness.programs import Programs


@pytest.fixture
def other_image(tmp_path: Path) -> Path:
    """A unified image that the daemon does not have, compressed."""
    plain = images.busybox(tmp_path / "plain.tar")
    other = tmp_path / "other.tar.xz"
    other.write_bytes(lzma.compress(plain.read_bytes(), preset=0))
    return other


@pytest.fixture
def imported(lxc: Client, other_image: Path) -> Iterator[str]:
    """The image imported under the alias `other`; its fingerprint."""
    lxc("image", "import", other_image, "--alias", "other", "colour=blue")
    yield hashlib.sha256(other_image.read_bytes()).hexdigest()
    lxc.run("image", "delete", "other")


def fingerprints(lxc: Client) -> list[str]:
    return [row[0] for row in csv.reader(io.StringIO(lxc("image", "list", "--format", "csv", "-c", "F")))]


def test_import_and_delete(lxc: Client, imported: str) -> None:
    assert imported in fingerprints(lxc)
    shown = yaml.safe_load(lxc("image", "show", "other"))
    assert shown["properties"]["colour"] == "blue"
    assert shown["properties"]["os"] == "Busybox"
    assert shown["public"] is False
    assert f"Fingerprint: {imported}" in lxc("image", "info", "other")
    lxc("image", "delete", "other")
    assert imported not in fingerprints(lxc)


def test_a_second_import_is_refused(lxc: Client, imported: str, other_image: Path) -> None:
    assert "already exists" in lxc.fails("image", "import", other_image)


def test_export_gives_the_same_bytes(lxc: Client, imported: str, other_image: Path, tmp_path: Path) -> None:
    lxc("image", "export", "other", f"{tmp_path}/exported")
    assert (tmp_path / "exported.tar.xz").read_bytes() == other_image.read_bytes()


def test_aliases(lxc: Client, imported: str) -> None:
    lxc("image", "alias", "create", "second", imported)
    rows = {row[0]: row[1] for row in csv.reader(io.StringIO(lxc("image", "alias", "list", "--format", "csv")))}
    assert rows["second"] == imported[:12]
    lxc("image", "alias", "rename", "second", "third")
    assert "third" in lxc("image", "info", "third")
    lxc("image", "alias", "delete", "third")
    assert "not found" in lxc.fails("image", "info", "third").lower()
    assert "already exists" in lxc.fails("image", "alias", "create", "other", imported)


def test_edit(lxc: Client, imported: str) -> None:
    shown = lxc("image", "show", "other")
    edited = shown.replace("public: false", "public: true").replace("colour: blue", "shape: round")
    lxc("image", "edit", "other", stdin=edited)
    assert yaml.safe_load(lxc("image", "show", "other"))["public"] is True
    assert lxc("image", "get-property", "other", "shape").strip() == "round"
    lxc("image", "unset-property", "other", "shape")
    assert "shape" not in lxc("image", "show", "other")


def test_a_container_runs_from_it(lxc: Client, imported: str) -> None:
    lxc("launch", "other", "from-other")
    try:
        assert lxc("exec", "from-other", "--", "hostname").strip() == "from-other"
        assert lxc("config", "get", "from-other", "volatile.base_image").strip() == imported
    finally:
        lxc("delete", "--force", "from-other")


def test_split_image(lxc: Client, tmp_path: Path) -> None:
    unified = images.busybox(tmp_path / "unified.tar")
    tree = tmp_path / "tree"
    tree.mkdir()
    subprocess.run(["tar", "-xf", unified, "-C", tree], check=True)
    metadata, rootfs = tmp_path / "metadata.tar.gz", tmp_path / "rootfs.squashfs"
    subprocess.run(["tar", "-czf", metadata, "-C", tree, "metadata.yaml", "templates"], check=True)
    subprocess.run(["mksquashfs", tree / "rootfs", rootfs, "-quiet", "-no-progress"], check=True, capture_output=True)
    fingerprint = hashlib.sha256(metadata.read_bytes() + rootfs.read_bytes()).hexdigest()
    lxc("image", "import", metadata, rootfs, "--alias", "split")
    try:
        assert fingerprint in fingerprints(lxc)
        (tmp_path / "out").mkdir()
        lxc("image", "export", "split", tmp_path / "out")
        assert (tmp_path / "out" / f"{fingerprint}.squashfs").read_bytes() == rootfs.read_bytes()
        assert (tmp_path / "out" / f"meta-{fingerprint}.tar.gz").read_bytes() == metadata.read_bytes()
        lxc("launch", "split", "from-split")
        assert lxc("exec", "from-split", "--", "hostname").strip() == "from-split"
    finally:
        lxc.run("delete", "--force", "from-split")
        lxc("image", "delete", "split")


@pytest.mark.parametrize("damage", ["empty", "cut", "noise", "no metadata"])
def test_a_damaged_archive_is_refused_whole(
    lxc: Client, peer: Programs, other_image: Path, tmp_path: Path, damage: str
) -> None:
    if (peer.kind, damage) == ("real", "cut"):
        pytest.skip("the real LXD takes an image that is cut short")
    before = fingerprints(lxc)
    bad = tmp_path / "bad.tar.xz"
    if damage == "empty":
        bad.write_bytes(b"")
    elif damage == "cut":
        bad.write_bytes(other_image.read_bytes()[:100_000])
    elif damage == "noise":
        bad.write_bytes(bytes(range(256)) * 64)
    else:
        (tmp_path / "file").write_text("x")
        subprocess.run(["tar", "-cJf", bad, "-C", tmp_path, "file"], check=True)
    lxc.fails("image", "import", bad)
    assert fingerprints(lxc) == before
