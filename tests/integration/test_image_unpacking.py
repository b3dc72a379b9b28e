"""Unpacking for real, as root: every format, what must be kept, and that a refused image leaves nothing."""

import io
import os
import shutil
import subprocess
import tarfile
from pathlib import Path

import pytest

from corral.errors import InvalidRequest
from corral.server.images import unpack
from corral.server.images.formats import ImageFiles

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")

DOCUMENT = "architecture: x86_64\ncreation_date: 1700000000\nproperties: {os: test}\n"


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """An image's directory with odd owners, modes, links and extended attributes."""
    tree = tmp_path / "tree"
    root = tree / "rootfs"
    (root / "usr/bin").mkdir(parents=True)
    (root / "dev").mkdir()
    (tree / "metadata.yaml").write_text(DOCUMENT)
    (tree / "templates").mkdir()
    (tree / "templates/t.tpl").write_text("{{ container.name }}")
    (root / "usr/bin/su").write_bytes(b"#" * 100_000)
    os.chown(root / "usr/bin/su", 0, 42)
    (root / "usr/bin/su").chmod(0o4755)
    os.link(root / "usr/bin/su", root / "usr/bin/su2")
    (root / "bin").symlink_to("usr/bin")
    (root / "odd \n name").write_text("x")
    os.setxattr(root / "usr/bin/su", "user.test", b"value")
    os.mknod(root / "dev/null", 0o20666, os.makedev(1, 3))
    os.mkfifo(root / "fifo")
    return tree


def pack(tree: Path, destination: Path, *options: str) -> Path:
    subprocess.run(["tar", "--xattrs", "-C", tree, *options, "-cf", destination, "."], check=True)
    return destination


def squash(tree: Path, destination: Path) -> None:
    subprocess.run(["mksquashfs", tree, destination, "-quiet", "-no-progress"], check=True)


def assert_complete(target: Path) -> None:
    root = target / "rootfs"
    su = (root / "usr/bin/su").stat()
    assert (su.st_uid, su.st_gid, su.st_mode & 0o7777, su.st_size) == (0, 42, 0o4755, 100_000)
    assert os.readlink(root / "bin") == "usr/bin"
    assert (root / "fifo").is_fifo()
    assert not (root / "dev/null").exists()
    assert (root / "odd \n name").read_text() == "x"


@pytest.mark.parametrize("compression", ["", "--gzip", "--bzip2", "--xz", "--lzma", "--zstd", "-Ilz4"])
async def test_unified_tar_images(tmp_path: Path, tree: Path, compression: str) -> None:
    image = pack(tree, tmp_path / "image", *filter(None, [compression]))
    target = tmp_path / "target"
    target.mkdir()
    inspection = await unpack.inspect(ImageFiles(image))
    assert (inspection.type, inspection.metadata.properties) == ("container", {"os": "test"})
    percents: list[int] = []
    await unpack.unpack(ImageFiles(image), target, progress=percents.append)
    assert_complete(target)
    assert os.getxattr(target / "rootfs/usr/bin/su", "user.test") == b"value"
    assert (target / "rootfs/usr/bin/su2").stat().st_nlink == 2
    assert (target / "templates/t.tpl").read_text() == "{{ container.name }}"


@pytest.mark.skipif(shutil.which("mksquashfs") is None, reason="needs squashfs-tools")
@pytest.mark.parametrize("rootfs", ["squashfs", "tar"])
async def test_split_images(tmp_path: Path, tree: Path, rootfs: str) -> None:
    root = tmp_path / "root"
    if rootfs == "squashfs":
        squash(tree / "rootfs", root)
    else:
        pack(tree / "rootfs", root)
    shutil.rmtree(tree / "rootfs")
    files = ImageFiles(pack(tree, tmp_path / "meta", "--xz"), root)
    assert (await unpack.inspect(files)).size >= 100_000
    target = tmp_path / "target"
    target.mkdir()
    await unpack.unpack(files, target)
    assert_complete(target)


def hostile(
    destination: Path, name: str, content: bytes = b"x", link: str = "", kind: bytes = tarfile.REGTYPE
) -> ImageFiles:
    with tarfile.open(destination, "w:gz") as archive:
        for entry_name, text, entry_kind, target in (
            ("metadata.yaml", DOCUMENT.encode(), tarfile.REGTYPE, ""),
            ("rootfs/etc/passwd", b"root", tarfile.REGTYPE, ""),
            (name, content, kind, link),
        ):
            info = tarfile.TarInfo(entry_name)
            info.size, info.type, info.linkname = len(text) if entry_kind == tarfile.REGTYPE else 0, entry_kind, target
            archive.addfile(info, io.BytesIO(text))
    return ImageFiles(destination)


@pytest.mark.parametrize(
    ("name", "link", "kind", "reason"),
    [
        ("/etc/corral-test", "", tarfile.REGTYPE, "absolute path"),
        ("rootfs/../../corral-test", "", tarfile.REGTYPE, "climbs out"),
        ("rootfs/x", "../../../etc/passwd", tarfile.LNKTYPE, "climbs out"),
        ("rootfs/sda", "", tarfile.BLKTYPE, "device node"),
        ("rootfs/etc/passwd/x", "", tarfile.REGTYPE, "cannot be unpacked"),
    ],
)
async def test_a_hostile_image_is_refused_whole(tmp_path: Path, name: str, link: str, kind: bytes, reason: str) -> None:
    files = hostile(tmp_path / "image", name, link=link, kind=kind)
    target = tmp_path / "target"
    target.mkdir()
    with pytest.raises(InvalidRequest, match=f"The image is refused: .*{reason}"):
        await unpack.unpack(files, target)
    assert list(target.iterdir()) == []
    assert not Path("/etc/corral-test").exists()


async def test_a_bomb_is_refused(tmp_path: Path) -> None:
    files = hostile(tmp_path / "image", "rootfs/zeros", bytes(50_000_000))
    assert files.size < 200_000
    target = tmp_path / "target"
    target.mkdir()
    with pytest.raises(InvalidRequest, match="unpacks to more than the 10000000 bytes"):
        await unpack.unpack(files, target, size_limit=10_000_000)
    assert list(target.iterdir()) == []


async def test_a_damaged_image_says_so(tmp_path: Path, tree: Path) -> None:
    image = pack(tree, tmp_path / "image", "--gzip")
    with open(image, "r+b") as file:
        file.truncate(image.stat().st_size // 2)
    with pytest.raises(InvalidRequest, match="it is damaged"):
        await unpack.inspect(ImageFiles(image))


async def test_the_host_is_out_of_reach_of_what_tar_does(tmp_path: Path, tree: Path) -> None:
    """A link that leads to a real directory of the host is written as it is, and nothing goes through it."""
    witness = tmp_path / "witness"
    witness.mkdir()
    (tree / "rootfs/out").symlink_to(witness)
    image = pack(tree, tmp_path / "image")
    target = tmp_path / "target"
    target.mkdir()
    await unpack.unpack(ImageFiles(image), target)
    assert os.readlink(target / "rootfs/out") == str(witness)
    assert list(witness.iterdir()) == []
