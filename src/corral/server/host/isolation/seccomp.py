"""The text of seccomp policies in liblxc's format (lxc.container.conf(5), version 2); pure."""

from collections.abc import Iterable, Sequence

ENOSYS = 38
DEFAULT_DENIED = ("kexec_load", "open_by_handle_at", "init_module", "finit_module", "delete_module")
NEW_MOUNT_API = ("fsopen", "fsconfig", "fsinfo", "fsmount", "fspick", "open_tree", "move_mount", "openat2")
"""System calls that make mounts in several steps; without them programs fall back to mount(2)."""

COMPAT = (
    "compat_sys_rt_sigaction",
    "stub_x32_rt_sigreturn",
    "compat_sys_ioctl",
    "compat_sys_readv",
    "compat_sys_writev",
    "compat_sys_recvfrom",
    "compat_sys_sendmsg",
    "compat_sys_recvmsg",
    "stub_x32_execve",
    "compat_sys_ptrace",
    "compat_sys_rt_sigpending",
    "compat_sys_rt_sigtimedwait",
    "compat_sys_rt_sigqueueinfo",
    "compat_sys_sigaltstack",
    "compat_sys_timer_create",
    "compat_sys_mq_notify",
    "compat_sys_kexec_load",
    "compat_sys_waitid",
    "compat_sys_set_robust_list",
    "compat_sys_get_robust_list",
    "compat_sys_vmsplice",
    "compat_sys_move_pages",
    "compat_sys_preadv64",
    "compat_sys_pwritev64",
    "compat_sys_rt_tgsigqueueinfo",
    "compat_sys_recvmmsg",
    "compat_sys_sendmmsg",
    "compat_sys_process_vm_readv",
    "compat_sys_process_vm_writev",
    "compat_sys_setsockopt",
    "compat_sys_getsockopt",
    "compat_sys_io_setup",
    "compat_sys_io_submit",
    "stub_x32_execveat",
)
"""What the kernel has for programs of 32 bits and for x32, as it calls that itself."""

_S_IFMT, _S_IFCHR, _S_IFBLK = 0o170000, 0o020000, 0o060000
_RET_TRACE_OR_NOTIFY = 0x7FF00000
_NEW_LISTENER = 1 << 3
# The flags of mount(2) that may stand beside a file system's type; all others change or move what is mounted already.
_NEW_MOUNT_FLAGS = (
    0xC0ED0000  # the mark that old programs put there
    | 1  # MS_RDONLY
    | 2  # MS_NOSUID
    | 4  # MS_NODEV
    | 8  # MS_NOEXEC
    | 16  # MS_SYNCHRONOUS
    | 64  # MS_MANDLOCK
    | 128  # MS_DIRSYNC
    | 1024  # MS_NOATIME
    | 2048  # MS_NODIRATIME
    | 16384  # MS_REC
    | 32768  # MS_SILENT
    | 1 << 16  # MS_POSIXACL
    | 1 << 21  # MS_RELATIME
    | 1 << 24  # MS_STRICTATIME
    | 1 << 25  # MS_LAZYTIME
)
_NOTIFIED = {
    "mknod": (
        f"mknod notify [1,{_S_IFCHR},SCMP_CMP_MASKED_EQ,{_S_IFMT}]",
        f"mknod notify [1,{_S_IFBLK},SCMP_CMP_MASKED_EQ,{_S_IFMT}]",
        f"mknodat notify [2,{_S_IFCHR},SCMP_CMP_MASKED_EQ,{_S_IFMT}]",
        f"mknodat notify [2,{_S_IFBLK},SCMP_CMP_MASKED_EQ,{_S_IFMT}]",
    ),
    "sched_setscheduler": ("sched_setscheduler notify",),
    "setxattr": ("setxattr notify [3,1,SCMP_CMP_EQ]",),
    "sysinfo": ("sysinfo notify",),
    "mount": (
        f"mount notify [3,0,SCMP_CMP_MASKED_EQ,{~_NEW_MOUNT_FLAGS & (1 << 64) - 1}]",
        *(f"{name} errno {ENOSYS}" for name in NEW_MOUNT_API),
    ),
    "bpf": tuple(f"bpf notify [0,{command},SCMP_CMP_EQ]" for command in (5, 8, 9)),
}
"""What has calls of these names handed over; of bpf(2) those that load, attach and detach programs."""


def render_notified(names: Iterable[str]) -> list[str]:
    """The lines that hand system calls over: for mknod, setxattr, mount, bpf, sched_setscheduler, sysinfo."""
    lines = [line for name in names for line in _NOTIFIED[name]]
    if not lines:
        return []
    # Nothing inside may put a listener or a tracer of its own in front of this one.
    guards = [
        f"seccomp errno 22 [1,{_RET_TRACE_OR_NOTIFY},SCMP_CMP_MASKED_EQ,{_RET_TRACE_OR_NOTIFY}]",
        f"seccomp errno 22 [1,{_NEW_LISTENER},SCMP_CMP_MASKED_EQ,{_NEW_LISTENER}]",
    ]
    return guards + lines


def render_deny_list(
    denied: Sequence[str] = (),
    *,
    with_default: bool = True,
    notified: Sequence[str] = (),
    compat: bool = False,
) -> str:
    """A policy that allows all but the system calls in `denied` (lines of liblxc's syntax) and the default ones.

    `notified` are lines for system calls that are handed over (render_notified). `compat` denies the kernel's calls for
    other ABIs by their own names, as LXD does: liblxc has no regard for sections, so that the names which these calls
    have in programs would deny the native ones, and passes over what its library does not know.
    """
    lines = ["2", "denylist", "[all]"]
    if with_default:
        lines += ["reject_force_umount  # comment this to allow umount -f;  not recommended", "[all]"]
        lines += [f"{name} errno {ENOSYS}" for name in DEFAULT_DENIED]
    lines += notified
    if compat:
        lines += ["[x86_64]", *(f"{name} errno {ENOSYS}" for name in COMPAT), "[all]"]
    lines += [line for line in denied if line.strip()]
    return "\n".join(lines) + "\n"


def render_allow_list(allowed: Sequence[str], *, notified: Sequence[str] = ()) -> str:
    """A policy that allows only the given system calls (lines of liblxc's syntax) and those that are handed over."""
    return "\n".join(["2", "allowlist", "[all]", *(line for line in allowed if line.strip()), *notified]) + "\n"
