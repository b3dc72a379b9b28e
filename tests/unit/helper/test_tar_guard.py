"""The guard against a corpus of hostile, damaged and odd archives, all made here."""

import contextlib
import io
import tarfile
from collections.abc import Iterator
from typing import Any, BinaryIO

import pytest
from hypothesis import given
from hypothesis import strategies as st

from corral.helper.tar_guard import Contents, Limits, Policy, Refused, TarGuard, parse_number, parse_pax, relative_path

LIMITS = Limits(size=10_000_000, members=100)
Entry = tuple[tarfile.TarInfo, bytes]


def entry(name: str, content: bytes = b"", kind: bytes = tarfile.REGTYPE, link: str = "") -> Entry:
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.size = kind, link, len(content)
    return info, content


def device(name: str, kind: bytes, major: int, minor: int) -> Entry:
    info = tarfile.TarInfo(name)
    info.type, info.devmajor, info.devminor = kind, major, minor
    return info, b""


def directory(name: str) -> Entry:
    return entry(name, kind=tarfile.DIRTYPE)


def archive(*entries: Entry, form: int = tarfile.GNU_FORMAT) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=form) as tar:
        for info, content in entries:
            tar.addfile(info, io.BytesIO(content))
    return stream.getvalue()


def judge(data: bytes, layout: str = "rootfs", limits: Limits = LIMITS, **options: Any) -> tuple[Contents, bytes]:
    out = io.BytesIO()
    contents = TarGuard(io.BytesIO(data), Policy(layout, limits, **options), out.write).run()
    return contents, out.getvalue()


def names(data: bytes) -> list[str]:
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        return tar.getnames()


HOSTILE: dict[str, tuple[bytes, str]] = {
    "absolute": (archive(entry("/etc/passwd", b"x")), "absolute"),
    "dotted": (archive(entry("a/../../etc/passwd", b"x")), "climbs out"),
    "dotted pax": (archive(entry("../" + "x" * 200, b"x"), form=tarfile.PAX_FORMAT), "climbs out"),
    "dotted long name": (archive(entry("a/" * 80 + "../../x", b"x")), "climbs out"),
    "hard link out": (archive(entry("a", kind=tarfile.LNKTYPE, link="../../etc/shadow")), "climbs out"),
    "absolute hard link": (archive(entry("a", kind=tarfile.LNKTYPE, link="/etc/shadow")), "absolute"),
    "through a link": (
        archive(entry("a", kind=tarfile.SYMTYPE, link="/etc"), entry("a/cron.d/x", b"x")),
        "symbolic link",
    ),
    "through a deep link": (
        archive(entry("d/a", kind=tarfile.SYMTYPE, link="../.."), entry("d/a/b/c/x", b"x")),
        "symbolic link",
    ),
    "link and directory": (archive(entry("a", kind=tarfile.SYMTYPE, link="/"), directory("a")), "both"),
    "disk": (archive(device("disk", tarfile.BLKTYPE, 8, 0)), "device node"),
    "memory": (archive(device("x/mem", tarfile.CHRTYPE, 1, 1)), "device node"),
    "unknown type": (archive(entry("a", kind=b"Z")), "unknown type"),
    "global header": (
        archive(entry("x", b"20 path=/etc/passwd\n", kind=b"g"), entry("a", b"x")),
        "global",
    ),
    "directory with content": (archive(entry("d", b"content", kind=tarfile.DIRTYPE)), "has content"),
    "nonsense": (b"\x01" * 4096, "no number"),
    "empty": (b"", "ends in the middle"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_archives_are_refused_with_the_reason(name: str) -> None:
    data, reason = HOSTILE[name]
    with pytest.raises(Refused, match=reason):
        judge(data)


def test_a_harmless_archive_passes_unchanged() -> None:
    data = archive(
        directory("./"),
        entry("./bin", kind=tarfile.SYMTYPE, link="/usr/bin"),
        entry("usr/bin/sh", b"#" * 5000),
        entry("usr/bin/ash", kind=tarfile.LNKTYPE, link="usr/bin/sh"),
        entry("d" * 90 + "/" + "n" * 90, b"long"),
        device("var/spool/postfix/dev/null", tarfile.CHRTYPE, 1, 3),
        entry("fifo", kind=tarfile.FIFOTYPE),
    )
    contents, out = judge(data)
    assert names(out) == names(data)
    assert contents.members == 7
    assert contents.size == 5004
    with tarfile.open(fileobj=io.BytesIO(out)) as tar:
        file = tar.extractfile("usr/bin/sh")
        assert file is not None
        assert file.read() == b"#" * 5000


@pytest.mark.parametrize("form", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT, tarfile.USTAR_FORMAT])
def test_devices_below_dev_are_left_out(form: int) -> None:
    data = archive(
        directory("dev"),
        device("dev/sda", tarfile.BLKTYPE, 8, 0),
        device("./dev/null", tarfile.CHRTYPE, 1, 3),
        entry("dev/fd", kind=tarfile.SYMTYPE, link="/proc/self/fd"),
        form=form,
    )
    assert names(judge(data)[1]) == ["dev", "dev/fd"]


def test_devices_are_left_out_where_none_can_be_made() -> None:
    data = archive(device("opt/null", tarfile.CHRTYPE, 1, 3), entry("a", b"x"))
    assert names(judge(data, allow_devices=False)[1]) == ["a"]


IMAGE_DOCUMENT = b"architecture: x86_64\n"


def test_an_image_shows_its_parts_and_loses_the_rest() -> None:
    data = archive(
        entry("./metadata.yaml", IMAGE_DOCUMENT),
        directory("templates"),
        entry("templates/hostname.tpl", b"{{ container.name }}"),
        entry("backup.yaml", b"not ours"),
        directory("rootfs"),
        entry("rootfs/etc/hostname", b"c1\n"),
    )
    contents, out = judge(data, "image")
    assert contents.document == IMAGE_DOCUMENT
    assert contents.templates == ["hostname.tpl"]
    assert contents.has_root
    assert not contents.has_disk
    assert "backup.yaml" not in names(out)


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (entry("metadata.yaml", kind=tarfile.SYMTYPE, link="/etc/shadow"), "no regular file"),
        (entry("templates/x", kind=tarfile.SYMTYPE, link="/etc/shadow"), "no regular file"),
        (entry("templates", kind=tarfile.SYMTYPE, link="/etc"), "no regular file"),
        (entry("rootfs", kind=tarfile.SYMTYPE, link="/"), "no directory"),
        (entry("rootfs/x", kind=tarfile.LNKTYPE, link="metadata.yaml"), "outside rootfs"),
        (device("rootfs/sda", tarfile.BLKTYPE, 8, 0), "device node"),
        (entry("metadata.yaml", b"#" * (1 << 21)), "larger than"),
    ],
)
def test_an_image_with_a_bad_part_is_refused(bad: Entry, reason: str) -> None:
    with pytest.raises(Refused, match=reason):
        judge(archive(bad), "image")


def test_bounds_on_members_and_on_bytes() -> None:
    with pytest.raises(Refused, match="more than 100 entries"):
        judge(archive(*(entry(str(number)) for number in range(101))))
    with pytest.raises(Refused, match="unpacks to more than"):
        judge(archive(entry("a", b"x" * 2000)), limits=Limits(1000, 10))


@given(st.integers(min_value=0, max_value=3000))
def test_an_archive_cut_short_is_damaged(length: int) -> None:
    data = archive(entry("a", b"x" * 700), entry("b" * 150, b"y" * 700))
    with pytest.raises(Refused, match=r"damaged|malformed"):
        judge(data[:length])


@given(st.binary(min_size=512, max_size=2048))
def test_arbitrary_bytes_never_raise_anything_else(data: bytes) -> None:
    with pytest.raises(Refused):
        judge(b"\x01" + data)


def test_numbers_and_records() -> None:
    assert parse_number(b"0000644\0") == 0o644
    assert parse_number(b"       \0") == 0
    assert parse_number(b"\x80" + (2**40).to_bytes(11, "big")) == 2**40
    assert parse_pax(b"12 path=abc\n13 size=1234\n") == {"path": "abc", "size": "1234"}
    for bad in (b"99 path=a\n", b"x path=a\n", b"5 a=b\n", b"8 abcde\n"):
        with pytest.raises(Refused):
            parse_pax(bad)
    assert relative_path("./a//b/./") == "a/b"


def test_an_image_may_name_its_own_parts_from_the_root() -> None:
    parts = archive(entry("metadata.yaml", b"{}"), entry("/rootfs/etc/inittab", b"x"))
    contents, _ = judge(parts, "image")
    assert contents.has_root
    for name in ("/etc/passwd", "//rootfs/x", "/rootfs/../etc/passwd"):
        with pytest.raises(Refused):
            judge(archive(entry("metadata.yaml", b"{}"), entry(name, b"x")), "image")


def directory_of(name: str) -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    info.type = tarfile.DIRTYPE
    return info, b""


def file_of(name: str, content: bytes = b"x") -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    info.size = len(content)
    return info, content


def link_of(name: str, target: str, kind: bytes = tarfile.LNKTYPE) -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info, b""


BACKUP = (
    file_of("backup/index.yaml", b"name: c1"),
    directory_of("backup/snapshots/snap0"),
    file_of("backup/snapshots/snap0/rootfs/old"),
    directory_of("backup/container"),
    file_of("backup/container/backup.yaml"),
    file_of("backup/container/rootfs/new"),
    link_of("backup/container/rootfs/linked", "backup/container/rootfs/new"),
    file_of("backup/container/strange"),
    file_of("elsewhere"),
)


def test_a_backup_is_judged_whole_and_taken_by_parts() -> None:
    data = archive(*BACKUP)
    contents, out = judge(data, "backup")
    assert contents.document == b"name: c1"
    assert contents.has_root
    assert "backup/container/strange" not in names(out)
    assert "elsewhere" not in names(out)
    _, out = judge(data, "backup", prefix="backup/snapshots/snap0")
    assert names(out) == ["backup/snapshots/snap0", "backup/snapshots/snap0/rootfs/old"]
    _, out = judge(data, "backup", prefix="backup/container")
    assert names(out) == [
        "backup/container",
        "backup/container/backup.yaml",
        "backup/container/rootfs/new",
        "backup/container/rootfs/linked",
    ]


@pytest.mark.parametrize(
    "entry",
    [
        link_of("backup/container/rootfs/a", "backup/snapshots/snap0/rootfs/old"),
        link_of("backup/container/rootfs/a", "backup/index.yaml"),
        link_of("backup/container", "/etc", tarfile.SYMTYPE),
        link_of("backup/container/rootfs", "/etc", tarfile.SYMTYPE),
        link_of("backup/container/templates/a", "/etc/shadow", tarfile.SYMTYPE),
        link_of("backup/container/backup.yaml", "/etc/shadow", tarfile.SYMTYPE),
        link_of("backup/index.yaml", "/etc/shadow", tarfile.SYMTYPE),
        file_of("backup/container/../../etc/passwd"),
        file_of("/etc/passwd"),
    ],
)
def test_hostile_backups(entry: tuple[tarfile.TarInfo, bytes]) -> None:
    with pytest.raises(Refused):
        judge(archive(entry), "backup")


def test_streams_of_a_backup_are_handed_over_and_nothing_else_of_them() -> None:
    taken: dict[str, io.BytesIO] = {}

    @contextlib.contextmanager
    def keep(name: str) -> Iterator[BinaryIO]:
        taken[name] = io.BytesIO()
        yield taken[name]

    data = archive(
        entry("backup/index.yaml", b"name: c1"),
        entry("backup/optimized_header.yaml", b"subvolumes: []"),
        entry("backup/snapshots/s.bin", b"s" * 700),
        entry("backup/container.bin", b"c" * 512),
        entry("backup/container_a.bin", b"a"),
        entry("backup/volume-snapshots/x.bin/rootfs", b"x"),
        entry("elsewhere.bin", b"e"),
    )
    wanted = {"backup/snapshots/s.bin", "backup/container.bin"}
    out = io.BytesIO()
    policy = Policy("backup", LIMITS)
    receive = TarGuard(io.BytesIO(data), policy, out.write, lambda name: keep(name) if name in wanted else None)
    contents = receive.run()
    assert contents.document == b"name: c1"
    assert contents.header == b"subvolumes: []"
    assert contents.streams == ["backup/snapshots/s.bin", "backup/container.bin", "backup/container_a.bin"]
    assert {name: file.getvalue() for name, file in taken.items()} == {
        "backup/snapshots/s.bin": b"s" * 700,
        "backup/container.bin": b"c" * 512,
    }
    assert names(out.getvalue()) == [
        "backup/index.yaml",
        "backup/optimized_header.yaml",
        "backup/volume-snapshots/x.bin/rootfs",
    ]


def test_a_custom_volume_is_taken_by_parts() -> None:
    data = archive(
        entry("backup/index.yaml", b"x"),
        directory("backup/volume-snapshots/s"),
        entry("backup/volume-snapshots/s/metadata.yaml", b"old"),
        directory("backup/volume"),
        entry("backup/volume/any", b"new"),
        entry("backup/volume/hard", kind=tarfile.LNKTYPE, link="backup/volume/any"),
    )
    _, out = judge(data, "backup", prefix="backup/volume")
    assert names(out) == ["backup/volume", "backup/volume/any", "backup/volume/hard"]
    _, out = judge(data, "backup", prefix="backup/volume-snapshots/s")
    assert names(out) == ["backup/volume-snapshots/s", "backup/volume-snapshots/s/metadata.yaml"]
    for bad in (
        entry("backup/volume", kind=tarfile.SYMTYPE, link="/etc"),
        entry("backup/volume/a", kind=tarfile.LNKTYPE, link="backup/container/rootfs/a"),
        entry("backup/optimized_header.yaml", kind=tarfile.SYMTYPE, link="/etc/shadow"),
        device("backup/volume/sda", tarfile.BLKTYPE, 8, 0),
    ):
        with pytest.raises(Refused):
            judge(archive(bad), "backup")
