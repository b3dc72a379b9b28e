"""AppArmor: what the kernel has of it, patterns of paths, and profiles that are checked, loaded and unloaded."""

import contextlib
import hashlib
import os
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from corral.server.host import sysfs
from corral.server.host.programs import command

_SECURITYFS = Path("/sys/kernel/security/apparmor")
_CAP_MAC_ADMIN = 33
_NAME_LIMIT = 253
_PARSER_TIMEOUT_S = 60.0
_STACKING_VERSION = (1, 2)


@dataclass(frozen=True, slots=True)
class AppArmor:
    """What this process may do with AppArmor. `reason` says why nothing; `confined` is the profile it runs under."""

    available: bool = False
    reason: str = ""
    stacking: bool = False
    """Whether a container can get a namespace for profiles of its own."""
    confined: str = ""
    admin: bool = False

    @property
    def loads_profiles(self) -> bool:
        """Whether every container gets a profile of its own."""
        return self.available and self.admin and not self.confined


NO_APPARMOR = AppArmor()


def detect(*, disabled: bool, in_user_namespace: bool) -> AppArmor:
    """Ask the kernel. Reads files: call it in a thread."""
    if disabled:
        return AppArmor(reason="Manually disabled")
    if not _SECURITYFS.is_dir():
        return AppArmor(reason="Disabled because of lack of kernel support")
    if shutil.which("apparmor_parser") is None:
        return AppArmor(reason="Disabled because 'apparmor_parser' couldn't be found")
    stacked = sysfs.read_text(_SECURITYFS / ".ns_stacked") == "yes"
    own = sysfs.read_text("/proc/self/attr/current").removesuffix(" (enforce)")
    return AppArmor(
        available=True,
        stacking=_can_stack() and not stacked,
        confined="" if own == "unconfined" else own,
        admin=_has_mac_admin() and (stacked or not in_user_namespace),
    )


def _can_stack() -> bool:
    features = _SECURITYFS / "features/domain"
    numbers = [part for part in sysfs.read_text(features / "version").split(".") if part.isdecimal()]
    version = tuple(int(part) for part in numbers) or (0,)
    return sysfs.read_text(features / "stack") == "yes" and version >= _STACKING_VERSION


def _has_mac_admin() -> bool:
    for line in sysfs.read_text("/proc/self/status").splitlines():
        if line.startswith("CapEff:"):
            return bool(int(line.split()[1], 16) >> _CAP_MAC_ADMIN & 1)
    return False


@cache
def unconfined() -> tuple[str, ...]:
    """What goes before a program's name so that no profile is attached to it by its path; nothing where none would be.

    Debian confines /usr/bin/lxc-start to what `lxc` alone needs: it may not change to profiles of others.
    """
    is_on = sysfs.read_text("/sys/module/apparmor/parameters/enabled") == "Y"
    program = shutil.which("aa-exec", path="/usr/bin:/usr/sbin:/bin:/sbin")
    if not is_on or program is None or sysfs.read_text("/proc/self/attr/current") != "unconfined":
        return ()
    return (program, "-p", "unconfined", "--")


def profile_name(product: str, name: str) -> str:
    """A name that AppArmor takes: one that is too long is replaced by its hash."""
    if len(name) + len(product) + 1 >= _NAME_LIMIT:
        name = hashlib.sha256(name.encode()).hexdigest()
    return f"{product}-{name}"


def patterns_besides(root: str, kept: Iterable[str]) -> list[str]:
    """Patterns that together match everything below a directory but some paths (relative, and what is below them).

    The language has no such thing: the patterns branch off wherever a name stops being the beginning of one that is
    kept. A kept name that ends in `*` keeps all that begin so.
    """
    children: dict[str, list[str]] = {}
    for path in kept:
        name, _, rest = path.partition("/")
        children.setdefault(name, []).append(rest)
    patterns = _names_besides(root, list(children))
    for name, rests in children.items():
        below = [rest for rest in rests if rest]
        if below and "" not in rests:
            patterns += patterns_besides(f"{root}/{name}", below)
    return patterns


def _names_besides(root: str, names: list[str]) -> list[str]:
    plain = [name.removesuffix("*") for name in names]
    patterns = []
    for prefix in dict.fromkeys(name[:length] for name in plain for length in range(len(name))):
        following = "".join(
            dict.fromkeys(name[len(prefix)] for name in plain if name.startswith(prefix) and name != prefix)
        )
        patterns.append(f"{root}/{prefix}[^{following}]*{{,/**}}")
    for name, stem in zip(names, plain, strict=True):
        others = any(other != stem and other.startswith(stem) for other in plain)
        if not name.endswith("*") and not others:
            patterns.append(f"{root}/{name}?*{{,/**}}")
    return patterns


class Profiles:
    """The profiles in a directory (`profiles/` and the parser's `cache/` below it)."""

    def __init__(self, directory: Path) -> None:
        self._profiles = directory / "profiles"
        self._cache = directory / "cache"

    def write(self, file: str, text: str) -> bool:
        """Write a profile unless it is there as it is: the parser's cache goes by the time. Whether it was written."""
        for place in (self._profiles, self._cache):
            place.mkdir(mode=0o700, parents=True, exist_ok=True)
        path = self._profiles / file
        try:
            if path.read_text() == text:
                return False
        except FileNotFoundError:
            pass
        path.write_text(text)
        path.chmod(0o600)
        return True

    def remove(self, file: str) -> None:
        """Remove a profile and what the parser cached of it."""
        (self._profiles / file).unlink(missing_ok=True)
        for cached in self._cache.glob(f"*/{file}"):
            cached.unlink(missing_ok=True)
        (self._cache / file).unlink(missing_ok=True)

    async def check(self, text: str) -> None:
        """Have the parser read a profile that is not kept. Raises CommandFailed with what is wrong with it."""
        await command.run(["apparmor_parser", "-Q", "-K"], stdin=text, timeout_s=_PARSER_TIMEOUT_S)

    async def load(self, file: str) -> None:
        """Put a profile into the kernel, or another one in its place. Raises CommandFailed."""
        await self._parser("-r", file)

    async def unload(self, file: str) -> None:
        """Take a profile out of the kernel. Raises CommandFailed where it is not there."""
        await self._parser("-R", file)

    async def _parser(self, action: str, file: str) -> None:
        argv: list[str | Path] = ["apparmor_parser", action, "-W", "-L", self._cache, self._profiles / file]
        await command.run(argv, timeout_s=_PARSER_TIMEOUT_S)


def is_loaded(name: str) -> bool:
    """Whether the kernel has a profile of this name."""
    mangled = name.replace("/", ".").replace("<", "").replace(">", "")
    try:
        found = os.listdir(_SECURITYFS / "policy/profiles")
    except OSError:
        return False
    return any(entry.rpartition(".")[0] == mangled for entry in found)


def make_namespace(name: str) -> None:
    """Make a namespace for profiles."""
    (_SECURITYFS / "policy/namespaces" / name).mkdir(exist_ok=True)


def remove_namespace(name: str) -> None:
    """Remove a namespace and the profiles in it."""
    with contextlib.suppress(FileNotFoundError):
        (_SECURITYFS / "policy/namespaces" / name).rmdir()
