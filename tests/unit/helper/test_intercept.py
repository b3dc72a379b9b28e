"""What intercepted system calls say, and what is answered."""

import struct
from pathlib import Path

import pytest

from corral.helper import intercept
from corral.helper.intercepted import caller, mounts, nodes, scheduling

X86_64, I386, ARM64 = 0xC000003E, 0x40000003, 0xC00000B7


def message(arch: int, number: int, *arguments: int, sizes: tuple[int, int, int] = (80, 24, 64)) -> bytes:
    words = (*arguments, *(0,) * (6 - len(arguments)))
    head = intercept.HEADER.pack(0, 10, 20, *sizes, 3)
    return head + intercept.CALL.pack(7, 30, 0, number, arch, 0, *words) + intercept.ANSWER.pack(0, 0, 0, 0) + b"abc"


@pytest.mark.parametrize(
    ("arch", "number", "name"),
    [
        (X86_64, 133, "mknod"),
        (X86_64, 165, "mount"),
        (X86_64, 99, "sysinfo"),
        (X86_64, 0x40000000 | 133, ""),
        (I386, 14, "mknod"),
        (ARM64, 33, "mknodat"),
        (ARM64, -1, ""),
        (0x1234, 133, ""),
    ],
)
def test_calls_by_architecture(arch: int, number: int, name: str) -> None:
    assert intercept.parse(message(arch, number)).name == name


def test_a_call_and_its_answer() -> None:
    sent = message(X86_64, 259, 0xFFFFFFFFFFFFFF9C, 0x1000, 0o020666, 0x103)
    call = intercept.parse(sent)
    assert (call.id, call.init_pid, call.arguments[1], call.wide) == (7, 20, 0x1000, True)
    answer = intercept.compose(sent, call.id, (0, -1, 0))
    assert len(answer) == 136
    assert answer[:112] == sent[:112]
    assert intercept.ANSWER.unpack(answer[112:]) == (7, 0, -1, 0)
    narrow = intercept.parse(message(I386, 297, 0xFFFFFFFF00000001))
    assert narrow.arguments[0] == 1


@pytest.mark.parametrize(
    "bad", [b"", b"x" * 100, message(X86_64, 1, sizes=(96, 24, 64)), b"\1" + message(X86_64, 1)[1:]]
)
def test_messages_of_others(bad: bytes) -> None:
    with pytest.raises(intercept.Invalid):
        intercept.parse(bad)


@pytest.mark.parametrize(
    ("mode", "device", "allowed"),
    [
        (0o020666, 0x103, True),
        (0o020000, 0x501, True),
        (0o020000, 0, True),
        (0o020666, 0x101, False),
        (0o020666, 0x10000103, False),
        (0o060666, 0x103, False),
        (0o100666, 0x103, False),
    ],
)
def test_nodes_that_do_no_harm(mode: int, device: int, allowed: bool) -> None:
    assert nodes.is_allowed(mode, device) is allowed
    call = intercept.parse(message(X86_64, 133, 0, mode, device))
    assert intercept.is_interesting(call) is allowed


def test_device_numbers() -> None:
    assert nodes.decode_device(0x103) == (1, 3)
    assert nodes.decode_device(0x12300456 & 0xFFFFFFFF) == (4, 0x12356)
    assert nodes.decode_device((1 << 32) | 0x103) == (1, 3)


STATUS = """Name:\tx
Umask:\t0027
Tgid:\t41
Uid:\t100000\t100001\t100002\t100003
Gid:\t100010\t100011\t100012\t100013
Groups:\t100004 100005
CapEff:\t0000000008200002
"""


def test_an_identity() -> None:
    who = caller.parse_status(STATUS)
    assert (who.uid, who.gid, who.file_uid, who.file_gid) == (100001, 100011, 100003, 100013)
    assert (who.groups, who.umask, who.group_leader) == ((100004, 100005), 0o27, 41)
    assert [number for number in range(41) if who.has(number)] == [1, 21, 27]


def test_ids_of_namespaces() -> None:
    table = "         0     100000       1000\n      1000       1000          1\n"
    assert caller.map_inside(table, 100005) == 5
    assert caller.map_inside(table, 1000) == 1000
    assert caller.map_outside(table, 5) == 100005
    for number in (0, 101000):
        with pytest.raises(PermissionError):
            caller.map_inside(table, number)
    with pytest.raises(PermissionError):
        caller.map_outside(table, 1001)


def test_options_of_mounts() -> None:
    assert mounts.option_words(1 | 2 | 1024 | 1 << 30) == "ro,nosuid,noatime"
    assert mounts.without_magic(0xC0ED0001) == 1
    assert mounts.without_magic(1 << 25) == 1 << 25
    table = "0 100000 1000\n"
    assert mounts.with_owner(b"", table, table, (100000, 100001)) == b"uid=100000,gid=100001"
    assert mounts.with_owner(b"size=1M,gid=5", table, table, (1, 2)) == b"size=1M,gid=100005,uid=1"


def test_control_groups(tmp_path: Path) -> None:
    table = "4:memory:/lxc.payload.c1/init.scope\n3:cpu,cpuacct:/\n0::/lxc.payload.c1-1\n"
    (tmp_path / "memory/lxc.payload.c1").mkdir(parents=True)
    (tmp_path / "memory/lxc.payload.c1/memory.limit_in_bytes").write_text("1048576\n")
    (tmp_path / "memory/lxc.payload.c1/memory.stat").write_text("cache 5\nrss 6\nnonsense\n")
    (tmp_path / "memory/lxc.payload.c1/memory.usage_in_bytes").write_text("9223372036854771712\n")
    assert scheduling.number_inside("Name:\tx\nNStgid:\t70\t3\nNSpid:\t71\t8\t2\n") == 2
    with pytest.raises(caller.NotOurs):
        scheduling.number_inside("Name:\tx\n")
    groups = scheduling.Groups(table, "c1", str(tmp_path))
    assert groups.number("memory", "memory.limit_in_bytes", "memory.max") == 1 << 20
    assert groups.number("memory", "memory.usage_in_bytes", "-") is None
    assert groups.statistics("memory", "memory.stat", "-") == {"cache": 5, "rss": 6}
    (tmp_path / "lxc.payload.c1").mkdir()
    (tmp_path / "lxc.payload.c1/pids.current").write_text("3\n")
    assert scheduling.Groups("0::/lxc.payload.c1/a/b\n", "c1", str(tmp_path)).number("pids", "-", "pids.current") == 3
    assert scheduling.payload_of("/a/lxc.payload.c12/b", "c1") == "/a/lxc.payload.c12/b"


def test_the_structure_of_sysinfo() -> None:
    names = ("uptime", "load0", "load1", "load2", "totalram", "freeram", "sharedram", "bufferram")
    values = dict.fromkeys((*names, "totalswap", "freeswap", "procs"), 4096)
    wide, narrow = scheduling.pack(values, wide=True), scheduling.pack(values, wide=False)
    assert (len(wide), len(narrow)) == (112, 64)
    assert struct.unpack_from("=Q", wide, 32) == (4096,)
    assert struct.unpack_from("=I", wide, 104) == (1,)
    assert struct.unpack_from("=I", narrow, 16) == (1,)
    assert struct.unpack_from("=I", narrow, 52) == (4096,)
