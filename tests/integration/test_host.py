"""The host layer against the real kernel: btrfs, loop devices, netlink, idmapped mounts, shifted trees."""

import contextlib
import errno
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from corral.server.host import features
from corral.server.host.filesystems import btrfs, loopdev, mount, openat2
from corral.server.host.isolation.idmap import IdMap, IdRange, shift_tree
from corral.server.host.network import netlink, rtnetlink

MIB = 1 << 20


@pytest.fixture
def loop(tmp_path: Path) -> Iterator[str]:
    """A loop device on a file of 256 MiB that is detached with its last user."""
    file = tmp_path / "disk.img"
    file.touch()
    os.truncate(file, 256 * MIB)
    device, fd = loopdev.attach(file)
    try:
        yield device
    finally:
        os.close(fd)


@pytest.fixture
def pool(loop: str, tmp_path: Path) -> Iterator[Path]:
    """A mounted btrfs."""
    if not features.supports_btrfs():
        pytest.skip("needs btrfs")
    subprocess.run(["mkfs.btrfs", "-q", loop], check=True)
    target = tmp_path / "pool"
    target.mkdir()
    mount.mount(loop, target, "btrfs")
    try:
        yield target
    finally:
        mount.ensure_unmounted(target)


def test_loop_devices(loop: str, tmp_path: Path) -> None:
    file = tmp_path / "disk.img"
    assert loopdev.find_devices(file) == [loop]
    assert loopdev.find_devices(tmp_path / "other") == []
    os.truncate(file, 300 * MIB)
    loopdev.refresh_capacity(loop)
    with open(loop, "rb") as device:
        assert device.seek(0, os.SEEK_END) == 300 * MIB


def test_a_loop_device_goes_with_its_last_user(tmp_path: Path) -> None:
    file = tmp_path / "disk.img"
    file.touch()
    os.truncate(file, MIB)
    _, fd = loopdev.attach(file, read_only=True)
    os.close(fd)
    assert loopdev.find_devices(file) == []


def test_subvolumes_and_snapshots(pool: Path) -> None:
    btrfs.create_subvolume(pool / "one")
    (pool / "one" / "file").write_text("text")
    btrfs.snapshot(pool / "one", pool / "two", read_only=True)
    assert btrfs.is_subvolume(pool / "two")
    assert btrfs.is_read_only(pool / "two")
    assert (pool / "two" / "file").read_text() == "text"
    with pytest.raises(OSError, match="Read-only"):
        (pool / "two" / "file").write_text("changed")
    btrfs.set_read_only(pool / "two", False)
    (pool / "two" / "file").write_text("changed")
    assert (pool / "one" / "file").read_text() == "text"
    assert not btrfs.is_subvolume(pool / "one" / "file")
    btrfs.delete_subvolume(pool / "two")
    assert not (pool / "two").exists()


def test_nested_subvolumes_are_deleted_with_theirs(pool: Path) -> None:
    top = pool / "top"
    btrfs.create_subvolume(top)
    (top / "directory").mkdir()
    for name in ("inner", "directory/deep", "inner/innermost"):
        btrfs.create_subvolume(top / name)
    btrfs.set_read_only(top / "inner", True)
    (top / "link").symlink_to(pool)
    assert btrfs.list_nested(top) == ["directory/deep", "inner", "inner/innermost"]
    with pytest.raises(OSError, match="not empty"):
        btrfs.delete_subvolume(top)
    btrfs.delete_subvolume_tree(top)
    assert list(pool.iterdir()) == []


def test_quotas_hold_and_do_not_stop_a_deletion(pool: Path) -> None:
    top = pool / "top"
    btrfs.create_subvolume(top)
    btrfs.create_subvolume(top / "inner")
    btrfs.enable_quota(pool)
    btrfs.set_quota(top, max_referenced=20 * MIB)
    with pytest.raises(OSError, match="quota") as caught:
        (top / "large").write_bytes(os.urandom(40 * MIB))
    assert caught.value.errno == errno.EDQUOT
    btrfs.sync(pool)
    usage = btrfs.find_quota(top)
    assert usage is not None
    assert usage.max_referenced == 20 * MIB
    assert 0 < usage.referenced <= 20 * MIB
    btrfs.delete_subvolume_tree(top)


def test_a_file_system_says_whether_it_can_be_mounted_with_an_idmap(pool: Path) -> None:
    assert mount.supports_idmapped_mounts(pool)
    assert not mount.supports_idmapped_mounts("/proc")


def test_an_idmapped_bind_shows_other_owners(pool: Path, tmp_path: Path) -> None:
    (pool / "file").touch()
    target = tmp_path / "view"
    target.mkdir()
    with mount.user_namespace("0 500000 1000", "0 500000 1000") as userns:
        mount.bind_idmapped(pool, target, userns)
    try:
        assert (target / "file").stat().st_uid == 500_000
        assert (pool / "file").stat().st_uid == 0
    finally:
        mount.ensure_unmounted(target)


def test_read_only_binds_and_the_mount_table(tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    source.mkdir()
    target.mkdir()
    mount.bind(source, target, read_only=True)
    try:
        assert mount.is_mount_point(target)
        with pytest.raises(OSError, match="Read-only"):
            (target / "file").touch()
    finally:
        mount.ensure_tree_unmounted(tmp_path)
    assert not mount.is_mount_point(target)


def test_a_shifted_tree_keeps_all_but_its_owners(tmp_path: Path) -> None:
    root = tmp_path / "root"
    (root / "d").mkdir(parents=True)
    (root / "su").write_bytes(b"#")
    os.chown(root / "su", 0, 42)
    (root / "su").chmod(0o4755)
    os.link(root / "su", root / "su2")
    victim = tmp_path / "victim"
    victim.touch()
    (root / "link").symlink_to(victim)
    (root / "out").symlink_to(tmp_path)
    new = IdMap.of_range(IdRange(700_000, 65_536))
    shift_tree(root, IdMap(), new)
    status = (root / "su2").stat()
    assert (status.st_uid, status.st_gid, status.st_mode & 0o7777) == (700_000, 700_042, 0o4755)
    assert (root / "link").lstat().st_uid == 700_000
    assert victim.stat().st_uid == 0
    shift_tree(root, new, IdMap())
    assert (root / "su").stat().st_gid == 42


def test_paths_stay_in_their_root(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("x")
    root = tmp_path / "root"
    (root / "etc").mkdir(parents=True)
    (root / "etc" / "inside").write_text("inside")
    (root / "up").symlink_to("../secret")
    (root / "absolute").symlink_to("/etc/inside")
    with pytest.raises(FileNotFoundError):
        openat2.open_in_root(root, "up", os.O_RDONLY)
    fd = openat2.open_in_root(root, "/absolute", os.O_RDONLY)
    assert os.read(fd, 10) == b"inside"
    os.close(fd)


@pytest.fixture
def host() -> Iterator[netlink.Netlink]:
    """A routing socket; the links of the tests are removed."""
    with netlink.Netlink() as host:
        yield host
        for name in ("ct-bridge", "ct-veth", "ct-named"):
            host.ensure_link_deleted(name)


def test_links_addresses_and_routes(host: netlink.Netlink) -> None:
    host.create_bridge("ct-bridge", mac="00:16:3e:00:00:01", mtu=1400)
    host.set_up("ct-bridge")
    host.add_address("ct-bridge", "10.234.5.1/24")
    with pytest.raises(FileExistsError):
        host.add_address("ct-bridge", "10.234.5.1/24")
    host.ensure_address("ct-bridge", "10.234.5.1/24")
    host.create_veth("ct-veth", "ct-peer", peer_mac="00:16:3e:00:00:02")
    host.set_master("ct-veth", "ct-bridge")
    host.set_up("ct-veth")
    links = {link.name: link for link in host.list_links(with_addresses=True)}
    assert links["ct-bridge"].mtu == 1400
    assert links["ct-bridge"].mac == "00:16:3e:00:00:01"
    assert [one.address for one in links["ct-bridge"].addresses if one.family == "inet"] == ["10.234.5.1"]
    assert links["ct-veth"].master == links["ct-bridge"].index
    assert links["ct-peer"].mac == "00:16:3e:00:00:02"
    route = rtnetlink.Route("10.235.0.0/16", gateway="10.234.5.2", interface=links["ct-bridge"].index)
    host.ensure_route(route)
    host.ensure_route(route)
    assert [found.gateway for found in host.list_routes() if found.destination == "10.235.0.0/16"] == ["10.234.5.2"]
    host.delete_route(route)
    with pytest.raises(ProcessLookupError):
        host.delete_route(route)
    host.rename_link("ct-veth", "ct-named")
    assert host.find_link("ct-veth") is None
    host.set_master("ct-named", None)
    assert host.get_link("ct-named").master == 0


def test_links_of_another_namespace(host: netlink.Netlink) -> None:
    with subprocess.Popen(
        ["unshare", "--net", "sh", "-c", "echo ready; read -r line"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as holder:
        assert holder.stdout is not None
        holder.stdout.readline()
        pidfd = os.pidfd_open(holder.pid)
        try:
            host.create_veth("ct-veth", "ct-peer")
            host.move_link("ct-peer", pid=holder.pid, new_name="eth0")
            with netlink.Netlink(pidfd) as inside:
                assert [link.name for link in inside.list_links()] == ["lo", "eth0"]
            assert host.find_link("eth0") is None
        finally:
            os.close(pidfd)
            with contextlib.suppress(BrokenPipeError):
                holder.communicate(b"\n", 10)
