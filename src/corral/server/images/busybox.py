"""A tiny image of this machine's static busybox, for tests and demonstrations: made in a fraction of a second."""

import io
import tarfile
import time
from pathlib import Path

from corral.errors import NotSupported
from corral.server.host.programs import command
from corral.server.host.threads import in_thread
from corral.server.images.recipe import TemplateSource

_CANDIDATES = ("/bin/busybox", "/usr/bin/busybox", "/usr/local/bin/busybox")
_DIRECTORIES = ("dev", "etc", "etc/init.d", "home", "mnt", "proc", "root", "run", "sys", "tmp", "usr", "var", "var/log")

_FILES: dict[str, tuple[int, str]] = {
    "etc/inittab": (
        0o644,
        "::sysinit:/etc/init.d/rcS\n"
        "::respawn:/etc/init.d/network\n"
        "::respawn:/sbin/getty -L 115200 console vt100\n"
        "::ctrlaltdel:/sbin/reboot\n",
    ),
    "etc/init.d/rcS": (0o755, "#!/bin/sh\nip link set lo up\n"),
    "etc/init.d/network": (
        0o755,
        "#!/bin/sh\n"
        "# The interface may come later: a device can be added while the instance runs.\n"
        "while [ ! -e /sys/class/net/eth0 ]; do sleep 1; done\n"
        "ip link set eth0 up\n"
        'exec udhcpc -f -S -i eth0 -s /etc/udhcpc.script -x hostname:"$(hostname)"\n',
    ),
    "etc/udhcpc.script": (
        0o755,
        "#!/bin/sh\n"
        'case "$1" in\n'
        "deconfig)\n"
        '    ip -4 addr flush dev "$interface"\n'
        '    ip link set "$interface" up\n'
        "    ;;\n"
        "bound|renew)\n"
        '    ip -4 addr flush dev "$interface"\n'
        '    ip addr add "$ip/${mask:-24}" dev "$interface"\n'
        '    for gateway in $router; do ip route replace default via "$gateway" dev "$interface"; break; done\n'
        "    {\n"
        '        [ -z "$domain" ] || echo "search $domain"\n'
        '        for server in $dns; do echo "nameserver $server"; done\n'
        "    } > /etc/resolv.conf\n"
        "    ;;\n"
        "esac\n",
    ),
    "etc/passwd": (
        0o644,
        "root::0:0:root:/root:/bin/sh\ndaemon:x:1:1:daemon:/:/bin/false\nnobody:x:65534:65534:nobody:/:/bin/false\n",
    ),
    "etc/group": (0o644, "root:x:0:\ndaemon:x:1:\ntty:x:5:\nusers:x:100:\nnogroup:x:65534:\n"),
    "etc/shells": (0o644, "/bin/sh\n/bin/ash\n"),
    "etc/profile": (0o644, "export PATH=/usr/sbin:/usr/bin:/sbin:/bin\nPS1='\\u@\\h:\\w\\$ '\n"),
    "etc/hosts": (0o644, "127.0.0.1 localhost\n::1 localhost ip6-localhost\n"),
    "etc/hostname": (0o644, "busybox\n"),
    "etc/resolv.conf": (0o644, ""),
    "etc/os-release": (0o644, 'ID=busybox\nNAME=BusyBox\nPRETTY_NAME="BusyBox"\n'),
}

TEMPLATES = (
    TemplateSource("/etc/hostname", ("create", "copy", "rename"), "hostname.tpl", "{{ container.name }}\n"),
    TemplateSource(
        "/etc/hosts",
        ("create", "copy", "rename"),
        "hosts.tpl",
        "127.0.0.1 localhost\n127.0.1.1 {{ container.name }}\n::1 localhost ip6-localhost\n",
    ),
)


async def build_root(destination: Path) -> None:
    """Write the root file system as a tar to a new file.

    Raises NotSupported where the machine has no static busybox.
    """
    busybox = _find_static()
    listed = await command.run([busybox, "--list-full"])
    await in_thread(_write, destination, busybox, listed.stdout.split())


def _find_static() -> Path:
    for candidate in map(Path, _CANDIDATES):
        if candidate.is_file() and not _is_dynamic(candidate):
            return candidate
    raise NotSupported(
        "This machine has no static busybox to make an image of: install it (apt install busybox-static)"
    )


def _is_dynamic(program: Path) -> bool:
    """Whether an ELF program asks for an interpreter (its path stands near the start of the file)."""
    with open(program, "rb") as file:
        head = file.read(4096)
    return head[:4] != b"\x7fELF" or b"/ld-" in head


def _write(destination: Path, busybox: Path, applets: list[str]) -> None:
    now = int(time.time())
    with tarfile.open(destination, "x", format=tarfile.PAX_FORMAT) as archive:
        directories = {*_DIRECTORIES, "bin", *(str(Path(applet).parent) for applet in applets)} - {"."}
        parents = {str(parent) for name in directories for parent in Path(name).parents} - {"."}
        _add_directory(archive, "./", 0o755, now)
        for name in sorted(directories | parents):
            _add_directory(archive, name, {"tmp": 0o1777, "root": 0o700}.get(name, 0o755), now)
        archive.add(busybox, "bin/busybox", filter=_owned_by_root)
        for applet in applets:
            if applet != "bin/busybox":
                link = tarfile.TarInfo(applet)
                link.type, link.linkname, link.mtime = tarfile.SYMTYPE, "/bin/busybox", now
                archive.addfile(link)
        for name, (mode, text) in _FILES.items():
            entry = tarfile.TarInfo(name)
            content = text.encode()
            entry.size, entry.mode, entry.mtime = len(content), mode, now
            archive.addfile(entry, io.BytesIO(content))


def _add_directory(archive: tarfile.TarFile, name: str, mode: int, now: int) -> None:
    entry = tarfile.TarInfo(name)
    entry.type, entry.mode, entry.mtime = tarfile.DIRTYPE, mode, now
    archive.addfile(entry)


def _owned_by_root(entry: tarfile.TarInfo) -> tarfile.TarInfo:
    entry.uid = entry.gid = 0
    entry.uname = entry.gname = "root"
    entry.mode = 0o755
    return entry
