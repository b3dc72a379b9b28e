"""Where an image's bytes arrive: files of a directory beside the stored images, hashed while they are written."""

import contextlib
import hashlib
import os
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO, Protocol

from corral.errors import InternalError, InvalidRequest
from corral.server.host.threads import in_thread
from corral.server.images.formats import ImageFiles

PREFIX = "spool_"
"""What the names of spool directories begin with; those of an earlier daemon are swept at its start."""
BATCH = 4 << 20


class Digest(Protocol):
    """A hash that takes bytes."""

    def update(self, data: bytes, /) -> None: ...


class Spool:
    """A directory that holds one image until it is stored or given up. `fingerprint` covers all files in order."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.paths: list[Path] = []
        self._digest = hashlib.sha256()
        self._digests: list[Digest] = [self._digest]
        self._batch: list[bytes] = []
        self._batch_size = 0
        self._file: BinaryIO | None = None

    @classmethod
    async def make(cls, images_dir: Path) -> "Spool":
        """A new spool on the file system of the stored images."""
        return cls(Path(await in_thread(tempfile.mkdtemp, prefix=PREFIX, dir=images_dir)))

    def begin(self, name: str, digest: Digest | None = None) -> None:
        """Start a new file; what is written next goes there, and into the digest of the file alone."""
        self._digests = [self._digest] if digest is None else [self._digest, digest]
        path = self.directory / name
        self.paths.append(path)
        self._file = open(path, "xb", buffering=0)  # noqa: SIM115  (closed by end)

    async def write(self, data: bytes) -> None:
        """Take some bytes. They are written and hashed away from the event loop, some MiB at a time."""
        self._batch.append(data)
        self._batch_size += len(data)
        if self._batch_size >= BATCH:
            await self._flush()

    async def end(self) -> None:
        """Finish the file."""
        await self._flush()
        if self._file is not None:
            self._file.close()
            self._file = None

    @property
    def fingerprint(self) -> str:
        """The SHA-256 of all that was written."""
        return self._digest.hexdigest()

    @property
    def files(self) -> ImageFiles:
        """The image's files; InvalidRequest where nothing came."""
        if not self.paths or not self.paths[0].stat().st_size:
            raise InvalidRequest("The image is empty: nothing was sent")
        return ImageFiles(self.paths[0], self.paths[1] if len(self.paths) > 1 else None)

    async def discard(self) -> None:
        """Remove what is left in the spool."""
        if self._file is not None:
            self._file.close()
            self._file = None
        await in_thread(shutil.rmtree, self.directory, ignore_errors=True)

    async def _flush(self) -> None:
        batch, self._batch, self._batch_size = self._batch, [], 0
        if batch and self._file is not None:
            try:
                await in_thread(self._take, self._file, batch)
            except OSError as error:
                raise InternalError(
                    f"Failed to store the image below {self.directory.parent}: {error.strerror}"
                ) from error

    def _take(self, file: BinaryIO, batch: Sequence[bytes]) -> None:
        for data in batch:
            for digest in self._digests:
                digest.update(data)
            view = memoryview(data)
            while view:
                view = view[file.write(view) :]


def store_files(files: ImageFiles, images_dir: Path, fingerprint: str) -> None:
    """Move an image's files to their final names; they are on the disk before they have them."""
    for path, name in ((files.rootfs, f"{fingerprint}.rootfs"), (files.main, fingerprint)):
        if path is not None:
            with open(path, "rb") as file:
                os.fsync(file.fileno())
            path.chmod(0o600)
            path.rename(images_dir / name)


def remove_files(images_dir: Path, fingerprint: str) -> None:
    """Remove an image's files, as far as they are there."""
    for name in (fingerprint, f"{fingerprint}.rootfs"):
        (images_dir / name).unlink(missing_ok=True)


def sweep_files(images_dir: Path, known: set[str]) -> list[str]:
    """Remove what an earlier daemon left half-done: spools, and files of images that are not in the database."""
    removed = []
    for entry in os.scandir(images_dir):
        fingerprint = entry.name.removesuffix(".rootfs")
        is_image = len(fingerprint) == 64 and not fingerprint.strip("0123456789abcdef")
        if entry.is_dir(follow_symlinks=False) and entry.name.startswith(PREFIX):
            shutil.rmtree(entry.path, ignore_errors=True)
        elif is_image and fingerprint not in known:
            with contextlib.suppress(OSError):
                os.unlink(entry.path)
        else:
            continue
        removed.append(entry.name)
    return removed
