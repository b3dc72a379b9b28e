"""The pure parts of building: apt's sources, mmdebstrap's arguments, the log's phases, the description."""

from pathlib import Path

import pytest

from corral.errors import InvalidRequest, NotSupported
from corral.server.images import apt, build, debian
from corral.server.images.recipe import Recipe

DEB822 = """\
# comment
Types: deb deb-src
URIs: http://mirror.example/debian
Suites: bookworm bookworm-updates
Components: main contrib
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg

Types: deb
URIs: http://mirror.example/security/
Suites: bookworm-security
Components: main

Types: deb
Enabled: no
URIs: http://off.example/debian
Suites: bookworm
Components: main
"""
LIST = """\
# deb http://commented.example/debian bookworm main
deb-src http://source.example/debian bookworm main
deb http://other.example/apt stable-tool main
deb cdrom:[Debian]/ bookworm main
deb [arch=amd64 signed-by=/etc/apt/keys/own.gpg] https://own.example/debian trixie main non-free # ours
"""


def recipe(release: str = "12", mirror: str = "") -> Recipe:
    return Recipe("debian", release, "default", "x86_64", mirror=mirror)


def test_deb822_sources() -> None:
    sources = apt.parse_deb822(DEB822)
    assert [(source.uri, source.suite) for source in sources] == [
        ("http://mirror.example/debian", "bookworm"),
        ("http://mirror.example/debian", "bookworm-updates"),
        ("http://mirror.example/security/", "bookworm-security"),
    ]
    mirrors = apt.choose_mirrors(sources)
    assert mirrors == apt.Mirrors(
        "http://mirror.example/debian",
        "http://mirror.example/security",
        "/usr/share/keyrings/debian-archive-keyring.gpg",
    )


def test_one_line_sources() -> None:
    mirrors = apt.choose_mirrors(apt.parse_list(LIST))
    assert mirrors == apt.Mirrors("https://own.example/debian", "", "/etc/apt/keys/own.gpg")
    assert len(apt.source_lines(mirrors, "trixie", {})) == 2


def test_a_file_of_mirrors(tmp_path: Path) -> None:
    (tmp_path / "mirrors").write_text("# ours\nhttp://first.example/debian priority:1\nhttp://second.example/debian\n")
    (tmp_path / "sources.list").write_text(f"deb mirror+file:{tmp_path}/mirrors bookworm main\n")
    assert apt.choose_mirrors(apt.read_sources(tmp_path)).archive == "http://first.example/debian"


def test_a_machine_without_debian_sources_needs_a_mirror() -> None:
    with pytest.raises(NotSupported, match="give one"):
        apt.choose_mirrors([])
    assert apt.choose_mirrors([], "http://given.example/debian/").archive == "http://given.example/debian"


def test_only_settings_for_fetching_are_passed() -> None:
    dump = (
        'Acquire::http::Proxy "http://proxy.example:3128";\nDir::Etc "etc/apt";\n'
        'Acquire::https::Proxy "";\nAcquire::Retries "3";\nDPkg::Post-Invoke:: "rm -rf /";\n'
    )
    assert apt.passed_options(dump) == ['Acquire::http::Proxy "http://proxy.example:3128";', 'Acquire::Retries "3";']


def test_the_call_of_mmdebstrap() -> None:
    mirrors = apt.Mirrors("http://m.example/debian", "http://m.example/security", "/etc/apt/keys/own.gpg")
    places = debian.Places(Path("/w/overlay.tar"), Path("/w/log"), Path("/c/it's"))
    arguments = debian.mmdebstrap_arguments(recipe(release="trixie"), mirrors, ['Acquire::Retries "3";'], places)
    assert arguments[-5:] == [
        "trixie",
        "-",
        "deb [signed-by=/etc/apt/keys/own.gpg] http://m.example/debian trixie main",
        "deb [signed-by=/etc/apt/keys/own.gpg] http://m.example/debian trixie-updates main",
        "deb [signed-by=/etc/apt/keys/own.gpg] http://m.example/security trixie-security main",
    ]
    assert '--aptopt=Acquire::Retries "3";' in arguments
    assert any("'/c/it'\"'\"'s'" in argument for argument in arguments)
    assert any("keys/own.gpg" in argument for argument in arguments if argument.startswith("--customize-hook"))


@pytest.mark.parametrize("package", ["nginx", "libc6:amd64", "g++", "nginx=1.2-3", "nginx/bookworm"])
def test_names_of_packages(package: str) -> None:
    assert Recipe("debian", "12", "default", "x86_64", (package,)).packages == (package,)


@pytest.mark.parametrize("package", ["", "-o", "a b", "a;b", "a,b", "$(x)", "../x", "?essential"])
def test_what_is_no_name_of_a_package_is_refused(package: str) -> None:
    with pytest.raises(InvalidRequest, match="no name of a package"):
        Recipe("debian", "12", "default", "x86_64", (package,))


def test_a_mirror_must_be_a_url() -> None:
    with pytest.raises(InvalidRequest, match="no URL"):
        recipe(mirror="http://x/ bookworm main\ndeb evil")


def test_releases_by_number_and_by_name() -> None:
    assert debian.parse_release("12") == debian.parse_release("bookworm") == ("12", "bookworm")
    with pytest.raises(InvalidRequest, match="No recipe for Debian '7': there are 12"):
        debian.parse_release("7")


def test_phases_of_the_log() -> None:
    assert build.estimate("") == ("Starting", 0)
    log = "I: running apt-get update...\n" + "Get:1\n" * 10
    assert build.estimate(log)[0] == "Fetching the package lists"
    assert build.estimate(log + "I: creating tarball...\n") == ("Packing", 94)


def test_the_description() -> None:
    document = build.describe(recipe(), 1700000000)
    assert document == {
        "architecture": "x86_64",
        "creation_date": 1700000000,
        "properties": {
            "os": "Debian",
            "release": "bookworm",
            "version": "12",
            "variant": "default",
            "architecture": "amd64",
            "serial": "20231114_2213",
            "description": "Debian bookworm amd64 (20231114_2213)",
        },
    }
