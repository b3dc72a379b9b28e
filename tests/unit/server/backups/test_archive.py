"""Archives of backups: names, compression, the arguments of tar, programs that write into each other."""

import io
import subprocess
import tarfile
from pathlib import Path

import pytest

from corral.errors import CommandFailed, InvalidRequest
from corral.server.backups import archive as archives
from corral.server.backups.archive import check_algorithm, check_name, compressor, next_name, pack_command


def test_tar_packs_under_the_names_of_a_backup(tmp_path: Path) -> None:
    volume, snapshot = tmp_path / "containers" / "c1", tmp_path / "containers-snapshots" / "c1" / "a.b"
    for directory in (volume, snapshot):
        (directory / "rootfs").mkdir(parents=True)
        (directory / "rootfs" / "file").write_text("x")
        (directory / "rootfs" / "hard").hardlink_to(directory / "rootfs" / "file")
        (directory / "rootfs" / "soft").symlink_to(f"{directory}/rootfs/file")
    index = tmp_path / "index.yaml"
    index.write_text("name: c1\n")
    parts = [(index, "backup/index.yaml"), (snapshot, "backup/snapshots/a.b"), (volume, "backup/container")]
    archive = tmp_path / "archive"
    with archive.open("wb") as output:
        subprocess.run(pack_command(parts), check=True, stdout=output)
    listed = subprocess.run(["tar", "-tvf", archive], check=True, capture_output=True, text=True).stdout.splitlines()
    assert listed[0].endswith("backup/index.yaml")
    assert any(line.endswith(f"backup/container/rootfs/soft -> {volume}/rootfs/file") for line in listed)
    linked = [line for line in listed if " link to " in line]
    assert len(linked) == 2
    for line in linked:
        name, _, target = line.rpartition(" link to ")
        assert name.split()[-1].rpartition("/")[0] == target.rpartition("/")[0]
        assert target.startswith("backup/")


@pytest.mark.parametrize("name", ["", "a/b", ".", "..", ".hidden", "a\n", "x" * 201])
def test_names(name: str) -> None:
    with pytest.raises(InvalidRequest):
        check_name(name)


def test_the_next_name_of_a_series() -> None:
    assert next_name([]) == "backup0"
    assert next_name(["backup0", "backup9", "other", "backup99999999999999999999"]) == "backup10"


@pytest.mark.parametrize("wrong", ["xz -1", "/bin/sh", "no-such-program", "sh", "", "xz;id", "--help"])
def test_clients_choose_algorithms_by_name(wrong: str) -> None:
    check_algorithm("xz")
    with pytest.raises(InvalidRequest):
        check_algorithm(wrong)


@pytest.mark.parametrize("algorithm", ["none", "gzip", "bzip2", "xz", "lzma", "zstd"])
async def test_what_programs_write_becomes_members(tmp_path: Path, algorithm: str) -> None:
    target = tmp_path / "archive"
    streams = [("backup/container.bin", ["seq", "100000"]), ("backup/empty.bin", ["true"])]
    await archives.pack_streams({"backup/index.yaml": "name: x\n"}, streams, compressor(algorithm), target)
    members = read(target, algorithm)
    assert list(members) == ["backup/index.yaml", "backup/container.bin", "backup/empty.bin"]
    assert members["backup/container.bin"] == b"".join(b"%d\n" % number for number in range(1, 100001))


def read(archive: Path, algorithm: str) -> dict[str, bytes]:
    """The members of an archive."""
    unpack = ["cat"] if algorithm == "none" else [algorithm, "-dc"]
    with archive.open("rb") as file:
        plain = subprocess.run(unpack, stdin=file, check=True, capture_output=True).stdout
    with tarfile.open(fileobj=io.BytesIO(plain)) as tar:
        return {one.name: content.read() for one in tar if (content := tar.extractfile(one)) is not None}


@pytest.mark.parametrize("argv", [["false"], ["sh", "-c", "echo no >&2; exit 3"], ["no-such-program"]])
async def test_a_program_that_fails_fails_the_archive(tmp_path: Path, argv: list[str]) -> None:
    with pytest.raises(CommandFailed):
        await archives.pack_streams({}, [("a", argv)], compressor("gzip"), tmp_path / "archive")


async def test_a_compressor_that_fails_fails_the_archive(tmp_path: Path) -> None:
    with pytest.raises(CommandFailed):
        await archives.pack_streams({}, [("a", ["seq", "1000000"])], ["false"], tmp_path / "archive")
