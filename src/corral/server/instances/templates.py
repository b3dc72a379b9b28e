"""Renders the templates of an instance's image into its root file system. The instance must not be running."""

import contextlib
import os
import stat
from collections.abc import Callable
from pathlib import Path

from corral import architectures
from corral.server.host import openat2
from corral.server.host.idmap import IdMap
from corral.server.host.threads import in_thread
from corral.server.images import templates
from corral.server.images.formats import parse_metadata
from corral.server.images.templates import RenderedFile, TemplateVariables
from corral.server.instances.model import Instance


async def apply(instance: Instance, directory: Path, triggers: list[str], owner: IdMap | None) -> None:
    """Render what is due on the triggers; `owner` is the map by which the files on the disk are owned."""
    if (directory / "metadata.yaml").exists():
        await in_thread(_apply, instance, directory, triggers, owner)


def _apply(instance: Instance, directory: Path, triggers: list[str], owner: IdMap | None) -> None:
    metadata = parse_metadata((directory / "metadata.yaml").read_text())
    if not metadata.templates:
        return
    variables = TemplateVariables(
        name=instance.name,
        architecture=architectures.format_architecture(instance.architecture),
        type=instance.type.value,
        ephemeral=instance.ephemeral,
        privileged=instance.privileged,
        config=instance.expanded_config,
        devices=instance.expanded_devices,
    )
    uid = owner.outside_uid(0) if owner is not None else 0
    gid = owner.outside_gid(0) if owner is not None else 0
    for trigger in triggers:
        for file in templates.render_templates(metadata, trigger, variables, _reader(directory / "templates")):
            write_file(directory / "rootfs", file, uid or 0, gid or 0)


def _reader(folder: Path) -> Callable[[str], str]:
    def read(name: str) -> str:
        fd = openat2.open_in_root(folder, name, os.O_RDONLY)
        with open(fd, encoding="utf-8", errors="surrogateescape") as file:
            return file.read(templates.SOURCE_LIMIT + 1)

    return read


def write_file(root: Path, file: RenderedFile, uid: int, gid: int) -> None:
    """Write one file below a root, through no link that leads out of it; missing directories are made."""
    directory = os.open(root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        parent = _make_parents(directory, file.path, uid, gid)
    finally:
        os.close(directory)
    name = os.path.basename(file.path)
    try:
        try:
            present = os.stat(name, dir_fd=parent, follow_symlinks=False)
        except FileNotFoundError:
            present = None
        if present is not None and (file.create_only or stat.S_ISDIR(present.st_mode)):
            return
        mode = stat.S_IMODE(present.st_mode) if present is not None and stat.S_ISREG(present.st_mode) else 0o644
        _replace(parent, name, file.content, (mode, uid, gid))
    finally:
        os.close(parent)


def _replace(parent: int, name: str, content: bytes, owner: tuple[int, int, int]) -> None:
    temporary = f".{name}.template"
    with contextlib.suppress(FileNotFoundError):
        os.unlink(temporary, dir_fd=parent)
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600, dir_fd=parent)
    with open(fd, "wb") as out:
        out.write(content)
        os.fchown(fd, owner[1], owner[2])
        os.fchmod(fd, owner[0])
    os.rename(temporary, name, src_dir_fd=parent, dst_dir_fd=parent)


def _make_parents(root: int, path: str, uid: int, gid: int) -> int:
    """A descriptor of the directory that a path lies in, made where it is missing."""
    current = "."
    for part in path.strip("/").split("/")[:-1]:
        above, current = current, f"{current}/{part}"
        try:
            os.close(openat2.openat2(root, current, os.O_PATH | os.O_DIRECTORY))
        except FileNotFoundError:
            parent = openat2.openat2(root, above, os.O_RDONLY | os.O_DIRECTORY)
            try:
                os.mkdir(part, 0o755, dir_fd=parent)
                os.chown(part, uid, gid, dir_fd=parent, follow_symlinks=False)
            finally:
                os.close(parent)
    return openat2.openat2(root, current, os.O_RDONLY | os.O_DIRECTORY)
