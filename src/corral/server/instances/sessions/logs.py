"""The log files of an instance that the API shows."""

import os

from corral.api.urls import url
from corral.errors import InvalidRequest, NotFound
from corral.server.context import Context
from corral.server.events.model import Lifecycle
from corral.server.host.threads import in_thread
from corral.server.instances import store
from corral.server.instances.model import log_dir, storage_name

_NAMES = ("lxc.log", "lxc.conf", "qemu.log")
_PREFIXES = ("migration_", "snapshot_", "exec_")
_KEPT = ("lxc.log", "lxc.conf")


def is_log_name(name: str) -> bool:
    """Whether a file name is one of a log that the API shows."""
    return "/" not in name and (name in _NAMES or name.startswith(_PREFIXES))


async def list_logs(context: Context, project: str, name: str) -> list[str]:
    """The names of the logs, also of an instance that could not be made."""
    if not name or "/" in name or name in (".", ".."):
        raise InvalidRequest("Invalid instance name")
    directory = context.member.log_dir / storage_name(project, name)
    try:
        names = await in_thread(os.listdir, directory)
    except FileNotFoundError:
        await context.db.read(store.get_instance, project, name)
        return []
    return sorted(filter(is_log_name, names))


async def open_log(context: Context, project: str, name: str, file: str) -> int:
    """A descriptor of a log."""
    instance = await context.db.read(store.get_instance, project, name)
    _check(file)
    path = log_dir(context.member, instance) / file
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as error:
        raise NotFound(f"Log file {file!r} of {name} not found") from error
    _publish(context, project, name, file, "instance-log-retrieved")
    return fd


async def delete_log(context: Context, project: str, name: str, file: str) -> None:
    """Delete a log that liblxc does not need."""
    instance = await context.db.read(store.get_instance, project, name)
    _check(file)
    if file in _KEPT:
        raise InvalidRequest("lxc.log and lxc.conf may not be deleted")
    try:
        (log_dir(context.member, instance) / file).unlink()
    except FileNotFoundError:
        raise NotFound(f"Log file {file!r} of {name} not found") from None
    _publish(context, project, name, file, "instance-log-deleted")


def _check(file: str) -> None:
    if not is_log_name(file):
        raise InvalidRequest(f"log file name {file} not valid")


def _publish(context: Context, project: str, name: str, file: str, action: str) -> None:
    source = url("/1.0/instances", name, "logs", file, project=project)
    context.events.publish(Lifecycle(action, source, project, {}))
