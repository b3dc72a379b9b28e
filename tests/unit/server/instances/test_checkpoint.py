"""What lxc-checkpoint and CRIU are told, and what their logs tell."""

from pathlib import Path

import pytest

from corral.errors import InvalidRequest
from corral.server.host.isolation.idmap import IdRange
from corral.server.instances import saved_state
from corral.server.instances.container import checkpoint, runtime
from corral.server.instances.container.checkpoint import Target
from corral.server.instances.security import idmaps
from harness import records

LOG = """(00.071)      1: Warn  (criu/config.c:1051): something
(00.083725)      1: Error (criu/image.c:475): Unable to open timens-0.img: Permission denied
Error (criu/util.c:627): execvp("iptables-save", ...) failed
(00.090001) Error (criu/util.c:642): exited, status=1
(00.090002) Error (criu/util.c:1567): ip6tables-legacy-save -V failed
(00.106359) Error (criu/cr-restore.c:2537): Restoring FAILED.
"""


@pytest.fixture
def target(tmp_path: Path) -> Target:
    state = tmp_path / "state"
    state.mkdir()
    return Target("c1", Path("/lxd/containers"), tmp_path / "lxc.conf", state)


def test_arguments(target: Target, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtime, "program_path", lambda name: f"/usr/bin/{name}")
    common = ["-n", "c1", "-P", "/lxd/containers", "--rcfile", target.state / "lxc.conf", "-D", target.state, "-v"]
    expected = ["/usr/bin/lxc-checkpoint", *map(str, common)]
    assert [str(one) for one in checkpoint.save_argv(target, 7, None, stops=False)] == expected
    assert [str(one) for one in checkpoint.save_argv(target, 7, None, stops=True)] == [*expected, "-s"]
    group = Path("/sys/fs/cgroup/lxc.payload.c1")
    direct = [str(one) for one in checkpoint.save_argv(target, 7, group, stops=True)]
    assert direct[:8] == ["/usr/bin/criu", "dump", "-t", "7", "--freeze-cgroup", str(group), "-D", str(target.state)]
    assert "--leave-running" not in direct
    assert checkpoint.save_argv(target, 7, group, stops=False)[-1] == "--leave-running"
    restored = [str(one) for one in checkpoint.restore_argv(target)]
    assert restored[restored.index("/usr/bin/lxc-checkpoint") :] == [expected[0], "-r", *expected[1:]]


def test_options() -> None:
    assert checkpoint.options("external tty[8801:18]").splitlines() == [
        f"ghost-limit {256 << 20}",
        "network-lock nftables",
        "external tty[8801:18]",
    ]
    assert checkpoint.terminal_key(0x8801, 0x18) == "tty[8801:18]"


def test_mounts_of_the_host() -> None:
    config = """lxc.mount.entry = /dev/fuse dev/fuse none bind,create=file,optional 0 0
lxc.mount.entry = /a /with\\040space none rbind 0 0
lxc.mount.entry = proc dev/.lxc/proc proc create=dir,optional 0 0
"""
    assert checkpoint.external_mounts(config) == [
        *("--external", "mnt[/dev/fuse]:dev/fuse"),
        *("--external", "mnt[/with space]:/with space"),
    ]


def test_configuration() -> None:
    config = "lxc.arch = linux64\nlxc.rootfs.path = dir:/pool/c1/rootfs\nlxc.rootfs.options = idmap=container\n"
    assert checkpoint.config_of(config) == config + "lxc.console.path = none\n"
    assert checkpoint.config_of(config, Path("/pool/c1/state/root")).splitlines() == [
        "lxc.arch = linux64",
        "lxc.rootfs.path = dir:/pool/c1/state/root",
        "lxc.console.path = none",
    ]


def test_reasons(target: Target) -> None:
    assert list(checkpoint.errors_of(LOG.splitlines())) == [
        "Unable to open timens-0.img: Permission denied",
        "Restoring FAILED.",
    ]
    assert checkpoint.explain(target.state, "dump") == ""
    (target.state / "lxc-checkpoint.log").write_text("lxc-checkpoint: c1: no criu\n")
    assert checkpoint.explain(target.state, "dump") == "lxc-checkpoint: c1: no criu"
    (target.state / "dump.log").write_text(LOG)
    assert checkpoint.explain(target.state, "dump").endswith("; Restoring FAILED.")


def test_only_a_whole_state_is_one(target: Target) -> None:
    assert not checkpoint.is_whole(target.state)
    (target.state / "inventory.img").touch()
    (target.state / "dump.log").write_text("(00.1) Dumping processes\n")
    assert not checkpoint.is_whole(target.state)
    (target.state / "dump.log").write_text("(00.1) Dumping processes\n(00.2) Dumping finished successfully\n")
    assert checkpoint.is_whole(target.state)
    (target.state / "inventory.img").unlink()
    assert not checkpoint.is_whole(target.state)


def test_ids_that_have_changed() -> None:
    saved = idmaps.plan({}, idmaps.HostIds(IdRange(100000, 65536), IdRange(100000, 65536)), ()).idmap
    instance = records.instance(config={"volatile.idmap.current": idmaps.to_text(saved)})
    saved_state.check_idmap(instance, saved)
    with pytest.raises(InvalidRequest, match="--stateless"):
        saved_state.check_idmap(instance, None)
