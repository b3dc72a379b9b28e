"""Images for tests: a busybox system made in a moment, and a Debian one built once and kept."""

import asyncio
import contextlib
import hashlib
import io
import os
import platform
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from corral.server.images import apt, build
from corral.server.images import debian as recipes
from corral.server.images.recipe import Recipe

BUSYBOX = Path("/bin/busybox")
CREATED = 1700000000
OLD_S = 7 * 86400.0
"""When an image of a recipe that is no more is removed from the cache."""

INITTAB = """::sysinit:/etc/rc
::respawn:/bin/sleep 1000000
::ctrlaltdel:/bin/reboot
"""

RC = """#!/bin/sh
mount -t tmpfs tmpfs /run 2>/dev/null
ip link set lo up
echo "rc has run"
[ -e /sys/class/net/eth0 ] || exit 0
ip link set eth0 up
udhcpc -i eth0 -s /etc/udhcpc.script -b -t 30 -T 1 -A 1 -S -x "hostname:$(hostname)" >/dev/null 2>&1 &
"""

UDHCPC = """#!/bin/sh
[ "$1" = bound ] || [ "$1" = renew ] || exit 0
ip addr flush dev "$interface" scope global
ip addr add "$ip/$mask" dev "$interface"
[ -n "$router" ] && ip route replace default via "$router"
: >/etc/resolv.conf
[ -n "$domain" ] && echo "search $domain" >>/etc/resolv.conf
for server in $dns; do echo "nameserver $server" >>/etc/resolv.conf; done
"""

METADATA = """architecture: {architecture}
creation_date: {created}
properties:
  architecture: {architecture}
  description: {description}
  os: {os}
  release: {release}
templates:
  /etc/hostname:
    when:
    - create
    - copy
    template: hostname.tpl
"""

HOSTNAME_TEMPLATE = "{{ container.name }}\n"

FILES = {
    "etc/inittab": (INITTAB, 0o644),
    "etc/rc": (RC, 0o755),
    "etc/udhcpc.script": (UDHCPC, 0o755),
    "etc/passwd": ("root:x:0:0:root:/root:/bin/sh\nguest:x:1000:1000:guest:/home/guest:/bin/sh\n", 0o644),
    "etc/group": ("root:x:0:\nguest:x:1000:\n", 0o644),
    "etc/hosts": ("127.0.0.1 localhost\n", 0o644),
    "etc/resolv.conf": ("", 0o644),
}

DIRECTORIES = (
    "bin",
    "dev",
    "etc",
    "home",
    "proc",
    "root",
    "run",
    "sbin",
    "sys",
    "tmp",
    "usr",
    "usr/bin",
    "usr/sbin",
    "var",
)


def tar(entries: Mapping[str, bytes], mode: Literal["w", "w:gz", "w:xz"] = "w") -> bytes:
    """An archive of files, by their names."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode=mode) as archive:
        for name, content in entries.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return stream.getvalue()


def metadata(os_name: str, release: str, description: str) -> str:
    """An image's metadata.yaml."""
    architecture = platform.machine()
    return METADATA.format(
        architecture=architecture, created=CREATED, description=description, os=os_name, release=release
    )


def _add(archive: tarfile.TarFile, name: str, content: bytes | None, mode: int, link: str = "") -> None:
    entry = tarfile.TarInfo(name)
    entry.mode = mode
    entry.mtime = CREATED
    if link:
        entry.type, entry.linkname = tarfile.SYMTYPE, link
    elif content is None:
        entry.type = tarfile.DIRTYPE
    else:
        entry.size = len(content)
    archive.addfile(entry, io.BytesIO(content) if content is not None else None)


def busybox(file: Path) -> Path:
    """Write a unified busybox image, the same bytes each time."""
    applets = subprocess.run([BUSYBOX, "--list-full"], check=True, capture_output=True, text=True).stdout.split()
    with tarfile.open(file, "w") as archive:
        _add(archive, "metadata.yaml", metadata("Busybox", "1", "Busybox for tests").encode(), 0o644)
        _add(archive, "templates", None, 0o755)
        _add(archive, "templates/hostname.tpl", HOSTNAME_TEMPLATE.encode(), 0o644)
        _add(archive, "rootfs", None, 0o755)
        for name in DIRECTORIES:
            _add(archive, f"rootfs/{name}", None, 0o1777 if name == "tmp" else 0o755)
        _add(archive, "rootfs/bin/busybox", BUSYBOX.read_bytes(), 0o755)
        for applet in applets:
            if applet != "bin/busybox" and applet.rpartition("/")[0] in DIRECTORIES:
                _add(archive, f"rootfs/{applet}", None, 0o777, "/bin/busybox")
        for name, (text, mode) in FILES.items():
            _add(archive, f"rootfs/{name}", text.encode(), mode)
    return file


BORROWED_FILES = {
    "etc/inittab": ("::respawn:/bin/sleep 1000000\n", 0o644),
    "etc/passwd": (
        "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n",
        0o644,
    ),
    "etc/group": ("root:x:0:\nnogroup:x:65534:\n", 0o644),
    "etc/hosts": FILES["etc/hosts"],
    "etc/resolv.conf": FILES["etc/resolv.conf"],
    "etc/subuid": ("root:100000:65536\n", 0o644),
    "etc/subgid": ("root:100000:65536\n", 0o644),
}


def borrowed(file: Path) -> Path:
    """Write an image without programs, for a container that gets the host's /usr as a disk."""
    with tarfile.open(file, "w") as archive:
        _add(archive, "metadata.yaml", metadata("Borrowed", "1", "The host's programs").encode(), 0o644)
        _add(archive, "templates", None, 0o755)
        _add(archive, "templates/hostname.tpl", HOSTNAME_TEMPLATE.encode(), 0o644)
        _add(archive, "rootfs", None, 0o755)
        for name in ("dev", "etc", "proc", "root", "run", "srv", "sys", "tmp", "usr", "var", "var/lib", "var/log"):
            _add(archive, f"rootfs/{name}", None, 0o1777 if name == "tmp" else 0o755)
        for name in ("bin", "sbin", "lib", "lib64"):
            _add(archive, f"rootfs/{name}", None, 0o777, f"usr/{name}")
        for name, (text, mode) in BORROWED_FILES.items():
            _add(archive, f"rootfs/{name}", text.encode(), mode)
    return file


def cache_dir() -> Path:
    """Where images that take long to build are kept between runs."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "corral-tests"


NETWORK_UNIT = "[Match]\nName=eth0\n\n[Network]\nDHCP=yes\nLinkLocalAddressing=ipv6\n"

DEBIAN_PACKAGES = ("systemd", "systemd-sysv", "dbus", "iproute2")

DEBIAN_SETUP = [
    '--customize-hook=chroot "$1" systemctl enable systemd-networkd',
    f'--customize-hook=printf "{NETWORK_UNIT}" >"$1/etc/systemd/network/eth0.network"'.replace("\n", "\\n"),
    '--customize-hook=rm -f "$1/etc/resolv.conf" "$1/etc/machine-id" && : >"$1/etc/machine-id"',
]


def debian(release: str = "bookworm") -> Path:
    """A unified Debian image with systemd and networking, built from the host's mirror once and kept.

    Needs the host's network: call it before `scene.enter`.
    """
    kept = cache_dir() / f"debian-{release}.tar"
    if kept.exists():
        return kept
    kept.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="corral-debian-") as work:
        root, partial = Path(work, "rootfs"), kept.with_suffix(".partial")
        build = ["mmdebstrap", "--quiet", "--mode=root", "--variant=minbase", f"--include={','.join(DEBIAN_PACKAGES)}"]
        subprocess.run([*build, *DEBIAN_SETUP, release, str(root)], check=True, timeout=900)
        Path(work, "metadata.yaml").write_text(metadata("Debian", release, f"Debian {release} for tests"))
        Path(work, "templates").mkdir()
        Path(work, "templates", "hostname.tpl").write_text(HOSTNAME_TEMPLATE)
        parts = ["metadata.yaml", "templates", "rootfs"]
        subprocess.run(
            ["tar", "--numeric-owner", "--xattrs", "-cf", partial, "-C", work, *parts], check=True, timeout=300
        )
        partial.rename(kept)
    return kept


def debian_cloud(release: str = "12") -> tuple[Path, Path]:
    """The metadata and the root file system of our own Debian image with cloud-init, built once for each recipe.

    Needs the host's network: call it before `scene.enter`.
    """
    sources = (build.__file__, recipes.__file__, apt.__file__)
    digest = hashlib.sha256(b"".join(Path(source).read_bytes() for source in sources)).hexdigest()[:16]
    kept = cache_dir() / f"debian-{release}-cloud-{digest}"
    if not kept.exists():
        kept.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix="corral-debian-", dir=kept.parent) as work:
            # In a process of its own: who enters the scene later must have one thread.
            environment = os.environ | {"PYTHONPATH": str(Path(build.__file__).parents[3])}
            subprocess.run([sys.executable, __file__, work, release], check=True, timeout=900, env=environment)
            for old in kept.parent.glob(f"debian-{release}-cloud-*"):
                if time.time() - old.stat().st_mtime > OLD_S:
                    shutil.rmtree(old)
            with contextlib.suppress(OSError):  # another run was faster
                Path(work, "image").rename(kept)
    return kept / "metadata.tar", kept / "rootfs.tar.zst"


def _build_cloud(work: Path, release: str) -> None:
    place = work / "build"
    place.mkdir()
    recipe = Recipe("debian", release, "cloud", platform.machine())
    files = asyncio.run(build.build(recipe, place, cache_dir() / "packages", lambda phase, percent: None))
    assert files.rootfs is not None
    (work / "image").mkdir()
    files.main.rename(work / "image" / "metadata.tar")
    files.rootfs.rename(work / "image" / "rootfs.tar.zst")


if __name__ == "__main__":
    _build_cloud(Path(sys.argv[1]), sys.argv[2])
