"""The disks of the test guest: Debian 12 with its own kernel and systemd, and the libraries; built once and kept."""

import fcntl
import hashlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from harness.images import BUSYBOX, cache_dir

TOP = Path(__file__).parents[2]
AGENT = Path(__file__).with_name("machine_agent.py")
RELEASE = "bookworm"
ROOT_SIZE = "8G"
KERNEL = "linux-image-amd64"
PORTS = ("corral.0", "corral.1")
"""The virtio-serial ports that an agent serves: one runs the tests, the other is there to look at them."""

PACKAGES = ("systemd", "systemd-sysv", "dbus", "udev", "kmod", "procps", "apparmor", "criu", "dosfstools", "swtpm")
"""What a minimal Debian lacks to be a host, besides what scripts/install needs."""

UNUSED_MODULES = (
    *("sound", "drivers/gpu", "drivers/media", "drivers/infiniband", "drivers/iio", "drivers/staging"),
    *("drivers/platform", "drivers/scsi", "drivers/hwmon", "drivers/hid", "drivers/usb", "drivers/ata"),
    *("drivers/net/ethernet", "drivers/net/wireless", "drivers/net/can", "drivers/comedi", "drivers/mtd"),
)
ROOT_MODULES = ("virtio_pci", "virtio_blk", "crc32c_generic", "quota_v2", "ext4")
IDLE_UNITS = (
    *(
        "apt-daily.timer",
        "apt-daily-upgrade.timer",
        "dpkg-db-backup.timer",
        "e2scrub_all.timer",
        "e2scrub_reap.service",
    ),
    *("fstrim.timer", "systemd-timesyncd.service", "getty@tty1.service", "lxc.service", "lxc-net.service"),
    *("lxc-monitord.service", "btrfs-scrub.timer"),
)

INIT = """#!/bin/busybox sh
/bin/busybox mount -t devtmpfs dev /dev
for module in $(/bin/busybox cat /modules); do /bin/busybox insmod "$module"; done
/bin/busybox mount -t ext4 -o prjquota /dev/vda /root || exec /bin/busybox poweroff -f
exec /bin/busybox switch_root /root /sbin/init
"""

AGENT_UNIT = """[Unit]
Description=Run what the tests' host asks for by the port %i
BindsTo=dev-virtio\\x2dports-%i.device
After=dev-virtio\\x2dports-%i.device

[Service]
ExecStart=/usr/bin/python3 /usr/lib/machine_agent.py /dev/virtio-ports/%i
Environment=PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root
LimitNOFILE=1048576
LimitMEMLOCK=infinity
TasksMax=infinity

[Install]
WantedBy=multi-user.target
"""

FSTAB = """/dev/vda / ext4 prjquota 0 1
/dev/vdb /corral/.venv ext4 noatime 0 0
"""


@dataclass(frozen=True)
class Disks:
    """What a guest is booted from; none of it is ever written to."""

    kernel: Path
    initrd: Path
    root: Path
    libraries: Path


def get_disks() -> Disks:
    """Build what is not there yet. Needs root and the host's network."""
    root = _kept("guest-root", _root_key(), _build_root)
    libraries = _kept("guest-libraries", _digest((_venv() / ".installed").read_text()), _build_libraries)
    return Disks(root / "vmlinuz", root / "initrd", root / "disk", libraries / "disk")


def _venv() -> Path:
    return Path(os.environ.get("CORRAL_VENV") or TOP / ".venv")


def _digest(*texts: str) -> str:
    return hashlib.sha256("\0".join(texts).encode()).hexdigest()[:16]


def _packages() -> list[str]:
    listed = subprocess.run([TOP / "scripts/install", "--dev", "--list"], check=True, capture_output=True, text=True)
    return [*listed.stdout.split(), *PACKAGES]


def _root_key() -> str:
    return _digest(*_packages(), Path(__file__).read_text(), AGENT.read_text())


def _kept(stem: str, key: str, build: Callable[[Path, Path], None]) -> Path:
    """The directory of a build with this key; `build(work, result)` fills it, an older one makes room for it."""
    kept = cache_dir() / f"{stem}-{key}"
    cache_dir().mkdir(parents=True, exist_ok=True)
    with (cache_dir() / f"{stem}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # another tree's tests may be building the same
        if kept.exists():
            return kept
        print(f"==> Building {kept.name}", flush=True)
        for old in [*cache_dir().glob(f"{stem}-*"), *cache_dir().glob(f".{stem}-*")]:
            shutil.rmtree(old)
        partial = kept.with_name(f".{kept.name}")
        partial.mkdir()
        with tempfile.TemporaryDirectory(prefix="corral-guest-") as work:
            build(Path(work), partial)
        partial.rename(kept)
    return kept


def _run(*argv: str | Path, timeout_s: float = 120) -> str:
    done = subprocess.run(argv, check=False, capture_output=True, text=True, timeout=timeout_s)
    if done.returncode != 0:
        raise SystemExit(f"{' '.join(map(str, argv))[:400]} failed:\n{(done.stdout + done.stderr)[-4000:]}")
    return done.stdout


def _build_libraries(work: Path, result: Path) -> None:
    _make_disk(_venv(), result / "disk", "1G")


def _make_disk(directory: Path, disk: Path, size: str) -> None:
    _run("mke2fs", "-q", "-t", "ext4", "-O", "quota,project", "-m", "0", "-d", directory, disk, size)


def _build_root(work: Path, result: Path) -> None:
    root = work / "root"
    _run(*_debian_command(root), timeout_s=600)
    version = _unpack_kernel(root)
    (result / "vmlinuz").write_bytes((root / f"boot/vmlinuz-{version}").read_bytes())
    _write_initrd(root, version, work / "initrd", result / "initrd")
    _configure(root)
    _make_disk(root, result / "disk", ROOT_SIZE)


def _debian_command(root: Path) -> list[str | Path]:
    # Only unpacked, below: installed, it would build an initrd that is large and slow here.
    download = f'apt-get download $(apt-cache depends --important {KERNEL} | sed -n "s/ *Depends: //p")'
    hook = f'cd "$1/var/cache" && export APT_CONFIG="$MMDEBSTRAP_APT_CONFIG" && {download}'
    left_out = [f"--dpkgopt=path-exclude=/usr/share/{name}/*" for name in ("doc", "man", "locale")]
    options = ["--quiet", "--mode=root", "--variant=minbase", "--format=directory", "--dpkgopt=force-unsafe-io"]
    include = f"--include={','.join(_packages())}"
    return ["mmdebstrap", *options, *left_out, include, f"--customize-hook={hook}", RELEASE, root]


def _unpack_kernel(root: Path) -> str:
    """Unpack the kernel and the modules that a guest can need; returns its version."""
    (package,) = root.glob("var/cache/linux-image-*.deb")
    archive = package.with_suffix(".tar")
    with archive.open("wb") as stream:
        subprocess.run(["dpkg-deb", "--fsys-tarfile", package], check=True, stdout=stream, timeout=120)
    excluded = [f"--exclude=./lib/modules/*/kernel/{name}" for name in UNUSED_MODULES]
    # Into /usr: at the top, ./lib would replace the link to it.
    _run("tar", "-C", root / "usr", *excluded, "-xf", archive, "./lib")
    _run("tar", "-C", root, "-xf", archive, "./boot")
    package.unlink()
    archive.unlink()
    version = next(root.glob("boot/vmlinuz-*")).name.removeprefix("vmlinuz-")
    _run("chroot", root, "depmod", version)
    return version


def _write_initrd(root: Path, version: str, work: Path, initrd: Path) -> None:
    """A busybox that loads what the root's disk needs and goes there."""
    for name in ("bin", "dev", "root", "modules.d"):
        (work / name).mkdir(parents=True)
    shutil.copy(BUSYBOX, work / "bin/busybox")
    shown = _run("chroot", root, "modprobe", "-S", version, "--show-depends", "-a", *ROOT_MODULES)
    modules = list(dict.fromkeys(line.split()[1] for line in shown.splitlines() if line.startswith("insmod ")))
    for module in modules:
        shutil.copy(root / module.lstrip("/"), work / "modules.d")
    (work / "modules").write_text("".join(f"/modules.d/{Path(module).name}\n" for module in modules))
    (work / "init").write_text(INIT)
    (work / "init").chmod(0o755)
    names = "\n".join(str(path.relative_to(work)) for path in sorted(work.rglob("*")))
    archive = subprocess.run(
        [BUSYBOX, "cpio", "-o", "-H", "newc"], cwd=work, input=names.encode(), stdout=subprocess.PIPE, check=True
    )
    initrd.write_bytes(archive.stdout)


def _configure(root: Path) -> None:
    """What makes it boot fast, quietly and alone, with the agent and with ids for containers."""
    shutil.copy(AGENT, root / "usr/lib/machine_agent.py")
    (root / "etc/systemd/system/guest-agent@.service").write_text(AGENT_UNIT)
    (root / "corral/.venv").mkdir(parents=True)
    _let_apparmor_take_its_time(root)
    (root / "etc/fstab").write_text(FSTAB)
    (root / "etc/hostname").write_text("guest\n")
    (root / "etc/hosts").write_text("127.0.0.1 localhost guest\n")
    (root / "etc/machine-id").write_text("0123456789abcdef0123456789abcdef\n")
    for name in ("subuid", "subgid"):
        (root / "etc" / name).write_text("root:1000000:1000000000\n")
    (root / "var/cache/apt").joinpath("pkgcache.bin").unlink(missing_ok=True)
    # Its own systemctl: the host may have no systemd at all.
    _run("chroot", root, "systemctl", "-q", "enable", *(f"guest-agent@{port}.service" for port in PORTS))
    _run("chroot", root, "systemctl", "-q", "mask", *IDLE_UNITS)


def _let_apparmor_take_its_time(root: Path) -> None:
    """Compiling its profiles would hold up the boot for half a minute; the tests wait for it when they need it."""
    for name in ("lsb_release", "nvidia_modprobe"):
        (root / "etc/apparmor.d" / name).unlink()
    unit = (root / "lib/systemd/system/apparmor.service").read_text()
    (root / "etc/systemd/system/apparmor.service").write_text(unit.replace("Before=sysinit.target", ""))
