"""AppArmor profiles: which paths their patterns match, what they say, and that the parser takes them."""

import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from corral.server.host.isolation import apparmor
from corral.server.host.isolation.apparmor import AppArmor, Profiles, patterns_besides, profile_name
from corral.server.instances.security.apparmor_profile import Confinement, render_profile

ABI = Path("/etc/apparmor.d/abi/3.0")
PLAIN = Confinement("lxd-c1_</var/lib/lxd>")
STACKED = replace(PLAIN, namespace="lxd-c1_<var-lib-lxd>")


def matches(pattern: str, path: str) -> bool:
    """Whether an AppArmor pattern of the forms that are used here matches."""
    expression = ""
    for token in re.findall(r"\[\^[^\]]*\]|\{,/\*\*\}|\*\*|\*|\?|.", pattern):
        if token == "{,/**}":
            expression += "(/.+)?"
        elif token.startswith("[^"):
            # A class never matches the separator.
            expression += f"[^/{token[2:]}"
        else:
            expression += {"**": ".*", "*": "[^/]*", "?": "[^/]"}.get(token, re.escape(token))
    return re.fullmatch(expression, path) is not None


def covered(patterns: list[str], path: str) -> bool:
    return any(matches(pattern, path) for pattern in patterns)


SYSCTLS = ("kernel/hostname", "kernel/domainname", "kernel/msg*", "kernel/sem*", "kernel/shm*", "net")


@pytest.mark.parametrize(
    ("kept", "path", "is_kept"),
    [
        (("net",), "/r/net", True),
        (("net",), "/r/net/ipv4/x", True),
        (("net",), "/r/network", False),
        (("net",), "/r/vm/overcommit", False),
        (("net",), "/r/nest", False),
        (SYSCTLS, "/r/kernel/hostname", True),
        (SYSCTLS, "/r/kernel/msgmax", True),
        (SYSCTLS, "/r/kernel/shm_rmid_forced", True),
        (SYSCTLS, "/r/kernel/hostnames", False),
        (SYSCTLS, "/r/kernel/core_pattern", False),
        (SYSCTLS, "/r/kernel/modprobe", False),
        (SYSCTLS, "/r/kernel/sysrq", False),
        (SYSCTLS, "/r/kernel/yama/ptrace_scope", False),
        (SYSCTLS, "/r/fs/file-max", False),
        (SYSCTLS, "/r/kernels", False),
        (("dev/.lxc", "proc", "sys"), "/r/dev/.lxc/proc", True),
        (("dev/.lxc", "proc", "sys"), "/r/dev/null", False),
        (("dev/.lxc", "proc", "sys"), "/r/dev/.lxd", False),
        (("dev/.lxc", "proc", "sys"), "/r/srv", False),
        (("dev/.lxc", "proc", "sys"), "/r/process", False),
        (("fs/bpf", "fs/cgroup"), "/r/fs/cgroup/a/b", True),
        (("fs/bpf", "fs/cgroup"), "/r/fs/btrfs/x", False),
        (("fs/bpf", "fs/cgroup"), "/r/fs/fuse", False),
    ],
)
def test_everything_but(kept: tuple[str, ...], path: str, is_kept: bool) -> None:
    assert covered(patterns_besides("/r", kept), path) is not is_kept


def test_the_patterns_of_one_name() -> None:
    assert patterns_besides("/sys", ["fs"]) == ["/sys/[^f]*{,/**}", "/sys/f[^s]*{,/**}", "/sys/fs?*{,/**}"]
    assert patterns_besides("", ["a/b"]) == ["/[^a]*{,/**}", "/a?*{,/**}", "/a/[^b]*{,/**}", "/a/b?*{,/**}"]


def denied(text: str) -> list[str]:
    return [line.split()[1] for line in text.splitlines() if line.strip().startswith("deny /")]


@pytest.mark.parametrize(
    ("path", "is_denied"),
    [
        ("/proc/sysrq-trigger", True),
        ("/proc/kcore", True),
        ("/proc/sys/kernel/core_pattern", True),
        ("/proc/sys/kernel/hostname", False),
        ("/proc/sys/net/ipv4/ip_forward", False),
        ("/proc/sys/vm/drop_caches", True),
        ("/sys/class/net/eth0/mtu", False),
        ("/sys/devices/virtual/net/lo/mtu", False),
        ("/sys/devices/system/cpu/online", True),
        ("/sys/fs/cgroup/x", False),
        ("/sys/kernel/debug/x", True),
        ("/sys/kernel/security/apparmor/.load", True),
        ("/etc/passwd", False),
    ],
)
def test_what_is_denied(path: str, is_denied: bool) -> None:
    assert covered(denied(render_profile(PLAIN)), path) is is_denied


def test_profiles_of_its_own() -> None:
    text = render_profile(STACKED)
    assert not covered(denied(text), "/sys/kernel/security/apparmor/.load")
    assert covered(denied(text), "/sys/kernel/uevent_helper")
    assert '  change_profile -> ":lxd-c1_<var-lib-lxd>:*",' in text
    nested = render_profile(replace(STACKED, nesting=True))
    assert '  change_profile -> "' + STACKED.name not in nested
    assert f'  change_profile -> "{PLAIN.name}",' in render_profile(replace(PLAIN, nesting=True))


def test_what_depends_on_the_config() -> None:
    lines = render_profile(PLAIN).splitlines()
    assert lines[:2] == [
        "#include <tunables/global>",
        'profile "lxd-c1_</var/lib/lxd>" flags=(attach_disconnected,mediate_deleted) {',
    ]
    assert lines[-1] == "}"
    assert "  pivot_root," in lines
    assert "  mount," not in lines
    privileged = render_profile(replace(PLAIN, unprivileged=False)).splitlines()
    assert "  pivot_root," not in privileged
    assert "  mount options=(rw,bind) /** -> /**," not in privileged
    assert "  mount options=(rw,bind) /sys?*{,/**}," in privileged
    nesting = render_profile(replace(PLAIN, unprivileged=False, nesting=True)).splitlines()
    assert {"  mount,", "  ptrace,", "  signal,", "  pivot_root,", "  deny /dev/.lxc/proc/** rw,"} <= set(nesting)
    raw = render_profile(replace(PLAIN, raw="\nmount fstype=ext4,\ndeny /x r,\n")).splitlines()
    assert raw[-4:] == ["  # raw.apparmor", "  mount fstype=ext4,", "  deny /x r,", "}"]
    assert (
        "  mount fstype=cgroup2 -> /sys/fs/cgroup/**," not in render_profile(replace(PLAIN, cgroup2=False)).splitlines()
    )


@pytest.mark.skipif(shutil.which("apparmor_parser") is None, reason="needs the Debian package apparmor")
@pytest.mark.parametrize(
    "container",
    [
        PLAIN,
        replace(STACKED, nesting=True),
        replace(PLAIN, unprivileged=False),
        replace(PLAIN, unprivileged=False, nesting=True, raw="mount fstype=ext4,"),
    ],
)
def test_the_parser_takes_it(container: Confinement) -> None:
    features = ["-M", str(ABI)] if ABI.exists() else []
    argv = ["apparmor_parser", "-Q", "-K", "-S", *features]
    done = subprocess.run(argv, input=render_profile(container).encode(), capture_output=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    assert container.name.encode() in done.stdout
    wrong = render_profile(replace(container, raw="nonsense here"))
    assert subprocess.run(argv, input=wrong.encode(), capture_output=True, check=False, timeout=60).returncode != 0


def test_names() -> None:
    assert profile_name("lxd", "c1_</var/lib/lxd>") == "lxd-c1_</var/lib/lxd>"
    long = profile_name("lxd", "x" * 300)
    assert re.fullmatch("lxd-[0-9a-f]{64}", long)


def test_files(tmp_path: Path) -> None:
    profiles = Profiles(tmp_path)
    assert profiles.write("lxd-c1", "a")
    assert not profiles.write("lxd-c1", "a")
    assert profiles.write("lxd-c1", "b")
    file = tmp_path / "profiles/lxd-c1"
    assert (file.read_text(), file.stat().st_mode & 0o777) == ("b", 0o600)
    cached = tmp_path / "cache/26b63962.0/lxd-c1"
    cached.parent.mkdir()
    cached.touch()
    profiles.remove("lxd-c1")
    assert not file.exists()
    assert not cached.exists()


@pytest.fixture
def kernel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A kernel with AppArmor, made of files."""
    for name, text in (
        ("features/domain/stack", "yes\n"),
        ("features/domain/version", "1.2\n"),
        (".ns_stacked", "no\n"),
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.setattr(apparmor, "_SECURITYFS", tmp_path)
    monkeypatch.setattr(shutil, "which", lambda name: f"/sbin/{name}")
    return tmp_path


def test_what_the_kernel_has(kernel: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(apparmor, "_has_mac_admin", lambda: True)
    found = apparmor.detect(disabled=False, in_user_namespace=False)
    assert (found.available, found.stacking, found.admin) == (True, True, True)
    assert not apparmor.detect(disabled=False, in_user_namespace=True).admin
    (kernel / ".ns_stacked").write_text("yes\n")
    stacked = apparmor.detect(disabled=False, in_user_namespace=True)
    assert (stacked.stacking, stacked.admin) == (False, True)
    (kernel / "features/domain/version").write_text("1.1\n")
    (kernel / ".ns_stacked").write_text("no\n")
    assert not apparmor.detect(disabled=False, in_user_namespace=False).stacking
    assert apparmor.detect(disabled=True, in_user_namespace=False) == AppArmor(reason="Manually disabled")
    monkeypatch.setattr(shutil, "which", lambda name: None)
    assert "couldn't be found" in apparmor.detect(disabled=False, in_user_namespace=False).reason
    monkeypatch.setattr(apparmor, "_SECURITYFS", kernel / "no")
    assert "lack of kernel support" in apparmor.detect(disabled=False, in_user_namespace=False).reason


def test_what_is_loaded(kernel: Path) -> None:
    (kernel / "policy/profiles/lxd-c1_.var.lib.lxd.7").mkdir(parents=True)
    (kernel / "policy/namespaces").mkdir()
    assert apparmor.is_loaded("lxd-c1_</var/lib/lxd>")
    assert not apparmor.is_loaded("lxd-c2_</var/lib/lxd>")
    apparmor.make_namespace("n")
    apparmor.make_namespace("n")
    apparmor.remove_namespace("n")
    apparmor.remove_namespace("n")
    assert not (kernel / "policy/namespaces/n").exists()


def test_who_loads_profiles() -> None:
    assert AppArmor(available=True, admin=True).loads_profiles
    assert not AppArmor(available=True, admin=True, confined="docker-default").loads_profiles
    assert not AppArmor(available=True).loads_profiles
    assert not AppArmor(admin=True).loads_profiles
