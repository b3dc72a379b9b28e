"""What an image file is: its compression by magic, its metadata.yaml, its fingerprint. Unpacking is in unpack.py."""

import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any

import yaml

from corral import architectures
from corral.errors import InvalidRequest
from corral.server.host.threads import in_thread

HASH_CHUNK = 1 << 20
TEXT_LIMIT = 64 * 1024
ENTRY_LIMIT = 1024


class Format(Enum):
    """A file format: the extension LXD gives it, and the program that turns it into a tar stream."""

    TAR = (".tar", ())
    GZIP = (".tar.gz", ("gzip", "-dc"))
    BZIP2 = (".tar.bz2", ("bzip2", "-dc"))
    XZ = (".tar.xz", ("xz", "-dc", "-T0"))
    LZMA = (".tar.lzma", ("xz", "-dc", "--format=lzma"))
    ZSTD = (".tar.zst", ("zstd", "-dcq"))
    LZ4 = (".tar.lz4", ("lz4", "-dc"))
    SQUASHFS = (".squashfs", ())
    QCOW2 = (".qcow2", ())

    def __init__(self, extension: str, decompress: tuple[str, ...]) -> None:
        self.extension = extension
        self.decompress = decompress


_MAGICS: tuple[tuple[int, bytes, Format], ...] = (
    (0, b"BZh", Format.BZIP2),
    (0, b"\x1f\x8b", Format.GZIP),
    (0, b"\xfd7zXZ\0", Format.XZ),
    (0, b"\x5d\0\0", Format.LZMA),
    (0, b"\x28\xb5\x2f\xfd", Format.ZSTD),
    (0, b"\x04\x22\x4d\x18", Format.LZ4),
    (0, b"hsqs", Format.SQUASHFS),
    (0, b"QFI\xfb", Format.QCOW2),
    (257, b"ustar", Format.TAR),
)


@dataclass(frozen=True, slots=True)
class Template:
    """One entry of `templates:`: when it is rendered, from which file of templates/, with which properties."""

    when: tuple[str, ...]
    template: str
    create_only: bool = False
    properties: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ImageMetadata:
    """metadata.yaml, checked. Dates are seconds since 1970, 0 for none."""

    architecture: str
    creation_date: int
    expiry_date: int = 0
    properties: Mapping[str, str] = field(default_factory=dict)
    templates: Mapping[str, Template] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ImageFiles:
    """The files of one image: a unified one, or the metadata's with the root file system's beside it."""

    main: Path
    rootfs: Path | None = None

    @property
    def size(self) -> int:
        return self.main.stat().st_size + (self.rootfs.stat().st_size if self.rootfs is not None else 0)


def image_files(images_dir: Path, fingerprint: str) -> ImageFiles:
    """The files of a stored image, named as LXD names them."""
    rootfs = images_dir / f"{fingerprint}.rootfs"
    return ImageFiles(images_dir / fingerprint, rootfs if rootfs.exists() else None)


def detect_format(path: Path) -> Format:
    """The format of a file by its first bytes; raises InvalidRequest for an unknown one."""
    with open(path, "rb") as file:
        head = file.read(512)
    for offset, magic, kind in _MAGICS:
        if head[offset : offset + len(magic)] == magic:
            return kind
    raise InvalidRequest(
        "Unsupported compression: the file is no tar archive (gz, bz2, xz, lzma, zst, lz4), squashfs or qcow2"
    )


async def fingerprint_of(files: ImageFiles) -> str:
    """The SHA-256 of the unified file, or of the metadata followed by the root file system."""
    paths = [files.main, *([files.rootfs] if files.rootfs is not None else [])]
    return await in_thread(_sha256, paths)


def _sha256(paths: Iterable[Path]) -> str:
    digest = hashlib.sha256()
    buffer = memoryview(bytearray(HASH_CHUNK))
    for path in paths:
        with open(path, "rb", buffering=0) as file:
            while count := file.readinto(buffer):
                digest.update(buffer[:count])
    return digest.hexdigest()


def parse_metadata(document: str, *, complete: bool = True) -> ImageMetadata:
    """Read metadata.yaml. Scalars keep their text, as in LXD: `release: 1.10` is "1.10".

    Raises InvalidRequest that names the wrong field. An instance's file need not be `complete` as an image's.
    """
    raw = _load(document)
    if raw in (None, "") and not complete:
        raw = {}
    if not isinstance(raw, dict):
        raise InvalidRequest("Invalid metadata.yaml: it is no mapping")
    creation_date = _date(raw, "creation_date")
    architecture = _text(raw.get("architecture", ""), "architecture")
    if complete:
        if creation_date == 0:
            raise InvalidRequest("Missing creation date")
        architectures.parse_architecture(architecture)
    templates = _mapping(raw.get("templates"), "templates")
    return ImageMetadata(
        architecture=architecture,
        creation_date=creation_date,
        expiry_date=_date(raw, "expiry_date"),
        properties=_texts(raw.get("properties"), "properties"),
        templates={path: _template(path, entry) for path, entry in templates.items()},
    )


def render_metadata(metadata: ImageMetadata) -> str:
    """metadata.yaml for these values; `parse_metadata` reads the same from it."""
    document: dict[str, Any] = {
        "architecture": metadata.architecture,
        "creation_date": metadata.creation_date,
        "expiry_date": metadata.expiry_date,
        "properties": dict(metadata.properties),
        "templates": {
            path: {
                "when": list(template.when),
                "create_only": template.create_only,
                "template": template.template,
                "properties": dict(template.properties),
            }
            for path, template in metadata.templates.items()
        },
    }
    return yaml.safe_dump(document, sort_keys=False, allow_unicode=True)


def _load(document: str) -> Any:
    # The base loader makes no objects at all: only text, lists and mappings.
    try:
        return yaml.load(document, Loader=getattr(yaml, "CBaseLoader", yaml.BaseLoader))
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        detail = re.sub(r"\s+", " ", str(error))[:200]
        raise InvalidRequest(f"Invalid metadata.yaml: {detail}") from error


def _text(value: Any, where: str) -> str:
    if not isinstance(value, str):
        raise InvalidRequest(f"Invalid metadata.yaml: {where} is no text")
    if len(value) > TEXT_LIMIT or "\0" in value:
        raise InvalidRequest(f"Invalid metadata.yaml: {where} is too long or has a NUL")
    return value


def _mapping(value: Any, where: str) -> dict[str, Any]:
    if value is None or value in ("", "null", "~"):
        return {}
    if not isinstance(value, dict):
        raise InvalidRequest(f"Invalid metadata.yaml: {where} is no mapping")
    if len(value) > ENTRY_LIMIT:
        raise InvalidRequest(f"Invalid metadata.yaml: {where} has more than {ENTRY_LIMIT} entries")
    return {_text(key, f"a key of {where}"): entry for key, entry in value.items()}


def _texts(value: Any, where: str) -> dict[str, str]:
    return {key: _text(entry, f"{where}.{key}") for key, entry in _mapping(value, where).items()}


def _date(raw: Mapping[str, Any], name: str) -> int:
    text = _text(raw.get(name, ""), name)
    if text in ("", "null", "~"):
        return 0
    try:
        number = int(text, 0) if re.fullmatch(r"-?(0x)?[0-9a-fA-F]+", text) else int(float(text))
    except (ValueError, OverflowError):
        raise InvalidRequest(f"Invalid metadata.yaml: {name} is no number of seconds: {text!r}") from None
    if not 0 <= number < 2**38:
        raise InvalidRequest(f"Invalid metadata.yaml: {name} is out of range: {text}")
    return number


def _template(path: str, value: Any) -> Template:
    where = f"templates.{path}"
    entry = _mapping(value, where)
    when = entry.get("when") or []
    if not isinstance(when, list) or len(when) > 16:
        raise InvalidRequest(f"Invalid metadata.yaml: {where}.when is no list")
    name = _text(entry.get("template", ""), f"{where}.template")
    if name == "" or name.startswith("/") or ".." in name.split("/"):
        raise InvalidRequest(f"Invalid metadata.yaml: {where}.template is no name of a file in templates/: {name!r}")
    if not path.strip("/") or ".." in path.split("/"):
        raise InvalidRequest(f"Invalid metadata.yaml: {path!r} is no path of a file in the instance")
    return Template(
        when=tuple(_text(trigger, f"{where}.when") for trigger in when),
        template=name,
        create_only=_text(entry.get("create_only", ""), f"{where}.create_only").lower() in ("true", "yes", "on", "1"),
        properties=_texts(entry.get("properties"), f"{where}.properties"),
    )
