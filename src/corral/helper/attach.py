"""Attaches a command to a container through liblxc, which applies its capabilities, seccomp and AppArmor.

A container without a user namespace is held by nothing else, so its commands must get exactly what its init got; so
must those of one whose system calls are filtered or intercepted. Runs in a child of the zygote, which stays as the
parent of the command and passes its end on.
"""

import ctypes
import os
import signal
from collections.abc import Callable
from typing import Any

ATTEMPTS = 5
"""liblxc 5.0 mixes two messages up where a new process is faster than its parent; then nothing was executed."""

_ATTACH_DEFAULT = 0x0000FFFF
_CLEAR_ENVIRONMENT = 1
_FUNCTIONS_BEFORE_LOAD_CONFIG = 6
_FUNCTIONS_BEFORE_CLEAR_CONFIG = 22
_FUNCTIONS_BEFORE_ATTACH = 36
_ALL_FDS = 1 << 20


class _Container(ctypes.Structure):
    """The start of liblxc's struct lxc_container: data, then one pointer per method."""

    _fields_ = [
        ("name", ctypes.c_char_p),
        ("configfile", ctypes.c_char_p),
        ("pidfile", ctypes.c_char_p),
        ("slock", ctypes.c_void_p),
        ("privlock", ctypes.c_void_p),
        ("numthreads", ctypes.c_int),
        ("lxc_conf", ctypes.c_void_p),
        ("error_string", ctypes.c_char_p),
        ("error_num", ctypes.c_int),
        ("daemonize", ctypes.c_bool),
        ("config_path", ctypes.c_char_p),
        ("methods", ctypes.c_void_p * (_FUNCTIONS_BEFORE_ATTACH + 1)),
    ]


class _Groups(ctypes.Structure):
    _fields_ = [("size", ctypes.c_size_t), ("list", ctypes.c_void_p)]


class _Options(ctypes.Structure):
    """liblxc's lxc_attach_options_t."""

    _fields_ = [
        ("attach_flags", ctypes.c_int),
        ("namespaces", ctypes.c_int),
        ("personality", ctypes.c_long),
        ("initial_cwd", ctypes.c_char_p),
        ("uid", ctypes.c_uint),
        ("gid", ctypes.c_uint),
        ("env_policy", ctypes.c_int),
        ("extra_env_vars", ctypes.c_void_p),
        ("extra_keep_env", ctypes.c_void_p),
        ("stdin_fd", ctypes.c_int),
        ("stdout_fd", ctypes.c_int),
        ("stderr_fd", ctypes.c_int),
        ("log_fd", ctypes.c_int),
        ("lsm_label", ctypes.c_char_p),
        ("groups", _Groups),
    ]


class AttachFailed(Exception):
    """liblxc could not attach; its log has the reason."""


def _strings(values: list[str]) -> Any:
    array = (ctypes.c_char_p * (len(values) + 1))()
    for index, value in enumerate(values):
        array[index] = os.fsencode(value)
    return array


_Function = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p)


def start(request: dict[str, Any], stdio: list[int], execute: Callable[[list[str], dict[str, str]], int]) -> int:
    """Start the command by `execute` and return its pid; it is a child of this process. Raises AttachFailed."""
    place = request["attach"]
    liblxc = ctypes.CDLL("liblxc.so.1", use_errno=True)
    liblxc.lxc_container_new.restype = ctypes.POINTER(_Container)
    container = liblxc.lxc_container_new(place["name"].encode(), place["lxcpath"].encode())
    if not container:
        raise AttachFailed(f"liblxc does not know {place['name']}")
    methods = container.contents.methods
    pointer = ctypes.cast(container, ctypes.c_void_p)
    # liblxc read a configuration of its own accord, if there was one: only the given one counts.
    ctypes.CFUNCTYPE(None, ctypes.c_void_p)(methods[_FUNCTIONS_BEFORE_CLEAR_CONFIG])(pointer)
    load = ctypes.CFUNCTYPE(ctypes.c_bool, ctypes.c_void_p, ctypes.c_char_p)(methods[_FUNCTIONS_BEFORE_LOAD_CONFIG])
    if not load(pointer, os.fsencode(place["config"])):
        raise AttachFailed(f"liblxc cannot read {place['config']}")
    environment = _strings([f"{name}={value}" for name, value in request["env"].items()])
    groups = (ctypes.c_uint * max(1, len(request["groups"])))(*request["groups"])
    options = _Options(
        attach_flags=_ATTACH_DEFAULT,
        namespaces=-1,
        personality=-1,
        initial_cwd=os.fsencode(request["cwd"]),
        uid=request["uid"],
        gid=request["gid"],
        env_policy=_CLEAR_ENVIRONMENT,
        extra_env_vars=ctypes.cast(environment, ctypes.c_void_p),
        stdin_fd=stdio[0],
        stdout_fd=stdio[1],
        stderr_fd=stdio[2],
        log_fd=-9,
        groups=_Groups(len(request["groups"]), ctypes.cast(groups, ctypes.c_void_p)),
    )
    attach = ctypes.CFUNCTYPE(
        ctypes.c_int, ctypes.c_void_p, _Function, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p
    )(methods[_FUNCTIONS_BEFORE_ATTACH])
    pid = ctypes.c_int(-1)
    for _ in range(ATTEMPTS):
        gate, opener = os.pipe2(os.O_CLOEXEC)
        run = _Function(_when_told(gate, opener, lambda: execute(request["argv"], request["env"])))
        try:
            if attach(pointer, run, None, ctypes.byref(options), ctypes.byref(pid)) >= 0:
                os.write(opener, b"!")
                return pid.value
        finally:
            os.close(gate)
            os.close(opener)
    raise AttachFailed("liblxc could not attach to the container")


def _when_told(gate: int, opener: int, execute: Callable[[], int]) -> Callable[[int | None], int]:
    """What liblxc calls in the new process: nothing is executed before the attachment is known to be whole."""

    def run(_: int | None) -> int:
        code = 126
        try:
            os.close(opener)
            if os.read(gate, 1) == b"!":
                # liblxc leaves descriptors of its own open.
                os.closerange(3, _ALL_FDS)
                for number in (signal.SIGPIPE, signal.SIGXFSZ, signal.SIGINT, signal.SIGTERM):
                    signal.signal(number, signal.SIG_DFL)
                code = execute()
        finally:
            os._exit(code)

    return run
