"""Writes rendered templates below an instance's root, which is treated as hostile: no path or link leads out of it."""

import contextlib
import os
from collections.abc import Iterable
from pathlib import Path

from corral.errors import InvalidRequest
from corral.server.host.filesystems.openat2 import openat2
from corral.server.images import metadata_files
from corral.server.images.templates import (
    RenderedFile,
    TemplateVariables,
    due_templates,
    render_templates,
)
from corral.server.pongo2.engine import SOURCE_LIMIT


def apply_templates(directory: Path, trigger: str, variables: TemplateVariables, owner: tuple[int, int]) -> list[str]:
    """Render what the trigger makes due in an instance's directory (metadata.yaml, templates/, rootfs/) and write it.

    `owner` is who new files and directories get, as the uid and gid on disk. Returns the written paths.
    """
    metadata = metadata_files.read_metadata(directory)
    if metadata is None or not due_templates(metadata, trigger):
        return []

    def read(name: str) -> str:
        try:
            return _read_template(directory, name)
        except OSError as error:
            raise InvalidRequest(f"Failed to read template file: {name}: {error.strerror}") from error

    files = render_templates(metadata, trigger, variables, read)
    return write_files(directory / "rootfs", files, owner)


def write_files(root: Path, files: Iterable[RenderedFile], owner: tuple[int, int]) -> list[str]:
    """Write files below `root` with links resolved as the instance would; existing ones keep their owner and mode."""
    written = []
    directory = os.open(root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        for file in files:
            try:
                if _write(directory, file, owner):
                    written.append(file.path)
            except OSError as error:
                raise InvalidRequest(f"Failed to create template file: {file.path}: {error.strerror}") from error
    finally:
        os.close(directory)
    return written


def _write(root: int, file: RenderedFile, owner: tuple[int, int]) -> bool:
    path = file.path.lstrip("/")
    try:
        # A FIFO or device in the way must not block or be written to.
        descriptor = openat2(root, path, os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY)
    except FileNotFoundError:
        _make_parents(root, path, owner)
        with contextlib.suppress(FileNotFoundError):
            _remove_dangling_link(root, path)
        descriptor = openat2(root, path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode=0o644)
        os.fchown(descriptor, *owner)
        os.fchmod(descriptor, 0o644)
    else:
        if file.create_only:
            os.close(descriptor)
            return False
    with open(descriptor, "wb") as stream:
        stream.truncate()
        stream.write(file.content)
    return True


def _remove_dangling_link(root: int, path: str) -> None:
    parent = openat2(root, os.path.dirname(path) or ".", os.O_PATH | os.O_DIRECTORY)
    try:
        os.unlink(os.path.basename(path), dir_fd=parent)
    finally:
        os.close(parent)


def _make_parents(root: int, path: str, owner: tuple[int, int]) -> None:
    parts = os.path.dirname(path).split("/")
    for depth in range(1, len(parts) + 1):
        ancestor = "/".join(parts[:depth])
        if not ancestor:
            continue
        try:
            os.close(openat2(root, ancestor, os.O_PATH | os.O_DIRECTORY))
        except FileNotFoundError:
            parent = openat2(root, "/".join(parts[: depth - 1]) or ".", os.O_RDONLY | os.O_DIRECTORY)
            try:
                os.mkdir(parts[depth - 1], 0o755, dir_fd=parent)
                os.chown(parts[depth - 1], *owner, dir_fd=parent, follow_symlinks=False)
            finally:
                os.close(parent)


def _read_template(directory: Path, name: str) -> str:
    """The text of templates/NAME; the name may have directories, as metadata.yaml has it."""
    root = os.open(directory / "templates", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        return metadata_files.read_file(root, name, SOURCE_LIMIT).decode("utf-8", "surrogateescape")
    finally:
        os.close(root)
