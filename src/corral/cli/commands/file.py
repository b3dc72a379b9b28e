"""`file`: copy files between the host and instances, edit and delete them."""

from __future__ import annotations

import os
import posixpath
import stat

from corral.cli.command import ANY_NUMBER_OF, Command, Invocation, number, switch, text
from corral.cli.progress import Progress
from corral.cli.session import Resource, Session, stdin_is_terminal
from corral.cli.transfer import Meter
from corral.client.files import RemoteFile, delete_file, file_headers, get_file, put_file, read_blocks, write_all
from corral.errors import CorralError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from corral.client.server import Server

_DIRECTORY_MODE = 0o755
_LINK_LIMIT = 255


def _split(resource: Resource, message: str) -> tuple[str, str]:
    """(Instance, path) of `instance/path`."""
    instance, slash, path = resource.name.partition("/")
    if not slash:
        raise CorralError(f"{message} {resource.name}")
    return instance, path


def delete(invocation: Invocation) -> int:
    """Delete files."""
    for argument in invocation.args:
        resource = invocation.session.resource(argument)
        instance, path = _split(resource, "Invalid path")
        delete_file(resource.server, instance, path)
    return 0


class Pull:
    """Copying out of instances."""

    def __init__(self, session: Session, *, recursive: bool = False, create_directories: bool = False) -> None:
        self._session = session
        self._recursive = recursive
        self._create_directories = create_directories

    def run(self, sources: list[str], target_argument: str) -> None:
        """Copy the sources to a file, a directory or `-`."""
        target = os.path.normpath(target_argument)
        is_directory = self._prepare(target, target_argument, len(sources))
        for source in sources:
            resource = self._session.resource(source)
            instance, path = _split(resource, "Invalid source")
            found = get_file(resource.server, instance, path)
            if found.kind == "directory":
                if not self._recursive:
                    raise CorralError("Can't pull a directory without --recursive")
                if not os.path.exists(target):
                    os.makedirs(target, _DIRECTORY_MODE)
                    is_directory = True
                self._pull_tree(resource.server, instance, path, target)
                continue
            local = os.path.join(target, posixpath.basename(path)) if is_directory else target
            self._pull_one(resource.server, (instance, path), found, local)

    def _prepare(self, target: str, argument: str, count: int) -> bool:
        """Whether the target is a directory; one is made where it must be."""
        if os.path.exists(target):
            if not os.path.isdir(target) and count > 1:
                raise CorralError("More than one file to download, but target is not a directory")
            return os.path.isdir(target)
        if argument.endswith("/") or count > 1:
            os.makedirs(target, _DIRECTORY_MODE)
            return True
        if self._create_directories:
            os.makedirs(os.path.dirname(target) or ".", _DIRECTORY_MODE, exist_ok=True)
        return False

    def _pull_one(self, server: Server, source: tuple[str, str], found: RemoteFile, local: str) -> None:
        instance, path = source
        if found.kind == "symlink":
            link = found.read().decode("utf-8", "surrogateescape").removesuffix("\n")
            if local != "-" and not self._recursive:
                os.symlink(link.strip(), local)
                return
            found = self._follow(server, instance, path, link)
        self._store(found, local, f"Pulling {local} from {path}: %s")

    def _follow(self, server: Server, instance: str, path: str, link: str) -> RemoteFile:
        for _ in range(_LINK_LIMIT):
            path = link if link.startswith("/") else posixpath.normpath(posixpath.join(posixpath.dirname(path), link))
            found = get_file(server, instance, path)
            if found.kind != "symlink":
                return found
            link = found.read().decode("utf-8", "surrogateescape").removesuffix("\n")
        raise CorralError("Too many links")

    def _store(self, found: RemoteFile, local: str, pattern: str) -> None:
        progress = Progress(self._session, pattern.replace("%", "%%").replace("%%s", "%s"))
        descriptor = 1 if local == "-" else os.open(local, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
        try:
            if local != "-":
                os.fchmod(descriptor, found.mode & 0o777)
            else:
                progress.is_shown = False
            meter = Meter(progress)
            done = 0
            for piece in found.chunks():
                done += write_all(descriptor, piece)
                meter(done)
        finally:
            if local != "-":
                os.close(descriptor)
            progress.done()

    def _pull_tree(self, server: Server, instance: str, path: str, directory: str) -> None:
        found = get_file(server, instance, path)
        local = os.path.join(directory, posixpath.basename(path.rstrip("/")))
        if found.kind == "directory":
            os.mkdir(local)
            os.chmod(local, found.mode & 0o777)
            for entry in found.entries:
                self._pull_tree(server, instance, posixpath.join(path, entry), local)
        elif found.kind == "file":
            self._store(found, local, f"Pulling {path} from {local}: %s")
        elif found.kind == "symlink":
            os.symlink(found.read().decode("utf-8", "surrogateescape").strip(), local)
        else:
            raise CorralError(f"Unknown file type '{found.kind}'")


def pull(invocation: Invocation) -> int:
    """Copy files out of instances."""
    job = Pull(
        invocation.session,
        recursive=invocation.switch("recursive"),
        create_directories=invocation.switch("create-dirs"),
    )
    job.run(invocation.args[:-1], invocation.args[-1])
    return 0


class Owner:
    """The ownership and mode that the user chose; -1 where the file's own are kept."""

    def __init__(self, uid: int = -1, gid: int = -1, mode: str = "") -> None:
        self.uid = uid
        self.gid = gid
        self.mode = _parse_mode(mode) if mode else -1

    @property
    def is_chosen(self) -> bool:
        """Whether anything was chosen."""
        return self.uid >= 0 or self.gid >= 0 or self.mode >= 0

    def of(self, status: os.stat_result) -> tuple[int, int, int]:
        """(uid, gid, mode) for a file."""
        return (
            self.uid if self.uid >= 0 else status.st_uid,
            self.gid if self.gid >= 0 else status.st_gid,
            self.mode if self.mode >= 0 else status.st_mode & 0o777,
        )


def _parse_mode(mode: str) -> int:
    try:
        return int(mode, 8) & 0o777 if len(mode) == 3 or mode.startswith("0") else int(mode, 0) & 0o777
    except ValueError:
        raise CorralError(f'Invalid mode "{mode}": give an octal number, as in 0644') from None


class Push:
    """Copying into an instance."""

    def __init__(self, session: Session, owner: Owner, *, recursive: bool = False, create_directories: bool = False):
        self._session = session
        self._owner = owner
        self._recursive = recursive
        self._create_directories = create_directories
        self.keeps_owner = False

    def run(self, sources: list[str], target: str) -> None:
        """Copy the sources to `[<remote>:]instance/path`."""
        name, slash, inside = target.partition("/")
        if not slash:
            raise CorralError(f"Invalid target {target}")
        path = posixpath.normpath("/" + inside)
        if path.startswith("//"):
            path = path[1:]
        is_directory = target.endswith("/") or path == "/"
        resource = self._session.resource(name)
        if self._recursive:
            self._push_trees(resource, [os.path.normpath(source) for source in sources], path)
            return
        if len(sources) > 1 and not is_directory:
            raise CorralError("Missing target directory")
        descriptors = [(source, _open_source(source)) for source in sources]
        try:
            for source, descriptor in descriptors:
                shown = "/dev/stdin" if source == "-" else os.path.normpath(source)
                full = posixpath.join(path, os.path.basename(shown)) if is_directory else path
                self._push_one(resource, descriptor, shown, full)
        finally:
            for source, descriptor in descriptors:
                if source != "-":
                    os.close(descriptor)

    def _push_trees(self, resource: Resource, sources: list[str], path: str) -> None:
        if self._owner.is_chosen:
            raise CorralError("Can't supply uid/gid/mode in recursive mode")
        if self._create_directories:
            status = os.stat(sources[0])
            owner = (status.st_uid, status.st_gid, status.st_mode & 0o777)
            make_directories(resource, path, owner)
        for source in sources:
            self._push_tree(resource, source, path)

    def _push_one(self, resource: Resource, descriptor: int, source: str, path: str) -> None:
        status = os.fstat(descriptor)
        uid, gid, mode = self._owner.of(status)
        if self._create_directories:
            make_directories(resource, posixpath.dirname(path), (uid, gid, -1))
        headers = file_headers("file") if self.keeps_owner else file_headers("file", uid, gid, mode)
        self._send(resource, descriptor, status, (source, path), headers)

    def _send(
        self,
        resource: Resource,
        descriptor: int,
        status: os.stat_result,
        names: tuple[str, str],
        headers: dict[str, str],
    ) -> None:
        source, path = names
        progress = Progress(self._session, f"Pushing {source} to {path}: ".replace("%", "%%") + "%s")
        size = status.st_size if stat.S_ISREG(status.st_mode) else 0
        try:
            blocks = read_blocks(descriptor, Meter(progress, size))
            put_file(resource.server, resource.name, path, headers, blocks)
        finally:
            progress.done()

    def _push_tree(self, resource: Resource, source: str, target: str) -> None:
        base = os.path.dirname(source)
        self._push_entry(resource, source, target, base)

    def _push_entry(self, resource: Resource, source: str, target: str, base: str) -> None:
        status = os.lstat(source)
        relative = os.path.relpath(source, base or ".")
        path = posixpath.normpath(posixpath.join(target, relative))
        owner = (status.st_uid, status.st_gid, status.st_mode & 0o777)
        if stat.S_ISDIR(status.st_mode):
            put_file(resource.server, resource.name, path, file_headers("directory", *owner))
            for entry in sorted(os.listdir(source)):
                self._push_entry(resource, os.path.join(source, entry), target, base)
        elif stat.S_ISLNK(status.st_mode):
            link = os.fsencode(os.readlink(source))
            put_file(resource.server, resource.name, path, file_headers("symlink", *owner), link)
        elif stat.S_ISREG(status.st_mode):
            descriptor = os.open(source, os.O_RDONLY)
            try:
                self._send(resource, descriptor, status, (source, path), file_headers("file", *owner))
            finally:
                os.close(descriptor)
        else:
            raise CorralError(f"'{source}' isn't a supported file type")


def _open_source(source: str) -> int:
    if source == "-":
        return 0
    try:
        return os.open(os.path.normpath(source), os.O_RDONLY)
    except OSError as error:
        message = (error.strerror or "").lower()
        raise CorralError(f"open {os.path.normpath(source)}: {message}") from error


def make_directories(resource: Resource, path: str, owner: tuple[int, int, int]) -> None:
    """Make a directory of an instance with the missing ones above it; `owner` is uid, gid and mode."""
    if path == "/":
        return
    parts = [part for part in path.split("/") if part]
    existing = len(parts)
    while existing > 0:
        current = "/" + "/".join(parts[:existing])
        try:
            found = get_file(resource.server, resource.name, current)
        except CorralError:
            existing -= 1
            continue
        if found.kind != "directory":
            raise CorralError(f"{current.lstrip('/')} is not a directory")
        break
    for count in range(existing + 1, len(parts) + 1):
        current = "/" + "/".join(parts[:count])
        put_file(resource.server, resource.name, current, file_headers("directory", *owner))


def push(invocation: Invocation) -> int:
    """Copy files into an instance."""
    owner = Owner(invocation.number("uid"), invocation.number("gid"), invocation.text("mode"))
    job = Push(
        invocation.session,
        owner,
        recursive=invocation.switch("recursive"),
        create_directories=invocation.switch("create-dirs"),
    )
    job.run(invocation.args[:-1], invocation.args[-1])
    return 0


def edit(invocation: Invocation) -> int:
    """Edit a file of an instance, or replace its content from standard input."""
    from tempfile import TemporaryDirectory

    from corral.cli.editor import edit_file

    target = invocation.args[0]
    push_back = Push(invocation.session, Owner())
    push_back.keeps_owner = True
    if not stdin_is_terminal():
        push_back.run(["-"], target)
        return 0
    with TemporaryDirectory(prefix="corral_file_edit_") as directory:
        local = os.path.join(directory, os.path.basename(target) or "file")
        Pull(invocation.session).run([target], local)
        edit_file(local)
        push_back.run([local], target)
    return 0


def _mount(invocation: Invocation) -> int:
    from corral.cli.commands.file_mount import run

    return run(invocation)


_RECURSIVE = switch("recursive", "Recursively transfer files", "r")
_CREATE = switch("create-dirs", "Create any directories necessary", "p")
_PATH = "[<remote>:]<instance>/<path>"

COMMAND = Command(
    "file",
    "Manage files in instances",
    commands=(
        Command(
            f"delete {_PATH} [{_PATH}...]", "Delete files in instances", delete, (1, ANY_NUMBER_OF), aliases=("rm",)
        ),
        Command(f"edit {_PATH}", "Edit files in instances", edit, (1, 1)),
        Command(
            "mount [<remote>:]<instance>[/<path>] [<target path>]",
            "Mount files from instances",
            _mount,
            (1, 2),
            flags=(
                text("listen", "Setup SSH SFTP listener on address:port instead of mounting"),
                switch("no-auth", "Disable authentication when using SSH SFTP listener"),
                text("auth-user", "Set authentication user when using SSH SFTP listener"),
            ),
            examples="{client} file mount foo/root fooroot\n    Mount /root of the instance foo onto fooroot.",
        ),
        Command(
            f"pull {_PATH} [{_PATH}...] <target path>",
            "Pull files from instances",
            pull,
            (2, ANY_NUMBER_OF),
            flags=(_CREATE, _RECURSIVE),
            examples="{client} file pull foo/etc/hosts .\n    Copy /etc/hosts of the instance to here.",
        ),
        Command(
            f"push <source path>... {_PATH}",
            "Push files into instances",
            push,
            (2, ANY_NUMBER_OF),
            flags=(
                _RECURSIVE,
                _CREATE,
                number("uid", "Set the file's uid on push"),
                number("gid", "Set the file's gid on push"),
                text("mode", "Set the file's perms on push"),
            ),
            examples="{client} file push /etc/hosts foo/etc/hosts\n    Copy /etc/hosts into the instance foo.",
        ),
    ),
)
