"""Where this machine gets Debian packages from: apt's sources and its proxy, read and turned into arguments. Pure."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from corral.errors import NotSupported

DEFAULT_KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"
_DEBIAN_SUITE = re.compile(
    r"(bullseye|bookworm|trixie|forky|sid|oldoldstable|oldstable|stable|testing|unstable)(?P<part>-updates|-security|/updates)?/?"
)
_PASSED_OPTIONS = re.compile(
    r"Acquire::(http|https|Check-Valid-Until|Check-Date|Retries|ForceIPv4|ForceIPv6)\b[^\s]* \".*\";"
)


@dataclass(frozen=True, slots=True)
class Source:
    """One `deb` entry. `signed_by` is a keyring's path, or empty for apt's trusted keys."""

    uri: str
    suite: str
    components: tuple[str, ...]
    signed_by: str = ""


@dataclass(frozen=True, slots=True)
class Mirrors:
    """The archives to build from; `security` is empty where the machine gets no security updates."""

    archive: str
    security: str
    signed_by: str


def read_sources(directory: Path = Path("/etc/apt")) -> list[Source]:
    """All `deb` entries of apt's configuration, in apt's order."""
    sources: list[Source] = []
    parts = sorted((directory / "sources.list.d").glob("*")) if (directory / "sources.list.d").is_dir() else []
    for path in [directory / "sources.list", *parts]:
        if path.suffix not in (".list", ".sources") or not path.is_file():
            continue
        parse = parse_deb822 if path.suffix == ".sources" else parse_list
        sources += map(_resolve_list, parse(path.read_text(errors="replace")))
    return sources


def _resolve_list(source: Source) -> Source:
    """A source that names a file of mirrors (`mirror+file:/PATH`), with the first of them instead."""
    path = Path(source.uri.removeprefix("mirror+file:"))
    if source.uri.startswith("mirror+file:/") and path.is_file():
        for line in path.read_text(errors="replace").splitlines():
            if line.startswith(("http://", "https://")):
                return replace(source, uri=line.split()[0])
    return source


def parse_list(text: str) -> list[Source]:
    """The one-line format: `deb [signed-by=KEYRING] URI SUITE COMPONENT...`."""
    sources = []
    for line in text.splitlines():
        match = re.fullmatch(r"deb\s+(?:\[(?P<options>[^\]]*)\]\s*)?(?P<rest>.*)", line.partition("#")[0].strip())
        words = match["rest"].split() if match else []
        if match is None or len(words) < 2:
            continue
        options = dict(option.partition("=")[::2] for option in (match["options"] or "").split())
        sources.append(Source(words[0], words[1], tuple(words[2:]), options.get("signed-by", "")))
    return sources


def parse_deb822(text: str) -> list[Source]:
    """The deb822 format: stanzas with Types, URIs, Suites, Components, Signed-By."""
    sources = []
    lines = "\n".join(line for line in text.splitlines() if not line.startswith("#"))
    for stanza in re.split(r"\n[ \t]*\n", lines):
        fields = {
            match[1].lower(): match[2].strip()
            for match in re.finditer(r"^([\w-]+):(.*(?:\n[ \t].*)*)", stanza, re.MULTILINE)
        }
        if "deb" not in fields.get("types", "").split() or fields.get("enabled", "yes").lower() in ("no", "false"):
            continue
        signed_by = fields.get("signed-by", "")
        for uri in fields.get("uris", "").split():
            for suite in fields.get("suites", "").split():
                keyring = signed_by if signed_by.startswith("/") else ""
                sources.append(Source(uri, suite, tuple(fields.get("components", "").split()), keyring))
    return sources


def choose_mirrors(sources: Iterable[Source], mirror: str = "") -> Mirrors:
    """The archives that this machine uses for Debian itself.

    A `mirror` given by the user serves the archive; the security updates keep coming from where the machine has them.
    Raises NotSupported where no mirror is given and the machine uses none.
    """
    archive = security = None
    for source in sources:
        match = _DEBIAN_SUITE.fullmatch(source.suite)
        if match is None or "main" not in source.components or not _is_usable(source.uri):
            continue
        if match["part"] in ("-security", "/updates"):
            security = security or source
        elif match["part"] is None:
            archive = archive or source
    if not mirror and archive is None:
        raise NotSupported(
            "The apt sources of this machine have no Debian mirror to build from: give one (--mirror URL)"
        )
    return Mirrors(
        archive=(mirror or (archive.uri if archive is not None else "")).rstrip("/"),
        security=security.uri.rstrip("/") if security is not None else "",
        signed_by=(archive.signed_by if archive is not None else "") or DEFAULT_KEYRING,
    )


def _is_usable(uri: str) -> bool:
    """Whether a chroot and the instances can reach it too: no CD-ROMs, mirror lists or local directories."""
    return uri.startswith(("http://", "https://"))


def passed_options(dump: str) -> list[str]:
    """Those settings of the machine (`apt-config dump`) that decide how packages are fetched: proxy, TLS, dates."""
    options = []
    for line in dump.splitlines():
        if _PASSED_OPTIONS.fullmatch(line) and not line.endswith(' "";'):
            options.append(line)
    return options


def source_lines(mirrors: Mirrors, codename: str, options: Mapping[str, str]) -> list[str]:
    """The lines of sources.list for a release. `options` go into the brackets of each."""
    brackets = " ".join(f"{key}={value}" for key, value in options.items())
    prefix = f"deb [{brackets}] " if brackets else "deb "
    lines = [f"{prefix}{mirrors.archive} {codename} main"]
    if codename != "sid":
        lines.append(f"{prefix}{mirrors.archive} {codename}-updates main")
        if mirrors.security:
            lines.append(f"{prefix}{mirrors.security} {codename}-security main")
    return lines
