"""The simplestreams format: index and products, turned into the images that they offer. Pure.

Everything here comes from a server that may be hostile: what is malformed is left out, and the paths of files stay
below the server's URL.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import TypeVar

import msgspec

from corral import architectures
from corral.errors import InternalError, InvalidRequest, NotFound

T = TypeVar("T")

INDEX_PATH = "streams/v1/index.json"
UNIFIED, METADATA = "lxd_combined.tar.gz", "lxd.tar.xz"
ROOTS: Mapping[str, str] = {
    "squashfs": "container",
    "root.tar.xz": "container",
    "disk-kvm.img": "virtual-machine",
    "uefi1.img": "virtual-machine",
    "disk1.img": "virtual-machine",
}
"""The files that a root can be, the preferred first, and the type of the image that they make."""

_DEFAULT_OS = {"cloud-images.ubuntu.com": "ubuntu"}
"""Servers of one distribution, whose aliases are used without its name."""
_SHA256 = re.compile(r"[0-9a-f]{64}")
_SERIAL = re.compile(r"\d{8}")
_TEXT_LIMIT = 4096
NEVER = "1970-01-01T00:00:00Z"
"""The expiry of an image that does not expire."""


class _Item(msgspec.Struct):
    ftype: str
    path: str
    size: int = 0
    sha256: str | None = None
    combined_sha256: str | None = None
    squashfs: str | None = msgspec.field(default=None, name="combined_squashfs_sha256")
    root_xz: str | None = msgspec.field(default=None, name="combined_rootxz_sha256")
    disk_kvm: str | None = msgspec.field(default=None, name="combined_disk-kvm-img_sha256")
    disk1: str | None = msgspec.field(default=None, name="combined_disk1-img_sha256")
    uefi1: str | None = msgspec.field(default=None, name="combined_uefi1-img_sha256")

    def combined(self, root: str) -> str:
        """The fingerprint of the image that this metadata makes with a kind of root; empty where it tells none."""
        by_root = {
            "squashfs": self.squashfs,
            "root.tar.xz": self.root_xz or self.combined_sha256,
            "disk-kvm.img": self.disk_kvm,
            "uefi1.img": self.uefi1,
            "disk1.img": self.disk1,
        }
        return by_root[root] or ""


class _Version(msgspec.Struct):
    items: dict[str, msgspec.Raw] = {}
    label: str | None = None


class _Product(msgspec.Struct):
    versions: dict[str, msgspec.Raw] = {}
    aliases: str | None = None
    arch: str = ""
    os: str | None = None
    release: str | None = None
    release_title: str | None = None
    version: str | None = None
    variant: str | None = None
    support_eol: str | None = None
    lxd_requirements: dict[str, str] | None = None
    requirements: dict[str, str] | None = None


class _Products(msgspec.Struct):
    products: dict[str, msgspec.Raw] = {}


class _IndexEntry(msgspec.Struct):
    datatype: str = ""
    path: str = ""
    products: list[str] | None = None


class _Index(msgspec.Struct):
    index: dict[str, msgspec.Raw] = {}


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """A file of an image at a server of files: `path` is relative to the server's URL, `size` 0 where unknown."""

    path: str
    sha256: str
    size: int


@dataclass(frozen=True, slots=True)
class RemoteImage:
    """What another server says of an image. Times are RFC 3339 text, empty for unknown; `size` 0 is unknown.

    `properties` is None where only the image's own metadata tells them.
    """

    fingerprint: str
    type: str
    architecture: str = ""
    size: int = 0
    filename: str = ""
    created_at: str = ""
    expires_at: str = ""
    properties: Mapping[str, str] | None = None
    aliases: Sequence[str] = ()
    files: Sequence[RemoteFile] = field(default_factory=tuple)


@dataclass(frozen=True, slots=True)
class Offer:
    """An image of a catalog with what orders it: the rank of its kind of root, and its serial."""

    image: RemoteImage
    os: str
    release: str
    serial: str
    rank: int


def parse_index(data: bytes) -> list[str]:
    """The paths of the files of products that hold images; raises InternalError for what is no index."""
    try:
        index = msgspec.json.decode(data, type=_Index)
    except (msgspec.MsgspecError, RecursionError) as error:
        raise InternalError(f"Failed decoding the index of the image server: {error}") from error
    paths = []
    for raw in index.index.values():
        entry = _decode(raw, _IndexEntry)
        if entry is not None and entry.datatype == "image-downloads" and entry.products and is_safe(entry.path):
            paths.append(entry.path)
    return paths


def parse_products(data: bytes, architectures: Iterable[str]) -> list[Offer]:
    """The images of some architectures (the kernel's names); raises InternalError for what is no list of products."""
    try:
        products = msgspec.json.decode(data, type=_Products)
    except (msgspec.MsgspecError, RecursionError) as error:
        raise InternalError(f"Failed decoding the products of the image server: {error}") from error
    wanted = set(architectures)
    offers: list[Offer] = []
    for raw in products.products.values():
        product = _decode(raw, _Product)
        architecture = _architecture(product.arch) if product is not None else ""
        if product is None or architecture not in wanted:
            continue
        for serial, raw_version in product.versions.items():
            version = _decode(raw_version, _Version)
            if version is not None and _created_at(serial):
                offers += _offers(product, architecture, serial, version)
    return offers


def _offers(product: _Product, architecture: str, serial: str, version: _Version) -> Iterator[Offer]:
    items = [item for raw in version.items.values() if (item := _decode(raw, _Item)) is not None and _is_usable(item)]
    for item in items:
        if item.ftype == UNIFIED:
            yield _offer(product, architecture, (serial, version.label or ""), (item,), item.sha256 or "")
        elif item.ftype == METADATA:
            for root in items:
                if root.ftype in ROOTS and _SHA256.fullmatch(fingerprint := item.combined(root.ftype)):
                    yield _offer(product, architecture, (serial, version.label or ""), (item, root), fingerprint)


def _offer(
    product: _Product, architecture: str, version: tuple[str, str], items: Sequence[_Item], fingerprint: str
) -> Offer:
    serial, label = version
    root = items[1].ftype if len(items) > 1 else ""
    words = [product.os, product.release_title, product.arch, f"({label})" if label else "", f"({serial})"]
    properties = {
        "os": product.os,
        "release": product.release,
        "version": product.version,
        "architecture": product.arch,
        "label": label,
        "serial": serial,
        "description": " ".join(word for word in words if word),
        "variant": product.variant,
        "type": root or "tar.gz",
    }
    for name, value in (product.lxd_requirements or product.requirements or {}).items():
        properties[f"requirements.{name}"] = value
    image = RemoteImage(
        fingerprint=fingerprint,
        type=ROOTS.get(root, "container"),
        architecture=architecture,
        size=sum(item.size for item in items) if all(item.size for item in items) else 0,
        filename=items[0].path.rpartition("/")[2],
        created_at=_created_at(serial),
        expires_at=_eol(product.support_eol),
        properties={key: value[:_TEXT_LIMIT] for key, value in properties.items() if value},
        aliases=[name for name in (product.aliases or "").split(",") if name],
        files=tuple(RemoteFile(item.path, item.sha256 or "", item.size) for item in items),
    )
    rank = list(ROOTS).index(root) if root else len(ROOTS)
    return Offer(image, product.os or "", product.release or "", serial, rank)


def find(offers: Iterable[Offer], name: str, kind: str, architectures: Sequence[str], server: str = "") -> RemoteImage:
    """The image that a name means: the newest of an alias, of the first architecture that has it, else the one whose
    fingerprint begins so.

    `kind` is a type of image, or empty for a container if there is one. Raises NotFound, InvalidRequest.
    """
    ordered = _newest_first(offers)
    found = _find_alias(ordered, name, kind, architectures, server)
    if found is not None:
        return found
    matching = {one.image.fingerprint: one.image for one in ordered if name and one.image.fingerprint.startswith(name)}
    if len(matching) > 1:
        raise InvalidRequest("More than one match for the provided partial fingerprint")
    for image in matching.values():
        return image
    raise NotFound("Failed getting remote image info: The requested image couldn't be found")


def name_images(
    offers: Iterable[Offer], architectures: Sequence[str], server: str = ""
) -> list[tuple[RemoteImage, list[str]]]:
    """All images, the newest first, each with the names that mean it: an older one of the same names has none."""
    prefix = _prefix_of(server)
    taken: set[tuple[str, str]] = set()
    named = []
    for offer in _newest_first(offers):
        image = offer.image
        names = _names(image, prefix, short=image.architecture == architectures[0])
        free = sorted(name for name in names if (image.type, name) not in taken)
        taken |= {(image.type, name) for name in free}
        named.append((image, free))
    return named


def _prefix_of(server: str) -> str:
    return next((f"{os}/" for host, os in _DEFAULT_OS.items() if f"://{host}" in server), "")


def _find_alias(
    offers: Sequence[Offer], name: str, kind: str, architectures: Sequence[str], server: str
) -> RemoteImage | None:
    prefix = _prefix_of(server)
    for wanted in [kind] if kind else ["container", "virtual-machine"]:
        for architecture in architectures:
            for offer in offers:
                image = offer.image
                if (image.type, image.architecture) != (wanted, architecture):
                    continue
                if name in _names(image, prefix, short=architecture == architectures[0]):
                    return image
    return None


def _names(image: RemoteImage, prefix: str, *, short: bool) -> set[str]:
    """All names of an image: with its architecture always, without it where that is the machine's own."""
    names = {alias.removeprefix(prefix) for alias in image.aliases}
    suffix = (image.properties or {}).get("architecture", "")
    return {f"{name}/{suffix}" for name in names} | (names if short else set())


def _newest_first(offers: Iterable[Offer]) -> list[Offer]:
    by_rank = sorted(offers, key=lambda one: one.rank)
    by_date = sorted(by_rank, key=lambda one: one.serial, reverse=True)
    return sorted(by_date, key=lambda one: (one.os == "", one.os, one.release == "", one.release))


def is_safe(path: str) -> bool:
    """Whether a path of the catalog stays below the server's URL."""
    parts = path.split("/")
    return (
        0 < len(path) <= _TEXT_LIMIT
        and not {"", ".", ".."} & set(parts)
        and not re.search(r"[\x00-\x20\x7f\\?#%]|:", path)
    )


def _is_usable(item: _Item) -> bool:
    return is_safe(item.path) and item.size >= 0 and _SHA256.fullmatch(item.sha256 or "") is not None


def _architecture(name: str) -> str:
    try:
        return architectures.canonical_name(name)
    except InvalidRequest:
        return ""


def _created_at(serial: str) -> str:
    """The day that a serial begins with; empty where it begins with none."""
    if _SERIAL.match(serial) is None:
        return ""
    try:
        return f"{datetime.strptime(serial[:8], '%Y%m%d').date().isoformat()}T00:00:00Z"
    except ValueError:
        return ""


def _eol(text: str | None) -> str:
    try:
        return f"{datetime.strptime(text or '', '%Y-%m-%d').date().isoformat()}T00:00:00Z"
    except ValueError:
        return NEVER


def _decode(raw: msgspec.Raw, kind: type[T]) -> T | None:
    try:
        return msgspec.json.decode(raw, type=kind, strict=False)
    except (msgspec.MsgspecError, RecursionError):
        return None
