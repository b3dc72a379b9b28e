"""Backups of instances: one archive with the volume, its snapshots and their description, in LXD's layout.

backup/index.yaml, backup/snapshots/NAME/ and backup/container/, packed by tar while the instance may run.
"""

import contextlib
import logging
import os
import re
import shlex
import shutil
import tempfile
from pathlib import Path

from corral.api.urls import url
from corral.errors import CommandFailed, InvalidRequest, NotSupported, OutOfSpace
from corral.server.context import Context
from corral.server.events.model import Lifecycle, format_time, utc_now
from corral.server.host import command
from corral.server.host.threads import in_thread
from corral.server.images.spool import PREFIX as SPOOL_PREFIX
from corral.server.instances import backup_file, backup_store, busy, root_volume, store
from corral.server.instances.backup_store import Backup
from corral.server.instances.model import Instance, backups_dir
from corral.server.keys import COMPRESSION
from corral.server.rollback import Rollback
from corral.server.settings import keys
from corral.server.settings.settings import Settings
from corral.server.storage import pools, volumes
from corral.server.storage.model import Volume, snapshot_path

log = logging.getLogger(__name__)

DEADLINE_S = 6 * 3600.0
PARTIAL = ".partial_"


def path_of(context: Context, instance: Instance, name: str) -> Path:
    """The archive of a backup."""
    return backups_dir(context.member, instance) / name


def check_name(name: str) -> None:
    """Raise InvalidRequest for a name that no backup can have."""
    if "/" in name:
        raise InvalidRequest("Backup names may not contain slashes")
    if not name or name.startswith(".") or len(name.encode()) > 200 or re.search(r"[\x00-\x1f\x7f]", name):
        raise InvalidRequest(f"Invalid backup name {name!r}: give 1 to 200 bytes without a dot at the beginning")


async def next_name(context: Context, instance: Instance) -> str:
    """The first free name of the series backup0, backup1, ..."""
    found = await context.db.read(backup_store.list_backups, instance.id)
    numbers = [int(match[1]) for one in found if (match := re.fullmatch(r"backup(\d+)", one.name))]
    return f"backup{max(numbers, default=-1) + 1}"


def compressor(algorithm: str) -> list[str]:
    """The command of a compression algorithm, nothing for none. Raises InvalidRequest or NotSupported."""
    COMPRESSION.parse(algorithm)
    words = shlex.split(algorithm)
    if not words or words == ["none"]:
        return []
    if words[0] == "squashfs":
        raise NotSupported("Backups as squashfs are not supported by this server: choose another compression")
    if words[0] == "gzip" and shutil.which("pigz"):
        words[0] = "pigz"
    return words


async def create_backup(context: Context, instance: Instance, new: Backup, algorithm: str = "") -> None:
    """Make a backup of an instance with its snapshots, running or not.

    A pool that could send its volumes in a form of its own is packed like any other.
    """
    preferred = context.parts[Settings].config[keys.BACKUPS_COMPRESSION] or "gzip"
    compress = compressor(algorithm or preferred)
    async with busy.claim(context, instance.id, "backup", ()):
        instance = await context.db.read(store.reload, instance.id)
        volume = await root_volume.get(context, instance)
        target = path_of(context, instance, new.name)
        partial = target.with_name(PARTIAL + new.name)
        async with Rollback() as undo:
            backup_id = await context.db.write(backup_store.insert_backup, new)
            undo.add(context.db.write, backup_store.delete_backup, backup_id)
            await in_thread(_make_directory, target.parent)
            undo.add(in_thread, _remove, partial)
            await _pack(context, instance, volume, new, compress, partial)
            await in_thread(_settle, partial, target)
            undo.add(in_thread, _remove, target)
            await context.db.write(backup_store.finish_backup, backup_id)
            undo.commit()
    publish(context, instance, new.name, "created")


async def _pack(
    context: Context, instance: Instance, volume: Volume, new: Backup, compress: list[str], target: Path
) -> None:
    directory = await volumes.mount(context, volume)
    document = await backup_file.compose(context, instance, volume)
    if new.instance_only:
        document["snapshots"] = document["volume_snapshots"] = []
    names = [str(one["name"]) for one in document["snapshots"]]
    index = {
        "name": instance.name,
        "backend": volume.pool.driver,
        "pool": volume.pool.name,
        **({"snapshots": names} if names else {}),
        "optimized": False,
        "optimized_header": False,
        "type": "container",
        "config": document,
    }
    work = Path(await in_thread(tempfile.mkdtemp, prefix=SPOOL_PREFIX, dir=target.parent))
    try:
        await in_thread(lambda: (work / "index.yaml").write_text(backup_file.render_yaml(index)))
        parts = [(work / "index.yaml", "backup/index.yaml")]
        parts += [(snapshot_path(directory, name), f"backup/snapshots/{name}") for name in names]
        parts.append((directory, "backup/container"))
        # 1: a file changed while it was read, as those of a running instance do.
        await command.run(pack_command(parts, compress, target), timeout_s=DEADLINE_S, ok=(0, 1))
    except CommandFailed as error:
        if pools.is_for_space(error):
            raise OutOfSpace(f"The disk of {target.parent} is full: no backup was made of {instance.name}") from error
        raise
    finally:
        await in_thread(shutil.rmtree, work, ignore_errors=True)


def pack_command(parts: list[tuple[Path, str]], compress: list[str], target: Path) -> list[str]:
    """The arguments of tar that pack directories and files of the host under the names of the archive."""
    argv = ["tar", "--create", f"--file={target}", "--force-local", "--absolute-names", "--format=pax"]
    argv += ["--pax-option=exthdr.name=%d/PaxHeaders/%f,delete=atime,delete=ctime", "--numeric-owner", "--sparse"]
    argv += ["--xattrs", "--xattrs-include=*", "--acls", "--warning=no-file-ignored", "--warning=no-file-changed"]
    if compress:
        argv.append(f"--use-compress-program={shlex.join(compress)}")
    for path, name in parts:
        # Names of members and targets of hard links, never those of symbolic links.
        pattern = re.sub(r"([\\.*\[\]^$,])", r"\\\1", str(path))
        replacement = re.sub(r"([\\&,])", r"\\\1", name)
        argv.append(f"--transform=flags=rhS;s,^{pattern},{replacement},")
    return [*argv, "--", *(str(path) for path, _ in parts)]


async def rename_backup(context: Context, instance: Instance, name: str, new_name: str) -> None:
    """Give a backup another name."""
    check_name(new_name)
    async with context.locks.hold("instance backups", instance.id):
        backup = await context.db.read(backup_store.get_backup, instance.id, name)
        async with Rollback() as undo:
            await context.db.write(backup_store.rename_backup, backup, new_name)
            undo.add(context.db.write, backup_store.rename_backup, backup, name)
            await in_thread(path_of(context, instance, name).rename, path_of(context, instance, new_name))
            undo.commit()
    publish(context, instance, new_name, "renamed", old_name=name)


async def delete_backup(context: Context, instance: Instance, name: str) -> None:
    """Remove a backup and its archive."""
    async with context.locks.hold("instance backups", instance.id):
        backup = await context.db.read(backup_store.get_backup, instance.id, name)
        await in_thread(_remove, path_of(context, instance, name))
        await context.db.write(backup_store.delete_backup, backup.id)
    publish(context, instance, name, "deleted")


async def delete_expired(context: Context) -> None:
    """Remove the backups whose time is over."""
    for backup in await context.db.read(backup_store.list_expired, format_time(utc_now())):
        instance = await context.db.read(store.find_instance, backup.instance_id)
        if instance is not None:
            log.info("Backup %s of %s has expired", backup.name, instance.storage_name)
            await delete_backup(context, instance, backup.name)


async def sweep(context: Context) -> None:
    """Remove what a daemon that died left of backups and of imports."""
    await context.db.write(backup_store.delete_pending)
    names = await context.db.read(backup_store.names_by_instance)
    instances = await context.db.read(store.list_instances)
    known = {one.storage_name: names.get(one.id, set()) for one in instances}
    await in_thread(_sweep, context.member.state_dir / "backups", known)


def _sweep(directory: Path, known: dict[str, set[str]]) -> None:
    for entry in os.scandir(directory):
        if entry.name.startswith(SPOOL_PREFIX):
            shutil.rmtree(entry.path, ignore_errors=True)
    with contextlib.suppress(FileNotFoundError):
        for owner in os.scandir(directory / "instances"):
            for entry in os.scandir(owner.path):
                if entry.name in known.get(owner.name, ()):
                    continue
                log.warning("Removing %s: it belongs to no backup", entry.path)
                _remove(Path(entry.path))
            _remove_empty(Path(owner.path))


def _make_directory(path: Path) -> None:
    path.mkdir(mode=0o700, parents=True, exist_ok=True)


def _settle(partial: Path, target: Path) -> None:
    """Give a finished archive its name; it is on the disk before it has it."""
    with open(partial, "rb") as file:
        os.fsync(file.fileno())
    partial.chmod(0o600)
    partial.rename(target)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
    _remove_empty(path.parent)


def _remove_empty(directory: Path) -> None:
    with contextlib.suppress(OSError):
        directory.rmdir()


def publish(context: Context, instance: Instance, name: str, verb: str, **more: str) -> None:
    """Tell what happened to a backup."""
    source = url("/1.0/instances", instance.name, "backups", name, project=instance.project)
    context.events.publish(Lifecycle(f"instance-backup-{verb}", source, instance.project, more))
