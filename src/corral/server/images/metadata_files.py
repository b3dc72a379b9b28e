"""metadata.yaml and templates/ in an instance's directory. An image brought them: no link among them is followed out.

Everything is opened below the directory, new contents replace old ones by a rename, and nothing but a plain file is
read.
"""

import contextlib
import os
import stat
from collections.abc import Iterator
from pathlib import Path

from corral.errors import InvalidRequest, NotFound
from corral.server.host.filesystems.openat2 import openat2
from corral.server.images.formats import ImageMetadata, parse_metadata, render_metadata

METADATA_LIMIT = 1 << 20
TEMPLATE_LIMIT = 256 * 1024
_NAME_LIMIT = 200
_NEW = ".new-"


def read_metadata(directory: Path) -> ImageMetadata | None:
    """The metadata.yaml of an unpacked image or instance; None where there is none."""
    with _opened(directory) as root:
        try:
            content = read_file(root, "metadata.yaml", METADATA_LIMIT)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise InvalidRequest(f"metadata.yaml of the instance cannot be read: {error.strerror}") from error
    return parse_metadata(content.decode("utf-8", "replace"), complete=False)


def write_metadata(directory: Path, metadata: ImageMetadata) -> None:
    """Replace metadata.yaml; what it was before, a link too, is gone. InvalidRequest for what makes no sense."""
    text = render_metadata(metadata)
    parse_metadata(text, complete=False)
    content = text.encode()
    if len(content) > METADATA_LIMIT:
        raise InvalidRequest(f"The metadata is larger than {METADATA_LIMIT} bytes")
    with _opened(directory) as root:
        try:
            _replace(root, "metadata.yaml", content)
        except OSError as error:
            raise InvalidRequest(f"metadata.yaml of the instance cannot be written: {error.strerror}") from error


def list_templates(directory: Path) -> list[str]:
    """The names of the files in templates/; none where there is no such directory."""
    with _opened(directory) as root:
        try:
            with _opened_templates(root) as templates, os.scandir(templates) as entries:
                names = [entry.name for entry in entries if not entry.is_dir(follow_symlinks=False)]
        except FileNotFoundError:
            return []
    return sorted(os.fsencode(name).decode("utf-8", "replace") for name in names if not name.startswith(_NEW))


def read_template(directory: Path, name: str) -> bytes:
    """The text of a template. Raises NotFound."""
    check_template_name(name)
    with _opened(directory) as root:
        try:
            with _opened_templates(root) as templates:
                return read_file(templates, name, TEMPLATE_LIMIT)
        except FileNotFoundError:
            raise NotFound(f'Template "{name}" not found') from None
        except OSError as error:
            raise InvalidRequest(f'Template "{name}" cannot be read: {error.strerror}') from error


def write_template(directory: Path, name: str, content: bytes) -> None:
    """Make a template or replace its text; templates/ is made where it is missing."""
    check_template_name(name)
    if len(content) > TEMPLATE_LIMIT:
        raise InvalidRequest(f"The template is larger than {TEMPLATE_LIMIT} bytes")
    with _opened(directory) as root:
        try:
            with contextlib.suppress(FileExistsError):
                os.mkdir("templates", 0o711, dir_fd=root)
            with _opened_templates(root) as templates:
                _replace(templates, name, content)
        except OSError as error:
            raise InvalidRequest(f'Template "{name}" cannot be written: {error.strerror}') from error


def delete_template(directory: Path, name: str) -> None:
    """Remove a template. Raises NotFound."""
    check_template_name(name)
    with _opened(directory) as root:
        try:
            with _opened_templates(root) as templates:
                os.unlink(name, dir_fd=templates)
        except FileNotFoundError:
            raise NotFound(f'Template "{name}" not found') from None
        except OSError as error:
            raise InvalidRequest(f'Template "{name}" cannot be deleted: {error.strerror}') from error


def check_template_name(name: str) -> None:
    """Raise InvalidRequest for what cannot be a file's name in templates/."""
    if "/" in name or name in ("", ".", "..") or name.startswith(_NEW):
        raise InvalidRequest("Invalid template filename")
    if len(os.fsencode(name)) > _NAME_LIMIT or any(ord(character) < 32 or ord(character) == 127 for character in name):
        raise InvalidRequest(f"Invalid template filename: give at most {_NAME_LIMIT} bytes, no control characters")


@contextlib.contextmanager
def _opened(directory: Path) -> Iterator[int]:
    descriptor = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _opened_templates(root: int) -> Iterator[int]:
    try:
        descriptor = os.open("templates", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | os.O_NOFOLLOW, dir_fd=root)
    except NotADirectoryError:
        raise InvalidRequest("The templates of this instance are no directory: its image is broken") from None
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def read_file(root: int, name: str, limit: int) -> bytes:
    """A plain file below a directory's descriptor, bounded. Raises OSError, or InvalidRequest for another kind."""
    descriptor = openat2(root, name, os.O_RDONLY | os.O_NONBLOCK)
    with open(descriptor, "rb") as file:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise InvalidRequest(f"{name} is no plain file")
        content = file.read(limit + 1)
    if len(content) > limit:
        raise InvalidRequest(f"{name} is larger than {limit} bytes")
    return content


def _replace(root: int, name: str, content: bytes) -> None:
    """Give a name other contents: the old or the new ones are there, whatever happens in between."""
    temporary = f"{_NEW}{name}"
    _remove_unfinished(root)
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    descriptor = os.open(temporary, flags, 0o644, dir_fd=root)
    try:
        with open(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(descriptor)
        os.rename(temporary, name, src_dir_fd=root, dst_dir_fd=root)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary, dir_fd=root)
        raise


def _remove_unfinished(root: int) -> None:
    """Remove what a daemon that died was writing. Writers come one after the other: nobody else's is among it."""
    directory = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=root)
    try:
        for name in os.listdir(directory):
            if name.startswith(_NEW):
                with contextlib.suppress(IsADirectoryError, FileNotFoundError):
                    os.unlink(name, dir_fd=root)
    finally:
        os.close(directory)
