"""The Debian image: which packages, which files of our own, how mmdebstrap is called. Running it is in build.py.

The system boots with systemd in an unprivileged container within half a second: what needs the host's kernel or
hardware is masked, udev handles network interfaces only (networkd waits for it where /sys is writable). networkd
gets addresses by DHCP and router advertisements; resolved asks the bridge's DNS server, with its search domain.
"""

import io
import shlex
import tarfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from corral.errors import InvalidRequest
from corral.server.images.apt import DEFAULT_KEYRING, Mirrors, source_lines
from corral.server.images.recipe import Recipe, TemplateSource

RELEASES: Mapping[str, str] = {"12": "bookworm", "13": "trixie"}
VARIANTS = ("default", "minimal", "cloud")

_BASE = (
    *("systemd", "systemd-sysv", "systemd-resolved", "libnss-resolve", "udev", "dbus"),
    *("iproute2", "netbase", "ca-certificates"),
)
_COMFORT = ("iputils-ping", "procps", "less", "nano", "sudo", "libpam-systemd", "bash-completion")
_PACKAGES: Mapping[str, tuple[str, ...]] = {
    "minimal": _BASE,
    "default": (*_BASE, *_COMFORT),
    "cloud": (*_BASE, *_COMFORT, "cloud-init", "openssh-server"),
}

_ARCHITECTURES: Mapping[str, str] = {
    "x86_64": "amd64",
    "aarch64": "arm64",
    "i686": "i386",
    "armv7l": "armhf",
    "ppc64le": "ppc64el",
    "s390x": "s390x",
    "riscv64": "riscv64",
}

_ARCHIVES = "var/cache/apt/archives"

_MASKED = (
    *("sys-kernel-debug.mount", "sys-kernel-tracing.mount", "sys-kernel-config.mount", "dev-hugepages.mount"),
    *("modprobe@.service", "systemd-modules-load.service", "systemd-udev-settle.service"),
    *("systemd-hwdb-update.service", "systemd-pstore.service", "systemd-journald-audit.socket"),
    *("e2scrub_all.timer", "e2scrub_reap.service", "systemd-remount-fs.service"),
)

_NETWORK = """\
[Match]
Name=eth0

[Network]
DHCP=ipv4
IPv6AcceptRA=yes
LLMNR=no
MulticastDNS=no

[DHCPv4]
ClientIdentifier=mac
UseDomains=yes
UseHostname=no

[DHCPv6]
UseHostname=no

[IPv6AcceptRA]
UseDomains=yes
"""

_FILES: Mapping[str, str] = {
    "etc/systemd/network/50-eth0.network": _NETWORK,
    "etc/systemd/system/systemd-udev-trigger.service.d/container.conf": (
        "# A container has no hardware of its own but its network interfaces.\n"
        "[Service]\n"
        "ExecStart=\n"
        "ExecStart=-udevadm trigger --type=devices --action=add --subsystem-match=net\n"
    ),
    # The image holds no host keys (see the last hook): each instance makes its own before the first start of sshd.
    "etc/systemd/system/ssh.service.d/host-keys.conf": (
        "[Service]\nExecStartPre=\nExecStartPre=/usr/bin/ssh-keygen -A\nExecStartPre=/usr/sbin/sshd -t\n"
    ),
    "etc/hosts": "127.0.0.1 localhost\n::1 localhost ip6-localhost ip6-loopback\n",
    "etc/default/locale": "LANG=C.UTF-8\n",
    "etc/machine-id": "",
}

_CLOUD_FILES: Mapping[str, str] = {
    "etc/cloud/cloud.cfg.d/90_datasource.cfg": "datasource_list: [ LXD, NoCloud, None ]\n",
    "etc/systemd/network/10-cloud-init-eth0.network.d/domains.conf": "[DHCPv4]\nUseDomains=yes\nClientIdentifier=mac\n",
}

_HOSTS = (
    "127.0.0.1 localhost\n"
    "127.0.1.1 {{ container.name }}\n"
    "::1 localhost ip6-localhost ip6-loopback\n"
    "ff02::1 ip6-allnodes\n"
    "ff02::2 ip6-allrouters\n"
)
_META_DATA = (
    "#cloud-config\n"
    "instance-id: {{ container.name }}\n"
    "local-hostname: {{ container.name }}\n"
    '{{ config_get("user.meta-data", "") }}\n'
)
_SEED_DIRECTORY = "/var/lib/cloud/seed/nocloud-net"
_RENAMED = ("create", "copy", "rename")
_TEMPLATES = (
    TemplateSource("/etc/hostname", _RENAMED, "hostname.tpl", "{{ container.name }}\n"),
    TemplateSource("/etc/hosts", _RENAMED, "hosts.tpl", _HOSTS),
)


def _seed(name: str, default: str) -> TemplateSource:
    """A cloud-init seed: the new key's value, else the old key's, else a default."""
    text = (
        f'{{% if config_get("cloud-init.{name}", "") %}}{{{{ config_get("cloud-init.{name}", "") }}}}\n'
        f'{{% else %}}{{{{ config_get("user.{name}", properties.default) }}}}\n'
        "{% endif %}"
    )
    return TemplateSource(
        f"{_SEED_DIRECTORY}/{name}", ("create", "copy"), f"cloud-{name}.tpl", text, {"default": default}
    )


_CLOUD_TEMPLATES = (
    TemplateSource(f"{_SEED_DIRECTORY}/meta-data", ("create", "copy"), "cloud-meta-data.tpl", _META_DATA),
    _seed("user-data", "#cloud-config\n{}"),
    _seed("vendor-data", "#cloud-config\n{}"),
    _seed("network-config", "version: 1\nconfig: disabled"),
)


def parse_release(name: str) -> tuple[str, str]:
    """The number and the codename of a release, from either; raises InvalidRequest for one we cannot build."""
    for number, codename in RELEASES.items():
        if name in (number, codename):
            return number, codename
    known = ", ".join(f"{number} ({codename})" for number, codename in RELEASES.items())
    raise InvalidRequest(f"No recipe for Debian {name!r}: there are {known}")


def templates(variant: str) -> tuple[TemplateSource, ...]:
    """The templates of a variant."""
    return _TEMPLATES + (_CLOUD_TEMPLATES if variant == "cloud" else ())


def debian_architecture(architecture: str) -> str:
    """Debian's name of an architecture (`x86_64` is `amd64`)."""
    if architecture not in _ARCHITECTURES:
        raise InvalidRequest(f"Debian has no release for the architecture {architecture!r}")
    return _ARCHITECTURES[architecture]


@dataclass(frozen=True, slots=True)
class Places:
    """Where a build works: an overlay archive of our files, the log, the packages of earlier builds."""

    overlay: Path
    log: Path
    packages: Path


def mmdebstrap_arguments(recipe: Recipe, mirrors: Mirrors, apt_options: Sequence[str], places: Places) -> list[str]:
    """The call that writes the root file system as a tar to standard output."""
    _, codename = parse_release(recipe.release)
    keyring = {"signed-by": mirrors.signed_by}
    cache = shlex.quote(str(places.packages))
    arguments = [
        *("mmdebstrap", "--mode=root", "--variant=minbase", "--format=tar", "--verbose"),
        *(f"--logfile={places.log}", f"--architectures={debian_architecture(recipe.architecture)}"),
        # Packages of earlier builds come from the cache; apt verifies each and fetches what does not match.
        f'--setup-hook=mkdir -p "$1"/{_ARCHIVES}; cp --reflink=auto {cache}/*.deb "$1"/{_ARCHIVES} || true',
        "--skip=essential/unlink,output/dev",
        f"--customize-hook=tar-in {shlex.quote(str(places.overlay))} /",
        '--customize-hook=chroot "$1" systemctl --quiet enable systemd-networkd.service systemd-resolved.service',
        f'--customize-hook=cp --reflink=auto "$1"/{_ARCHIVES}/*.deb {cache}/',
        *(f"--customize-hook={hook}" for hook in _keyring_hooks(mirrors.signed_by)),
        f"--include={','.join((*_PACKAGES[recipe.variant], *recipe.packages))}",
        "--dpkgopt=force-unsafe-io",
        *(
            f"--aptopt={option}"
            for option in (*apt_options, 'Acquire::Languages "none";', 'APT::Sandbox::User "root";')
        ),
    ]
    if recipe.packages:
        # A package that does not exist is found now, not after the base system was installed.
        names = shlex.join(recipe.packages)
        arguments.append(
            f'--extract-hook=APT_CONFIG="$MMDEBSTRAP_APT_CONFIG" apt-get -qq -y --simulate install {names}'
        )
    if recipe.variant == "minimal":
        arguments += [
            f"--dpkgopt=path-exclude=/usr/share/{name}/*" for name in ("doc", "man", "info", "locale", "lintian")
        ]
        arguments += ["--dpkgopt=path-include=/usr/share/doc/*/copyright"]
    # The last hook: what only served the build, and what each instance must make anew.
    arguments.append(
        '--customize-hook=rm -f "$1"/etc/apt/apt.conf.d/99mmdebstrap "$1"/etc/dpkg/dpkg.cfg.d/99mmdebstrap '
        '"$1"/var/lib/dbus/machine-id "$1"/etc/hostname; : > "$1"/etc/machine-id; '
        'rm -f "$1"/etc/ssh/ssh_host_*_key*; '
        'ln -sfn ../run/systemd/resolve/stub-resolv.conf "$1"/etc/resolv.conf; '
        # Nothing has changed below /usr since: no caches to rebuild at the first boot (systemd-update-done.service).
        'touch -r "$1"/usr "$1"/etc/.updated "$1"/var/.updated'
    )
    return [*arguments, codename, "-", *source_lines(mirrors, codename, keyring)]


def _keyring_hooks(keyring: str) -> list[str]:
    """The image needs the mirror's key too, where it is none of Debian's own."""
    if keyring == DEFAULT_KEYRING:
        return []
    directory = shlex.quote(str(Path(keyring).parent))
    return [f'mkdir -p "$1"{directory}; cp {shlex.quote(keyring)} "$1"{directory}/']


def write_overlay(destination: Path, variant: str) -> None:
    """A tar of the files that we add to Debian's, and of the units that are masked."""
    files = {**_FILES, **(_CLOUD_FILES if variant == "cloud" else {})}
    now = int(time.time())
    with tarfile.open(destination, "w") as archive:
        directories = {str(parent) for name in files for parent in Path(name).parents} - {".", "etc"}
        for name in sorted(directories):
            entry = tarfile.TarInfo(name)
            entry.type, entry.mode, entry.mtime = tarfile.DIRTYPE, 0o755, now
            archive.addfile(entry)
        for name, text in files.items():
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode, entry.mtime = len(text.encode()), 0o644, now
            archive.addfile(entry, io.BytesIO(text.encode()))
        for unit in _MASKED:
            entry = tarfile.TarInfo(f"etc/systemd/system/{unit}")
            entry.type, entry.linkname, entry.mtime = tarfile.SYMTYPE, "/dev/null", now
            archive.addfile(entry)
