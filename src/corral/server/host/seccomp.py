"""The text of seccomp policies in liblxc's format (lxc.container.conf(5), version 2); pure."""

from collections.abc import Iterable, Sequence

ENOSYS = 38
DEFAULT_DENIED = ("kexec_load", "open_by_handle_at", "init_module", "finit_module", "delete_module")
NEW_MOUNT_API = (
    "fsopen",
    "fsconfig",
    "fsinfo",
    "fsmount",
    "fspick",
    "open_tree",
    "move_mount",
    "mount_setattr",
    "openat2",
)


def render_deny_list(
    denied: Sequence[str] = (),
    *,
    with_default: bool = True,
    notified: Iterable[str] = (),
    no_new_mount_api: bool = False,
) -> str:
    """A policy that allows all but the system calls in `denied` (lines of liblxc's syntax) and the default ones.

    `notified` are lines for system calls that the daemon answers. `no_new_mount_api` makes programs fall back to
    mount(2), which a policy can look into.
    """
    lines = ["2", "denylist"]
    if with_default:
        lines += ["[all]", "reject_force_umount  # comment this to allow umount -f;  not recommended", "[all]"]
        lines += [f"{name} errno {ENOSYS}" for name in DEFAULT_DENIED]
    else:
        lines.append("[all]")
    if no_new_mount_api:
        lines += [f"{name} errno {ENOSYS}" for name in NEW_MOUNT_API]
    lines += notified
    lines += [line if " " in line.strip() else f"{line.strip()} errno {ENOSYS}" for line in denied if line.strip()]
    return "\n".join(lines) + "\n"


def render_allow_list(allowed: Sequence[str]) -> str:
    """A policy that allows only the given system calls (lines of liblxc's syntax)."""
    return "\n".join(["2", "allowlist", "[all]", *(line for line in allowed if line.strip())]) + "\n"
