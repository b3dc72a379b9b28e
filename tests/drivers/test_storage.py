"""One suite for every storage driver: pools and volumes on the real kernel, through the verbs that instances use."""

import asyncio
import contextlib
import os
import shutil
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from corral.errors import AlreadyExists, CorralError, InvalidRequest, NotFound, OutOfSpace, Unavailable
from corral.server.context import Context
from corral.server.db.database import Tx
from corral.server.host.filesystems import btrfs, loopdev, mount
from corral.server.storage import (
    creation,
    custom,
    custom_snapshots,
    image_volumes,
    model,
    pools,
    snapshot_store,
    snapshots,
    store,
    volumes,
)
from corral.server.storage.model import ImageSource, Pool, Volume, VolumeType
from corral.units import parse_size

MIB = 2**20
FINGERPRINT = "ab" * 32


class Filler:
    """An image's contents, and how often they were asked for."""

    def __init__(self, fail: Exception | None = None) -> None:
        self.calls = 0
        self.fail = fail

    async def __call__(self, directory: Path) -> None:
        self.calls += 1
        rootfs = directory / "rootfs"
        rootfs.mkdir(mode=0o755)
        (directory / "metadata.yaml").write_text("architecture: x86_64\n")
        (rootfs / "file").write_text("text")
        os.chown(rootfs / "file", 1000, 1001)
        os.link(rootfs / "file", rootfs / "link")
        (rootfs / "symlink").symlink_to("/etc")
        os.mkfifo(rootfs / "fifo")
        os.setxattr(rootfs / "file", "user.note", b"x")
        await asyncio.sleep(0)
        if self.fail is not None:
            raise self.fail

    @property
    def image(self) -> ImageSource:
        return ImageSource(FINGERPRINT, self)


@pytest.fixture
async def pool(context: Context, driver_name: str) -> AsyncIterator[Pool]:
    await pools.mount_all(context)
    config = {"size": "256MiB"} if driver_name == "btrfs" else {}
    yield await pools.create(context, "p1", driver_name, "a pool", config)
    for volume in await context.db.read(store.list_volumes):
        with contextlib.suppress(CorralError):
            await volumes.delete(context, volume)
    with contextlib.suppress(NotFound):
        await pools.delete(context, "p1")


async def make_from_image(context: Context, name: str, image: ImageSource, size: int | None = None) -> Volume:
    draft = volumes.draft(await pools.get_usable(context, "p1"), "default", name, VolumeType.CONTAINER, {})
    return await finished(context, await image_volumes.create_from_image(context, draft, image, size))


async def finished(context: Context, volume: Volume) -> Volume:
    """Mark an instance's volume as whole, as its instance's last transaction does."""
    await context.db.write(store.mark_volume, volume.id, "")
    return volume


async def launch(context: Context, name: str, filler: Filler, size: str = "") -> Volume:
    return await make_from_image(context, name, filler.image, parse_size(size) or None)


async def make_empty(context: Context, pool: str, project: str, name: str, kind: VolumeType, **config: str) -> Volume:
    draft = volumes.draft(await pools.get_usable(context, pool), project, name, kind, config)
    return await finished(context, await creation.create_empty(context, draft, None))


def entries(context: Context, *parts: str) -> list[str]:
    return sorted(os.listdir(context.member.pools_dir.joinpath("p1", *parts)))


async def test_a_pool_has_the_layout(context: Context, pool: Pool, driver_name: str) -> None:
    path = context.member.pools_dir / "p1"
    assert entries(context) == sorted(model.POOL_DIRECTORIES)
    assert all((path / name).stat().st_mode & 0o777 == mode for name, mode in model.POOL_DIRECTORIES.items())
    assert pool.status == "Created"
    loop_file = str(context.member.state_dir / "disks" / "p1.img")
    assert pool.config["source"] == (loop_file if driver_name == "btrfs" else str(path))
    space = await pools.space(context, "p1")
    assert 0 < space.used < space.total


async def test_a_name_is_taken_once(context: Context, pool: Pool) -> None:
    with pytest.raises(AlreadyExists, match="The storage pool already exists"):
        await pools.create(context, "p1", "dir", "", {})


async def test_deleting_a_pool_leaves_nothing(context: Context, pool: Pool) -> None:
    await volumes.delete(context, await launch(context, "c1", Filler()))
    assert entries(context, "images") == [FINGERPRINT]
    await pools.delete(context, "p1")
    assert os.listdir(context.member.pools_dir) == []
    assert os.listdir(context.member.state_dir / "disks") == []
    assert await context.db.read(store.list_pools) == []
    with pytest.raises(NotFound, match="Storage pool not found"):
        await pools.delete(context, "p1")


async def test_a_pool_in_use_stays(context: Context, pool: Pool) -> None:
    await launch(context, "c1", Filler())
    with pytest.raises(InvalidRequest, match=r"The storage pool is currently in use: /1\.0/instances/c1"):
        await pools.delete(context, "p1")


async def test_a_volume_has_all_that_the_image_has(context: Context, pool: Pool) -> None:
    volume = await launch(context, "c1", Filler())
    path = await volumes.mount(context, volume)
    assert path == context.member.pools_dir / "p1" / "containers" / "c1"
    assert path.stat().st_mode & 0o7777 == 0o100
    rootfs = path / "rootfs"
    found = (rootfs / "file").stat()
    assert (found.st_uid, found.st_gid, found.st_nlink) == (1000, 1001, 2)
    assert os.getxattr(rootfs / "file", "user.note") == b"x"
    assert os.readlink(rootfs / "symlink") == "/etc"
    assert (rootfs / "fifo").is_fifo()
    (rootfs / "new").write_text("writable")


async def test_an_image_is_unpacked_once(context: Context, pool: Pool) -> None:
    filler = Filler()
    await asyncio.gather(*(launch(context, f"c{number}", filler) for number in range(8)))
    assert filler.calls == 1
    assert entries(context, "images") == [FINGERPRINT]
    assert entries(context, "containers") == [f"c{number}" for number in range(8)]
    await image_volumes.delete(context, FINGERPRINT)
    assert entries(context, "images") == []
    await launch(context, "again", filler)
    assert filler.calls == 2


async def test_instances_of_projects_have_their_own_names(context: Context, pool: Pool) -> None:
    await context.db.write(lambda tx: tx.execute("INSERT INTO projects (name) VALUES ('p')"))
    volume = await make_empty(context, "p1", "p", "c1", VolumeType.CONTAINER)
    assert volumes.path(context.member, volume).name == "p_c1"
    custom = await make_empty(context, "p1", "default", "v", VolumeType.CUSTOM)
    assert volumes.path(context.member, custom).name == "default_v"


async def test_a_volume_name_is_taken_once(context: Context, pool: Pool) -> None:
    await launch(context, "c1", Filler())
    with pytest.raises(AlreadyExists, match="Volume by that name already exists"):
        await launch(context, "c1", Filler())
    assert entries(context, "containers") == ["c1"]


@pytest.mark.parametrize("error", [InvalidRequest("damaged"), RuntimeError("bug")])
async def test_a_failing_image_leaves_nothing(context: Context, pool: Pool, error: Exception) -> None:
    with pytest.raises(type(error), match=str(error)):
        await launch(context, "c1", Filler(error))
    assert entries(context, "images") == entries(context, "containers") == []
    assert await context.db.read(store.list_pending, pool) == []
    await launch(context, "c1", Filler())


async def test_a_cancelled_unpack_leaves_nothing(context: Context, pool: Pool) -> None:
    started = asyncio.Event()

    async def fill(directory: Path) -> None:
        (directory / "rootfs").mkdir()
        started.set()
        await asyncio.Event().wait()

    source = ImageSource(FINGERPRINT, fill)
    task = asyncio.create_task(make_from_image(context, "c1", source))
    await started.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert entries(context, "images") == entries(context, "containers") == []
    assert await context.db.read(store.list_pending, pool) == []


async def test_deleting_is_complete_and_knows_snapshots(context: Context, pool: Pool) -> None:
    volume = await launch(context, "c1", Filler())
    await snapshots.create_snapshot(context, volume, "s1")
    with pytest.raises(InvalidRequest, match="Cannot remove a volume that has snapshots"):
        await volumes.delete(context, volume)
    await snapshots.delete_snapshot(context, volume, "s1")
    await volumes.delete(context, volume)
    assert entries(context, "containers") == entries(context, "containers-snapshots") == []
    with pytest.raises(NotFound, match="Storage pool volume not found"):
        await volumes.get(context, "p1", "default", "c1", VolumeType.CONTAINER)


async def test_immutable_files_are_removed_too(context: Context, pool: Pool) -> None:
    volume = await launch(context, "c1", Filler())
    file = volumes.path(context.member, volume) / "rootfs" / "file"
    process = await asyncio.create_subprocess_exec("chattr", "+i", str(file))
    assert await process.wait() == 0
    await volumes.delete(context, volume)
    assert entries(context, "containers") == []


async def test_a_snapshot_is_restored_whole(context: Context, pool: Pool) -> None:
    volume = await launch(context, "c1", Filler())
    rootfs = volumes.path(context.member, volume) / "rootfs"
    (rootfs / "state").write_text("one")
    await snapshots.create_snapshot(context, volume, "s1")
    (rootfs / "state").write_text("two")
    (rootfs / "later").write_text("x")
    await snapshots.restore_snapshot(context, volume, "s1")
    assert (rootfs / "state").read_text() == "one"
    assert not (rootfs / "later").exists()
    assert entries(context, "containers") == ["c1"]
    assert rootfs.parent.stat().st_mode & 0o7777 == 0o100
    (rootfs / "state").write_text("three")
    await snapshots.delete_snapshot(context, volume, "s1")


async def test_renaming_takes_the_snapshots_along(context: Context, pool: Pool) -> None:
    volume = await launch(context, "c1", Filler())
    await snapshots.create_snapshot(context, volume, "s1")
    renamed = await volumes.rename(context, volume, "c2")
    assert entries(context, "containers") == entries(context, "containers-snapshots") == ["c2"]
    await launch(context, "c1", Filler())
    with pytest.raises(AlreadyExists):
        await volumes.rename(context, renamed, "c1")
    assert entries(context, "containers") == ["c1", "c2"]
    await snapshots.delete_snapshot(context, renamed, "s1")


async def test_what_a_killed_daemon_left_is_swept(context: Context, pool: Pool) -> None:
    kept = await launch(context, "kept", Filler())
    half = await launch(context, "half", Filler())
    gone = await launch(context, "gone", Filler())
    away = await launch(context, "away", Filler())
    await context.db.write(store.mark_volume, half.id, "create")
    await context.db.write(store.mark_volume, gone.id, "delete")
    directory = context.member.pools_dir / "p1" / "containers"
    path = volumes.path(context.member, away)
    path.rename(model.former(path))
    partial = await make_empty(context, "p1", "default", "partial", VolumeType.CONTAINER)
    volumes.path(context.member, partial).rename(directory / ".partial-x")
    await context.db.write(store.delete_volume, partial.id)
    await pools.mount_all(context)
    assert entries(context, "containers") == ["away", "kept"]
    names = [volume.name for volume in await context.db.read(store.list_volumes, pool, "default", [kept.type])]
    assert names == ["away", "kept"]


async def test_snapshots_of_custom_volumes_expire_and_are_swept(context: Context, pool: Pool) -> None:
    volume = await make_empty(context, "p1", "default", "v", VolumeType.CUSTOM, **{"snapshots.expiry": "1H"})
    for name in ("kept", "half", "gone"):
        await custom_snapshots.create(context, volume, name, None)
    await custom_snapshots.create(context, volume, "", datetime(2020, 1, 1, tzinfo=UTC))
    found = {one.name: one for one in await context.db.read(snapshot_store.list_snapshots, [volume])}
    assert sorted(found) == ["gone", "half", "kept", "snap0"]
    assert found["kept"].expires_at is not None
    await custom_snapshots.delete_expired(context, datetime.now(UTC))
    assert entries(context, "custom-snapshots", "default_v") == ["gone", "half", "kept"]
    await context.db.write(snapshot_store.mark_snapshot, found["half"].id, "create")
    await context.db.write(snapshot_store.mark_snapshot, found["gone"].id, "delete")
    await pools.mount_all(context)
    assert entries(context, "custom-snapshots", "default_v") == ["kept"]
    assert [one.name for one in await context.db.read(snapshot_store.list_snapshots, [volume])] == ["kept"]
    await custom.delete(context, volume)
    assert entries(context, "custom-snapshots") == []


async def test_half_of_an_image_is_not_taken_for_whole(context: Context, pool: Pool) -> None:
    await launch(context, "c1", Filler())
    image = await volumes.get(context, "p1", "default", FINGERPRINT, VolumeType.IMAGE)
    await context.db.write(store.delete_volume, image.id)
    filler = Filler()
    await launch(context, "c2", filler)
    assert filler.calls == 1


async def test_a_half_made_pool_is_removed_at_start(context: Context, pool: Pool) -> None:
    await context.db.write(store.mark_pool, pool.id, model.PENDING)
    await pools.mount_all(context)
    assert os.listdir(context.member.pools_dir) == []
    assert await context.db.read(store.list_pools) == []


async def test_a_half_made_pool_does_not_take_the_data_at_its_source(
    context: Context, state_dir: Path, driver_name: str
) -> None:
    source = state_dir.with_name(f"{state_dir.name}-data")
    source.mkdir()
    (source / "precious").touch()
    await context.db.write(store.insert_pool, "p1", driver_name, "", {"source": str(source)})
    (state_dir / "storage-pools" / "p1").mkdir()
    await pools.mount_all(context)
    assert os.listdir(source) == ["precious"]
    assert os.listdir(state_dir / "storage-pools") == []
    assert await context.db.read(store.list_pools) == []
    shutil.rmtree(source)


async def test_a_pool_is_mounted_again(context: Context, pool: Pool) -> None:
    volume = await launch(context, "c1", Filler())
    await pools.unmount_all(context)
    await pools.mount_all(context)
    await pools.mount_all(context)
    assert (volumes.path(context.member, volume) / "rootfs" / "file").read_text() == "text"
    targets = [entry.target for entry in mount.list_mounts()]
    assert targets.count(str(context.member.pools_dir / "p1")) <= 1


async def test_a_pool_that_cannot_be_mounted_does_not_stop_the_rest(context: Context, state_dir: Path) -> None:
    await pools.mount_all(context)
    source = state_dir.with_name(f"{state_dir.name}-source")
    source.mkdir()
    lost = await pools.create(context, "lost", "dir", "", {"source": str(source)})
    await pools.unmount_all(context)
    source.rename(source.with_name("elsewhere"))
    await pools.mount_all(context)
    assert pools.status(context, lost) == "Unavailable"
    with pytest.raises(Unavailable, match="Storage pool is unavailable on this server"):
        await make_empty(context, "lost", "default", "v", VolumeType.CUSTOM)
    source.with_name("elsewhere").rename(source)
    await pools.retry_mounts(context)
    assert pools.status(context, lost) == "Created"
    await pools.delete(context, "lost")
    assert os.listdir(source) == []
    source.rmdir()


async def test_a_failing_pool_leaves_nothing(context: Context, state_dir: Path, driver_name: str) -> None:
    await pools.mount_all(context)
    config = {"size": "1MiB"} if driver_name == "btrfs" else {"source": str(state_dir / "missing")}
    with pytest.raises(InvalidRequest):
        await pools.create(context, "p1", driver_name, "", config)
    assert os.listdir(state_dir / "storage-pools") == os.listdir(state_dir / "disks") == []
    assert await context.db.read(store.list_pools) == []


class TestBtrfs:
    """What only btrfs can."""

    @pytest.fixture
    def driver_name(self) -> str:
        return "btrfs"

    async def test_images_are_read_only(self, context: Context, pool: Pool) -> None:
        await launch(context, "c1", Filler())
        with pytest.raises(OSError, match="Read-only"):
            (context.member.pools_dir / "p1" / "images" / FINGERPRINT / "x").touch()

    async def test_nested_subvolumes_are_copied_and_deleted(self, context: Context, pool: Pool) -> None:
        volume = await launch(context, "c1", Filler())
        rootfs = volumes.path(context.member, volume) / "rootfs"
        btrfs.create_subvolume(rootfs / "outer")
        btrfs.create_subvolume(rootfs / "outer" / "inner")
        (rootfs / "outer" / "inner" / "file").write_text("deep")
        btrfs.set_read_only(rootfs / "outer" / "inner", True)
        snapshot = await snapshots.create_snapshot(context, volume, "s1")
        copy = snapshot / "rootfs" / "outer" / "inner"
        assert (copy / "file").read_text() == "deep"
        assert btrfs.is_read_only(snapshot)
        assert btrfs.is_read_only(copy)
        await snapshots.restore_snapshot(context, volume, "s1")
        assert (rootfs / "outer" / "inner" / "file").read_text() == "deep"
        await snapshots.delete_snapshot(context, volume, "s1")
        await volumes.delete(context, volume)
        assert entries(context, "containers") == entries(context, "containers-snapshots") == []

    async def test_a_limit_holds(self, context: Context, pool: Pool) -> None:
        volume = await launch(context, "c1", Filler(), size="20MiB")
        assert (await volumes.usage(context, volume)).used is not None
        file = volumes.path(context.member, volume) / "rootfs" / "big"
        with pytest.raises(OSError, match="quota"):
            write(file, 30 * MIB)
        file.unlink()
        await volumes.resize(context, volume, 60 * MIB)
        write(file, 30 * MIB)

    async def test_without_sizes_nothing_is_counted(self, context: Context, pool: Pool) -> None:
        volume = await launch(context, "c1", Filler())
        assert (await volumes.usage(context, volume)).used is None

    async def test_a_full_pool_says_so(self, context: Context, pool: Pool) -> None:
        async def fill(directory: Path) -> None:
            write(directory / "rootfs", 400 * MIB)

        with pytest.raises(OutOfSpace, match=r'Storage pool "p1" is full: .* of 256\.00MiB left'):
            await make_from_image(context, "c1", ImageSource(FINGERPRINT, fill))
        assert entries(context, "images") == entries(context, "containers") == []

    async def test_a_pool_grows_and_never_shrinks(self, context: Context, pool: Pool) -> None:
        before = (await pools.space(context, "p1")).total
        await pools.update(context, "p1", "", {**pool.config, "size": "512MiB"})
        assert (await pools.space(context, "p1")).total == before + 256 * MIB
        with pytest.raises(InvalidRequest, match="cannot be shrunk"):
            await pools.update(context, "p1", "", {**pool.config, "size": "300MiB"})

    async def test_a_loop_device_that_is_left_is_used_again(self, context: Context, pool: Pool) -> None:
        await pools.unmount_all(context)
        device, fd = loopdev.attach(context.member.state_dir / "disks" / "p1.img", autoclear=False)
        os.close(fd)
        await pools.mount_all(context)
        assert loopdev.find_devices(context.member.state_dir / "disks" / "p1.img") == [device]
        await pools.delete(context, "p1")
        backing = [path.read_text() for path in Path("/sys/block").glob("loop*/loop/backing_file")]
        assert not [text for text in backing if str(context.member.state_dir) in text]

    async def test_an_empty_subvolume_can_be_a_pool(self, context: Context, pool: Pool) -> None:
        source = context.member.pools_dir / "p1" / "custom" / "source"
        outside = context.member.state_dir.with_name(f"{context.member.state_dir.name}-outside")
        btrfs.create_subvolume(source)
        outside.mkdir()
        mount.bind(source.parent, outside)
        try:
            await pools.create(context, "p2", "btrfs", "", {"source": str(outside / "source")})
            await make_empty(context, "p2", "default", "v", VolumeType.CUSTOM)
            with pytest.raises(InvalidRequest, match="currently in use"):
                await pools.delete(context, "p2")
            await volumes.delete(context, await volumes.get(context, "p2", "default", "v", VolumeType.CUSTOM))
            await pools.delete(context, "p2")
            assert os.listdir(outside / "source") == []
            (outside / "source" / "file").touch()
            with pytest.raises(InvalidRequest, match="not empty"):
                await pools.create(context, "p2", "btrfs", "", {"source": str(outside / "source")})
            await pools.create(context, "p3", "btrfs", "", {"source": str(outside / "new")})
            await pools.delete(context, "p3")
        finally:
            mount.ensure_unmounted(outside)
            outside.rmdir()
            btrfs.delete_subvolume(source)
            for name in ("new",):
                if (source.parent / name).exists():
                    btrfs.delete_subvolume_tree(source.parent / name)

    async def test_a_block_device_can_be_a_pool(self, context: Context, state_dir: Path) -> None:
        await pools.mount_all(context)
        disk = state_dir / "disks" / "disk"
        with disk.open("wb") as file:
            file.truncate(256 * MIB)
        device, fd = loopdev.attach(disk)
        try:
            pool = await pools.create(context, "p1", "btrfs", "", {"source": device, "size": "1GiB"})
            assert pool.config["volatile.initial_source"] == device
            assert "size" not in pool.config
            await pools.delete(context, "p1")
            with pytest.raises(InvalidRequest, match="Failed to format"):
                await pools.create(context, "p1", "btrfs", "", {"source": device})
            await pools.create(context, "p1", "btrfs", "", {"source": device, "source.wipe": "true"})
            await pools.delete(context, "p1")
        finally:
            os.close(fd)
        disk.unlink()


class TestDirQuota:
    """Limits of dir, where the file system below keeps project quotas."""

    @pytest.fixture
    async def pool(self, context: Context, state_dir: Path) -> AsyncIterator[Pool]:
        disk, target = state_dir / "disks" / "ext4", state_dir / "quota"
        with disk.open("wb") as file:
            file.truncate(128 * MIB)
        argv = ["mkfs.ext4", "-q", "-O", "quota,project", "-E", "quotatype=prjquota", str(disk)]
        if shutil.which(argv[0]) is None:
            pytest.skip("needs mkfs.ext4")
        process = await asyncio.create_subprocess_exec(*argv)
        assert await process.wait() == 0
        device, fd = loopdev.attach(disk)
        target.mkdir()
        try:
            mount.mount(device, target, "ext4", ["prjquota"])
        except OSError:
            os.close(fd)
            pytest.skip("this kernel has no project quotas")
        os.close(fd)
        outside = state_dir.with_name(f"{state_dir.name}-outside")
        (target / "source").mkdir()
        outside.mkdir()
        mount.bind(target / "source", outside)
        await pools.mount_all(context)
        yield await pools.create(context, "p1", "dir", "", {"source": str(outside)})
        for volume in await context.db.read(store.list_volumes):
            await volumes.delete(context, volume)
        await pools.delete(context, "p1")
        mount.ensure_unmounted(outside)
        mount.ensure_unmounted(target)
        outside.rmdir()

    async def test_a_limit_holds(self, context: Context, pool: Pool) -> None:
        volume = await launch(context, "c1", Filler(), size="10MiB")
        file = volumes.path(context.member, volume) / "rootfs" / "big"
        with pytest.raises(OSError, match=r"space|quota"):
            write(file, 20 * MIB)
        used = (await volumes.usage(context, volume)).used
        assert used is not None
        assert 9 * MIB < used <= 10 * MIB
        file.unlink()
        await volumes.resize(context, volume, 30 * MIB)
        write(file, 20 * MIB)
        other = await launch(context, "c2", Filler())
        write(volumes.path(context.member, other) / "rootfs" / "big", 20 * MIB)


def write(path: Path, size: int) -> None:
    """Write that much and have it on the disk."""
    with path.open("wb") as file:
        for _ in range(size // MIB):
            file.write(os.urandom(MIB))
        file.flush()
        os.fsync(file.fileno())


async def test_used_by_is_known(context: Context, pool: Pool) -> None:
    from corral.server.db import references

    def insert(tx: Tx) -> None:
        device = tx.execute("INSERT INTO profiles_devices (profile_id, name, type) VALUES (1, 'root', 2)")
        tx.many(
            "INSERT INTO profiles_devices_config (profile_device_id, key, value) VALUES (?, ?, ?)",
            [(device, "pool", "p1"), (device, "path", "/")],
        )
        tx.execute(
            "INSERT INTO images (fingerprint, upload_date, project_id) VALUES (?, '2020-01-01T00:00:00Z', 1)",
            FINGERPRINT,
        )

    await launch(context, "c1", Filler())
    await make_empty(context, "p1", "default", "v", VolumeType.CUSTOM)
    await context.db.write(insert)
    assert await context.db.read(references.list_pool_users, pool.id, "p1") == [
        f"/1.0/images/{FINGERPRINT}",
        "/1.0/instances/c1",
        "/1.0/profiles/default",
        "/1.0/storage-pools/p1/volumes/custom/v",
    ]
    await context.db.write(lambda tx: tx.execute("DELETE FROM profiles_devices"))
