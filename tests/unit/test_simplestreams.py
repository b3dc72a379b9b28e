"""The simplestreams format, also where it is hostile."""

import contextlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from corral import simplestreams
from corral.errors import CorralError, InternalError, InvalidRequest, NotFound
from corral.simplestreams import find, is_safe, parse_index, parse_products

LOCAL = ("x86_64", "i686")
A, B, C, D, E = (letter * 64 for letter in "abcde")


def item(kind: str, sha256: str = "0" * 64, **more: Any) -> dict[str, Any]:
    return {"ftype": kind, "path": f"images/{kind}", "size": 10, "sha256": sha256, **more}


def product(versions: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"aliases": "d/12,d/bookworm", "arch": "amd64", "os": "D", "release": "12", "versions": versions, **more}


def split(fingerprint: str, kind: str = "squashfs", key: str = "combined_squashfs_sha256") -> dict[str, Any]:
    return {"items": {"meta": item("lxd.tar.xz", **{key: fingerprint}), "root": item(kind)}}


def offers(products: dict[str, Any]) -> list[simplestreams.Offer]:
    return parse_products(json.dumps({"products": products}).encode(), LOCAL)


def test_the_index_names_what_holds_images() -> None:
    index = {
        "a": {"datatype": "image-downloads", "path": "streams/v1/a.json", "products": ["x"]},
        "b": {"datatype": "image-ids", "path": "streams/v1/b.json", "products": ["x"]},
        "c": {"datatype": "image-downloads", "path": "streams/v1/c.json", "products": []},
        "d": {"datatype": "image-downloads", "path": "../../d.json", "products": ["x"]},
        "e": 7,
    }
    assert parse_index(json.dumps({"index": index}).encode()) == ["streams/v1/a.json"]


@pytest.mark.parametrize("text", [b"", b"[]", b"{", b'{"index": []}', b"[" * 100_000, b"\xff"])
def test_what_is_no_index(text: bytes) -> None:
    with pytest.raises(InternalError, match="Failed decoding the index"):
        parse_index(text)


@pytest.mark.parametrize("text", [b"", b"[]", b'{"products": []}', b"[" * 100_000])
def test_what_is_no_list_of_products(text: bytes) -> None:
    with pytest.raises(InternalError, match="Failed decoding the products"):
        parse_products(text, LOCAL)


def test_what_an_image_shows() -> None:
    version = {**split(A), "label": "release"}
    one = offers(
        {
            "x": product(
                {"20240131_0742": version},
                release_title="Bookworm",
                variant="cloud",
                version="12.5",
                support_eol="2028-06-30",
                lxd_requirements={"secureboot": "false"},
                requirements={"ignored": "x"},
            )
        }
    )[0].image
    assert one.fingerprint == A
    assert (one.type, one.architecture, one.size, one.filename) == ("container", "x86_64", 20, "lxd.tar.xz")
    assert (one.created_at, one.expires_at) == ("2024-01-31T00:00:00Z", "2028-06-30T00:00:00Z")
    assert one.properties == {
        "os": "D",
        "release": "12",
        "version": "12.5",
        "architecture": "amd64",
        "label": "release",
        "serial": "20240131_0742",
        "description": "D Bookworm amd64 (release) (20240131_0742)",
        "variant": "cloud",
        "type": "squashfs",
        "requirements.secureboot": "false",
    }


@pytest.mark.parametrize(
    ("kind", "key", "image_type"),
    [
        ("squashfs", "combined_squashfs_sha256", "container"),
        ("root.tar.xz", "combined_rootxz_sha256", "container"),
        ("root.tar.xz", "combined_sha256", "container"),
        ("disk-kvm.img", "combined_disk-kvm-img_sha256", "virtual-machine"),
        ("disk1.img", "combined_disk1-img_sha256", "virtual-machine"),
        ("uefi1.img", "combined_uefi1-img_sha256", "virtual-machine"),
    ],
)
def test_the_fingerprint_by_the_kind_of_root(kind: str, key: str, image_type: str) -> None:
    image = offers({"x": product({"20240101": split(B, kind, key)})})[0].image
    assert (image.fingerprint, image.type) == (B, image_type)
    assert [file.path for file in image.files] == ["images/lxd.tar.xz", f"images/{kind}"]


def test_a_unified_image_is_its_own_fingerprint() -> None:
    found = offers({"x": product({"20240101": {"items": {"all": item("lxd_combined.tar.gz", C)}}})})
    assert [(one.image.fingerprint, (one.image.properties or {})["type"]) for one in found] == [(C, "tar.gz")]


def test_a_squashfs_is_preferred_and_the_newest_wins() -> None:
    both = {
        "items": {
            "tar": item("root.tar.xz"),
            "squash": item("squashfs"),
            "disk": item("disk1.img"),
            "meta": item(
                "lxd.tar.xz",
                **{"combined_squashfs_sha256": A, "combined_rootxz_sha256": B, "combined_disk1-img_sha256": C},
            ),
        }
    }
    found = offers({"x": product({"20240101": split(D), "20240102": both})})
    assert find(found, "d/12", "", LOCAL).fingerprint == A
    assert find(found, "d/12", "container", LOCAL).fingerprint == A
    assert find(found, "d/12", "virtual-machine", LOCAL).fingerprint == C
    assert find(found, "d/bookworm/amd64", "", LOCAL).fingerprint == A
    assert find(found, "dddd", "", LOCAL).fingerprint == D


def test_architectures() -> None:
    found = offers(
        {
            "x": product({"20240101": split(A)}),
            "y": product({"20240201": split(B)}, arch="i386"),
            "z": product({"20240201": split(C)}, arch="arm64"),
            "u": product({"20240201": split(D)}, arch="pdp11"),
        }
    )
    assert find(found, "d/12", "", LOCAL).fingerprint == A
    assert find(found, "d/12/i386", "", LOCAL).fingerprint == B
    for name in ("d/12/arm64", "d/12/pdp11", "cccc", ""):
        with pytest.raises(NotFound):
            find(found, name, "", LOCAL)


def test_a_server_of_one_distribution_needs_no_name_of_it() -> None:
    found = offers({"x": product({"20240101": split(A)}, aliases="ubuntu/22.04,default")})
    server = "https://cloud-images.ubuntu.com/releases"
    assert find(found, "22.04", "", LOCAL, server).fingerprint == A
    assert find(found, "default", "", LOCAL, server).fingerprint == A
    with pytest.raises(NotFound):
        find(found, "22.04", "", LOCAL, "https://other.test")


def test_an_ambiguous_fingerprint() -> None:
    found = offers({"x": product({"20240101": split("a1" + "0" * 62), "20240102": split("a2" + "0" * 62)})})
    with pytest.raises(InvalidRequest, match="More than one match"):
        find(found, "a", "", LOCAL)


@pytest.mark.parametrize(
    "path",
    [
        "",
        "/x",
        "..",
        "../x",
        "a/../b",
        "a/./b",
        "a//b",
        "http://x/y",
        "a\\b",
        "a?b",
        "a#b",
        "a%2e",
        "a b",
        "a\0b",
        "x" * 5000,
    ],
)
def test_paths_that_lead_elsewhere(path: str) -> None:
    assert not is_safe(path)
    wrong = split(A)
    wrong["items"]["root"]["path"] = path
    assert offers({"x": product({"20240101": wrong})}) == []


def test_what_is_malformed_is_left_out() -> None:
    wrong_hash = {"items": {"meta": item("lxd.tar.xz", combined_squashfs_sha256=A), "root": item("squashfs", "zz")}}
    wrong_fingerprint = split("../../x")
    negative = split(A)
    negative["items"]["root"]["size"] = -1
    found = offers(
        {
            "number": 1,
            "versions": product([]),  # type: ignore[arg-type]
            "arch": {**product({"20240101": split(A)}), "arch": 5},
            "many": product(
                {
                    "short": split(A),
                    "2024010": split(A),
                    "20241301": split(A),
                    "20240102": wrong_hash,
                    "20240103": wrong_fingerprint,
                    "20240104": negative,
                    "20240105": [],
                    "20240106": {"items": {"meta": "x", "root": item("squashfs")}},
                    "20240107": {"items": {"root": item("squashfs")}},
                    "20240108": split(E),
                }
            ),
        }
    )
    assert [one.image.fingerprint for one in found] == [E]


def test_sizes_may_be_text() -> None:
    version = split(A)
    version["items"]["root"]["size"] = "32"
    assert offers({"x": product({"20240101": version})})[0].image.size == 42


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["products", "versions", "items", "aliases", "arch", "20240101", "ftype", "path", "meta"]),
            inner,
            max_size=4,
        )
    ),
    max_leaves=20,
)


@given(_JSON)
def test_any_document_is_read_or_refused(document: Any) -> None:
    data = json.dumps(document).encode()
    for parse in (parse_index, lambda text: parse_products(text, LOCAL)):
        with contextlib.suppress(CorralError):
            parse(data)
