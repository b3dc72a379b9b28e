"""Builds images on this machine: Debian from its package mirror, and busybox from the host's own program.

The result is a split image, quick to import: a small tar with metadata.yaml and templates/, and the root file system
as tar.zst (Debian) or plain tar (busybox).
"""

import asyncio
import contextlib
import io
import os
import re
import shutil
import tarfile
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from corral.errors import CommandFailed, InternalError, InvalidRequest, NotSupported
from corral.server.background import alongside
from corral.server.host.programs import command
from corral.server.host.threads import in_thread
from corral.server.images import apt, busybox, debian
from corral.server.images.formats import ImageFiles
from corral.server.images.recipe import Recipe, TemplateSource

DEADLINE_S = 3600.0
PROGRESS_EVERY_S = 0.5
PACKAGE_AGE_LIMIT_S = 45 * 86400
LOG_TAIL_LINES = 15

Progress = Callable[[str, int], None]
"""Takes the phase's name and the share of the whole that is done, in percent."""


@dataclass(frozen=True, slots=True)
class _Phase:
    """A stage of mmdebstrap: the line that starts it, its name, where it starts in percent, its usual lines."""

    marker: str
    name: str
    percent: int
    lines: int


_PHASES = (
    _Phase("I: running apt-get update", "Fetching the package lists", 2, 30),
    _Phase("I: downloading packages with apt", "Fetching packages", 8, 150),
    _Phase("I: extracting archives", "Unpacking the base system", 18, 100),
    _Phase("I: installing essential packages", "Installing the base system", 25, 500),
    _Phase("I: installing remaining packages", "Installing packages", 45, 900),
    _Phase("I: running --customize-hook", "Configuring", 90, 30),
    _Phase("I: creating tarball", "Packing", 93, 4),
)


async def build(recipe: Recipe, work: Path, cache: Path, progress: Progress) -> ImageFiles:
    """Build an image into the existing directory `work`; packages are kept below `cache` for the next time.

    Raises InvalidRequest for a recipe that we do not have, NotSupported where a program is missing, InternalError with
    the log's reason where the build fails. The caller removes `work`.
    """
    if recipe.os == "busybox":
        root = work / "rootfs.tar"
        progress("Packing", 50)
        await busybox.build_root(root)
        templates: tuple[TemplateSource, ...] = busybox.TEMPLATES
    elif recipe.os == "debian":
        root = await _build_debian(recipe, work, cache, progress)
        templates = debian.templates(recipe.variant)
    else:
        raise InvalidRequest(f"No recipe for an image of {recipe.os!r}: there are debian and busybox")
    metadata = work / "metadata.tar"
    await in_thread(_write_metadata, metadata, describe(recipe, time.time()), templates)
    return ImageFiles(metadata, root)


def describe(recipe: Recipe, now: float) -> dict[str, Any]:
    """The metadata.yaml of a recipe's image, without its templates."""
    serial = time.strftime("%Y%m%d_%H%M", time.gmtime(now))
    title, release, architecture, number, variant = "BusyBox", "", recipe.architecture, "", ""
    if recipe.os == "debian":
        title, variant = "Debian", recipe.variant
        number, release = debian.parse_release(recipe.release)
        architecture = debian.debian_architecture(recipe.architecture)
    properties = {
        "os": title,
        "release": release,
        "version": number,
        "variant": variant,
        "architecture": architecture,
        "serial": serial,
        "description": " ".join(filter(None, (title, release, architecture, f"({serial})"))),
    }
    properties = {key: value for key, value in properties.items() if value}
    return {"architecture": recipe.architecture, "creation_date": int(now), "properties": properties}


def _write_metadata(path: Path, document: Mapping[str, Any], templates: Iterable[TemplateSource]) -> None:
    entries = {
        template.path: {
            "when": list(template.when),
            "create_only": False,
            "template": template.name,
            "properties": dict(template.properties),
        }
        for template in templates
    }
    files = {"metadata.yaml": yaml.safe_dump({**document, "templates": entries}, sort_keys=False)}
    files |= {f"templates/{template.name}": template.text for template in templates}
    with tarfile.open(path, "x", format=tarfile.PAX_FORMAT) as archive:
        directory = tarfile.TarInfo("templates")
        directory.type, directory.mode = tarfile.DIRTYPE, 0o755
        archive.addfile(directory)
        for name, text in files.items():
            entry = tarfile.TarInfo(name)
            entry.size, entry.mtime, entry.mode = len(text.encode()), document["creation_date"], 0o644
            archive.addfile(entry, io.BytesIO(text.encode()))


async def _build_debian(recipe: Recipe, work: Path, cache: Path, progress: Progress) -> Path:
    if recipe.variant not in debian.VARIANTS:
        raise InvalidRequest(
            f"Debian images have no variant {recipe.variant!r}: there are {', '.join(debian.VARIANTS)}"
        )
    _require("mmdebstrap", "zstd", "unshare")
    _, codename = debian.parse_release(recipe.release)
    places = debian.Places(work / "overlay.tar", work / "build.log", cache / f"debian-{codename}-{recipe.architecture}")
    scratch = work / "scratch"
    await in_thread(_prepare, places, scratch, recipe.variant)
    sources = await in_thread(apt.read_sources)
    mirrors = apt.choose_mirrors(sources, recipe.mirror)
    if not Path(mirrors.signed_by).exists():
        raise NotSupported(
            f"The keyring {mirrors.signed_by} is missing: install it (apt install debian-archive-keyring)"
        )
    settings = await command.run(["apt-config", "dump"], ok=range(256))
    arguments = debian.mmdebstrap_arguments(recipe, mirrors, apt.passed_options(settings.stdout), places)
    root = work / "rootfs.tar.zst"
    try:
        async with alongside("progress of a build", _report_phase(places.log, progress)):
            await _pack(arguments, root, scratch)
    except CommandFailed as failure:
        reason = await in_thread(_tail, places.log) or str(failure)
        raise InternalError(f"Failed to build debian/{recipe.release}: {reason}") from failure
    await in_thread(_drop_old_packages, places.packages)
    return root


async def _pack(arguments: list[str], root: Path, scratch: Path) -> None:
    """Run mmdebstrap with a pipe to zstd.

    Its namespaces keep its mounts to itself, and take along what packages may have started, however it ends.
    """
    isolate = ["unshare", "--mount", "--ipc", "--uts", "--pid", "--fork", "--kill-child=KILL", "--"]
    environment = {
        "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
        "LC_ALL": "C.UTF-8",
        "TMPDIR": str(scratch),
        "DEBIAN_FRONTEND": "noninteractive",
        **{name: os.environ[name] for name in ("http_proxy", "https_proxy", "no_proxy") if name in os.environ},
    }
    read_end, write_end = os.pipe2(os.O_CLOEXEC)

    async def produce() -> None:
        try:
            await command.run([*isolate, *arguments], stdout=write_end, env=environment, timeout_s=DEADLINE_S)
        finally:
            os.close(write_end)

    async def compress() -> None:
        try:
            await command.run(["zstd", "-q", "-T0", "-3", "-o", root], stdin=read_end, timeout_s=DEADLINE_S)
        finally:
            os.close(read_end)

    results = await _all_of(produce(), compress())
    for result in results:
        if isinstance(result, BaseException):
            raise result


async def _all_of(*works: Any) -> list[Any]:
    """Run coroutines to their ends and give results or errors; on cancellation all are cancelled and waited for."""
    tasks = [asyncio.ensure_future(work) for work in works]
    try:
        return await asyncio.gather(*tasks, return_exceptions=True)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _require(*programs: str) -> None:
    for program in programs:
        if shutil.which(program) is None:
            raise NotSupported(
                f"Building images needs the program {program!r}: install it (apt install mmdebstrap zstd)"
            )


def _prepare(places: debian.Places, scratch: Path, variant: str) -> None:
    scratch.mkdir(mode=0o755)
    places.packages.mkdir(parents=True, exist_ok=True)
    debian.write_overlay(places.overlay, variant)


def _drop_old_packages(directory: Path) -> None:
    oldest = time.time() - PACKAGE_AGE_LIMIT_S
    for package in directory.glob("*.deb"):
        with contextlib.suppress(FileNotFoundError):
            if package.stat().st_mtime < oldest:
                package.unlink()


def _tail(log: Path) -> str:
    """The lines of the log that say what went wrong."""
    with contextlib.suppress(OSError):
        lines = log.read_text(errors="replace").splitlines()
        telling = [line for line in lines if re.match(r"(E|dpkg: error|Err)\b", line)]
        # mmdebstrap repeats the whole call that failed: what the call itself said is the reason.
        reasons = [line for line in telling if not re.match(r"E: \S+ failed\b", line)]
        return "\n".join((reasons or telling or lines)[-LOG_TAIL_LINES:])
    return ""


async def _report_phase(log: Path, progress: Progress) -> None:
    """Read along in the log and tell each phase and share that it comes to."""
    told: tuple[str, int] | None = None
    while True:
        text = await in_thread(_read_log, log)
        if (now := estimate(text)) != told:
            told = now
            progress(*now)
        await asyncio.sleep(PROGRESS_EVERY_S)


def _read_log(log: Path) -> str:
    try:
        return log.read_text(errors="replace")
    except FileNotFoundError:
        return ""


def estimate(log: str) -> tuple[str, int]:
    """The phase that a log has come to, and the percentage: the lines of the phase against their usual number."""
    current, start = _Phase("", "Starting", 0, 10), 0
    following = _PHASES[0].percent
    for index, phase in enumerate(_PHASES):
        position = log.find(phase.marker)
        if position >= 0:
            current, start = phase, position
            following = _PHASES[index + 1].percent if index + 1 < len(_PHASES) else 99
    share = min(1.0, log.count("\n", start) / current.lines)
    return current.name, current.percent + int((following - current.percent) * share)
