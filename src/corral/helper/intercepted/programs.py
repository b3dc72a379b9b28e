"""Answers bpf(2) for programs that decide about devices, loaded and attached to control groups of the container."""

import ctypes
import os
import struct

from corral.helper.intercepted import kernel
from corral.helper.intercepted.caller import Caller, NotOurs
from corral.helper.intercepted.kernel import CAP_SYS_ADMIN

LOAD, ATTACH, DETACH = 5, 8, 9
_CGROUP_DEVICE_PROGRAM = 15
_CGROUP_DEVICE_ATTACH = 6
_ATTACH_FLAGS = 1 | 2 | 4
_INSTRUCTION_SIZE = 8
_MOST_INSTRUCTIONS = 4096
"""Programs about devices are short; the kernel would take a million."""
_LOG_SIZE = 4096
_ATTRIBUTE_LIMIT = 256
_NOTIF_ADDFD = 0x40182103
_PIDFD_THREAD = os.O_EXCL
_KCMP_FILES = 2


def bpf(caller: Caller, command: int, address: int, size: int) -> int:
    """Load, attach or detach for the task; whatever else is the kernel's to refuse."""
    if size > _ATTRIBUTE_LIMIT or size < 20:
        raise NotOurs
    attributes = caller.read(address, size).ljust(_ATTRIBUTE_LIMIT, b"\0")
    caller.ensure_waiting()
    if not caller.is_trusted_with(CAP_SYS_ADMIN):
        raise NotOurs
    try:
        if command == LOAD:
            return _load(caller, attributes)
        return _attach(caller, command, attributes)
    except OSError:
        raise NotOurs from None


def _bpf(command: int, attributes: ctypes.Array[ctypes.c_char]) -> int:
    number = kernel.NR_BPF[os.uname().machine]
    return kernel.call(number, command, attributes, len(attributes))


def _load(caller: Caller, attributes: bytes) -> int:
    kind, count, code, license_address, level, log_size, log_address = struct.unpack_from("=IIQQIIQ", attributes)
    if kind != _CGROUP_DEVICE_PROGRAM or not 0 < count <= _MOST_INSTRUCTIONS:
        raise NotOurs
    instructions = ctypes.create_string_buffer(caller.read(code, count * _INSTRUCTION_SIZE))
    words = ctypes.create_string_buffer(caller.read_string(license_address)[:127] if license_address else b"")
    log_size = min(log_size, _LOG_SIZE) if log_address else 0
    log = ctypes.create_string_buffer(max(log_size, 1))
    name = attributes[48:64]
    packed = struct.pack(
        "=IIQQIIQII16s",
        kind,
        count,
        ctypes.addressof(instructions),
        ctypes.addressof(words),
        level if log_size else 0,
        log_size,
        ctypes.addressof(log) if log_size else 0,
        0,
        0,
        name,
    )
    try:
        program = _bpf(LOAD, ctypes.create_string_buffer(packed, len(packed)))
    except OSError:
        if log_size:
            os.pwrite(caller.memory, log.raw, log_address)
        raise
    # The descriptor is put into the table of the task; its number there is the result.
    added = struct.pack("=QIIII", caller.call_id, 0, program, 0, os.O_CLOEXEC)
    return kernel.ioctl(caller.notifier, _NOTIF_ADDFD, added)


def _attach(caller: Caller, command: int, attributes: bytes) -> int:
    target, program, kind, flags, replaced = struct.unpack_from("=IIIII", attributes)
    if kind != _CGROUP_DEVICE_ATTACH or flags & ~_ATTACH_FLAGS:
        raise NotOurs
    process = _open_process(caller)
    group = kernel.call(kernel.NR_PIDFD_GETFD, process, target, 0)
    code = kernel.call(kernel.NR_PIDFD_GETFD, process, program, 0) if program or command == ATTACH else 0
    old = kernel.call(kernel.NR_PIDFD_GETFD, process, replaced, 0) if flags & 4 else 0
    caller.ensure_waiting()
    packed = struct.pack("=IIIII", group, code, kind, flags, old)
    return _bpf(command, ctypes.create_string_buffer(packed, len(packed)))


def _open_process(caller: Caller) -> int:
    """A pidfd by which the task's descriptors can be taken."""
    task = int(caller.read_file("stat").split(" ", 1)[0])
    leader = caller.identity.group_leader
    try:
        return kernel.call(kernel.NR_PIDFD_OPEN, task, _PIDFD_THREAD)
    except OSError:
        process = kernel.call(kernel.NR_PIDFD_OPEN, leader, 0)
    if task != leader:
        number = kernel.NR_KCMP[os.uname().machine]
        if kernel.call(number, task, leader, _KCMP_FILES, 0, 0) != 0:
            raise NotOurs
    return process
