"""Image formats by magic, and metadata.yaml."""

from pathlib import Path

import pytest

from corral.architectures import canonical_name
from corral.errors import InvalidRequest
from corral.server.images.formats import (
    Format,
    ImageFiles,
    detect_format,
    fingerprint_of,
    parse_metadata,
)

MINIMAL = "architecture: x86_64\ncreation_date: 1700000000\n"


@pytest.mark.parametrize(
    ("head", "kind"),
    [
        (b"BZh9", Format.BZIP2),
        (b"\x1f\x8b\x08", Format.GZIP),
        (b"\xfd7zXZ\0", Format.XZ),
        (b"\x5d\0\0\x80", Format.LZMA),
        (b"\x28\xb5\x2f\xfd", Format.ZSTD),
        (b"\x04\x22\x4d\x18", Format.LZ4),
        (b"hsqs", Format.SQUASHFS),
        (b"QFI\xfb", Format.QCOW2),
        (bytes(257) + b"ustar", Format.TAR),
    ],
)
def test_formats_are_known_by_their_first_bytes(tmp_path: Path, head: bytes, kind: Format) -> None:
    path = tmp_path / "file"
    path.write_bytes(head)
    assert detect_format(path) is kind


def test_an_unknown_format_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"hello")
    with pytest.raises(InvalidRequest, match="Unsupported compression"):
        detect_format(path)


def test_scalars_keep_their_text() -> None:
    metadata = parse_metadata(MINIMAL + "properties: {release: 1.10, os: Debian, lts: yes}\nexpiry_date: 5\n")
    assert metadata.properties == {"release": "1.10", "os": "Debian", "lts": "yes"}
    assert (metadata.creation_date, metadata.expiry_date) == (1700000000, 5)


def test_templates() -> None:
    metadata = parse_metadata(
        MINIMAL + "templates:\n  /etc/hostname:\n    when: [create, copy]\n    create_only: true\n"
        "    template: hostname.tpl\n    properties: {a: b}\n"
    )
    template = metadata.templates["/etc/hostname"]
    assert template.when == ("create", "copy")
    assert template.create_only
    assert template.properties == {"a": "b"}


@pytest.mark.parametrize(
    ("document", "reason"),
    [
        ("architecture: x86_64\n", "Missing creation date"),
        ("creation_date: 1\n", "Architecture isn't supported: "),
        ("creation_date: 1\narchitecture: vax\n", "Architecture isn't supported: vax"),
        ("creation_date: soon\narchitecture: x86_64\n", "no number of seconds"),
        ("creation_date: 9999999999999\narchitecture: x86_64\n", "out of range"),
        ("- a\n", "no mapping"),
        ("a: [\n", "Invalid metadata.yaml"),
        ("[" * 5000, "Invalid metadata.yaml"),
        (MINIMAL + "properties: {a: {b: c}}\n", r"properties\.a is no text"),
        (MINIMAL + "properties: [a]\n", "properties is no mapping"),
        (MINIMAL + "a: &x [*x]\nproperties: {a: *x}\n", "recursive node"),
        (MINIMAL + "templates: {/etc/x: {template: ../../shadow}}\n", "no name of a file"),
        (MINIMAL + "templates: {/etc/../../x: {template: a}}\n", "no path of a file"),
        (MINIMAL + "templates: {/etc/x: {template: a, when: create}}\n", "when is no list"),
        (MINIMAL + "properties: {a: !!python/object/apply:os.getpid []}\n", "is no text"),
    ],
)
def test_bad_metadata_names_what_is_wrong(document: str, reason: str) -> None:
    with pytest.raises(InvalidRequest, match=reason):
        parse_metadata(document)


async def test_the_fingerprint_covers_both_files(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"a")
    (tmp_path / "b").write_bytes(b"b")
    (tmp_path / "ab").write_bytes(b"ab")
    split = await fingerprint_of(ImageFiles(tmp_path / "a", tmp_path / "b"))
    assert split == await fingerprint_of(ImageFiles(tmp_path / "ab"))


def test_architectures() -> None:
    assert canonical_name("amd64") == "x86_64"
    assert canonical_name("aarch64") == "aarch64"
