"""The daemon: builds everything, connects events to reactions, starts and stops the listeners. Knows everyone."""

import argparse
import asyncio
import fcntl
import gc
import logging
import os
import signal
import socket
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import IO

from corral.api.server import ServerStorageDriver
from corral.errors import CorralError, Unavailable
from corral.product import Product, product_of
from corral.server import logs
from corral.server.auth import server_certificate
from corral.server.auth.authority import Authority
from corral.server.auth.guesses import Guesses
from corral.server.auth.sessions import Sessions
from corral.server.background import Background
from corral.server.backups import volumes as volume_backups
from corral.server.context import Context, Member
from corral.server.db import upgrade
from corral.server.db.database import Database, LocalDatabase
from corral.server.events.bus import Events
from corral.server.host import slow_steps, systemd
from corral.server.host.threads import in_thread
from corral.server.images import delete as images
from corral.server.images import update as image_updates
from corral.server.images.model import ImageDeleted, ImageRefreshed, ImageReplaced
from corral.server.images.preferences import Preferences, ServerPreferences
from corral.server.instances import adoption
from corral.server.instances import boot as instances
from corral.server.instances.backup import backup_file, backups
from corral.server.instances.copies import image_source
from corral.server.instances.sessions import log_expiry
from corral.server.instances.snapshots import scheduling
from corral.server.lifetime import Lifetime
from corral.server.locks import Locks
from corral.server.networks import startup as networks
from corral.server.operations.registry import Operations
from corral.server.outbound.http import Outbound
from corral.server.outbound.proxies import choose_proxies
from corral.server.rest import guest_listener, listeners
from corral.server.rest.dispatch import Dispatcher
from corral.server.rest.listeners import Listeners
from corral.server.rest.network import API, DEBUG, METRICS, NetworkListener
from corral.server.rest.proxy_protocol import ClientAddresses
from corral.server.rest.routes import table
from corral.server.rest.routing import Router
from corral.server.settings import keys
from corral.server.settings.environment import Environment
from corral.server.settings.settings import Settings, SettingsChanged
from corral.server.storage import image_volumes, owners, pools, registry, server_volumes
from corral.server.warnings import host as host_warnings
from corral.server.warnings.record import PRUNE_INTERVAL_S, Recorder

log = logging.getLogger(__name__)

OPERATIONS_GRACE_S = 5.0
"""How long sessions (commands, consoles) may go on after the daemon was asked to end."""

Step = Callable[[Context], Awaitable[None]]

START_STEPS: tuple[Step, ...] = (
    host_warnings.report,
    instances.add_parts,
    pools.mount_all,
    owners.repair,
    images.sweep,
    networks.start_networks,
    adoption.adopt,
    backups.sweep,
    guest_listener.start,
    volume_backups.sweep,
    instances.autostart,
)
"""What happens between the opening of the database and the first request, in this order."""

STOP_INSTANCES_STEPS: tuple[Step, ...] = (instances.stop_all, networks.stop_networks, pools.unmount_all)
"""What happens when the host goes down, in this order."""


async def _list_storage_drivers() -> list[ServerStorageDriver]:
    return [
        ServerStorageDriver(name=driver.name, version=driver.version, remote=driver.remote)
        for driver in await registry.list_supported()
    ]


def parse_flags(argv: list[str]) -> argparse.Namespace:
    """The daemon's flags."""
    parser = argparse.ArgumentParser(prog=os.path.basename(argv[0]), description="The daemon.", allow_abbrev=False)
    parser.add_argument("-d", "--debug", action="store_true", help="show all debug messages")
    parser.add_argument("-v", "--verbose", action="store_true", help="show all information messages")
    parser.add_argument("--logfile", type=Path, help="path of the log file")
    parser.add_argument("--syslog", action="store_true", help="log to syslog")
    parser.add_argument("--trace", action="append", default=[], help="areas whose debug messages to show, as db,rest")
    parser.add_argument("--group", help="the group that owns the Unix socket")
    return parser.parse_args(argv[1:])


def lock_directory(state_dir: Path) -> IO[str]:
    """Hold the state directory for this process alone; raises Unavailable where another daemon has it."""
    file = open(state_dir / ".lock", "w")  # noqa: SIM115  (held as long as the daemon lives)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        raise Unavailable(f"Another daemon already uses {state_dir}") from None
    return file


def make_directories(member: Member) -> None:
    """The state directory's tree, with the modes that keep unprivileged users out of the pools."""
    modes = {
        "": 0o711,
        "backups": 0o700,
        "containers": 0o711,
        "database": 0o700,
        "database/global": 0o750,
        "devices": 0o711,
        "devlxd": 0o755,
        "disks": 0o700,
        "images": 0o700,
        "networks": 0o711,
        "security": 0o700,
        "security/seccomp": 0o700,
        "shmounts": 0o711,
        "snapshots": 0o700,
        "storage-pools": 0o711,
        "virtual-machines": 0o711,
        "virtual-machines-snapshots": 0o700,
    }
    for name, mode in modes.items():
        path = member.state_dir / name
        if path.is_symlink():
            # On a volume of a pool that is not mounted yet.
            continue
        path.mkdir(parents=True, exist_ok=True)
        path.chmod(mode)
    member.log_dir.mkdir(parents=True, exist_ok=True)
    member.log_dir.chmod(0o700)
    member.cache_dir.mkdir(parents=True, exist_ok=True)


def make_member(product: Product, *, debug: bool) -> Member:
    """This server's names and directories."""
    state_dir = product.state_dir()
    chosen = f"{product.prefix}_DIR" in os.environ
    cache_dir = state_dir / "cache" if chosen else Path(f"/var/cache/{product.name}")
    return Member(product, socket.gethostname(), state_dir.absolute(), product.log_dir().absolute(), cache_dir, debug)


def user_agent_of(product: Product) -> str:
    """What the daemon calls itself to other servers; image servers choose by it what they offer."""
    system = os.uname()
    return f"{product.title} {product.version} ({system.sysname}; {system.machine}; {system.release})"


class Daemon:
    """Everything that lives as long as the process."""

    def __init__(self, member: Member, group: str | None) -> None:
        self._member = member
        self._group = group
        database = member.state_dir / "database"
        self.context = Context(Database(database / "global" / "db.bin"), Events(member.location), Locks(), member)
        parts = self.context.parts
        self._local = parts.add(LocalDatabase(database / "local.db"))
        self._background = parts.add(Background())
        self._operations = parts.add(Operations(self.context.events))
        self._lifetime = parts.add(Lifetime())
        self._settings = parts.add(Settings())
        parts.add(Environment(_list_storage_drivers))
        self._dispatcher = Dispatcher(self.context, Router(table.ALL))
        self._listeners = parts.add(Listeners(self._dispatcher, parts.add(ClientAddresses())))
        self._authority = parts.add(Authority(member.state_dir))
        parts.add(Sessions())
        purposes = (API, METRICS, DEBUG)
        self._networks = tuple(NetworkListener(self.context, purpose) for purpose in purposes)
        parts.add(Guesses())
        parts.add(ServerPreferences(self._image_preferences))
        self._outbound = parts.add(Outbound(user_agent_of(member.product)))
        for listener in self._networks:
            self.context.events.on(SettingsChanged, listener.react)
        self.context.events.on(SettingsChanged, self._use_settings)
        self.context.events.on(SettingsChanged, self._move_directories)
        self.context.events.on(ImageDeleted, self._forget_image)
        self.context.events.on(ImageRefreshed, self._forget_image)
        self.context.events.on(ImageReplaced, self._replace_image)
        self._warnings = Recorder(self.context)
        self._warnings.subscribe()
        self._activated = False

    async def _replace_image(self, event: ImageReplaced) -> None:
        source = image_source.volume_source(self.context, event.new_fingerprint)
        try:
            await image_volumes.replace_image(self.context, event.fingerprint, source)
        except (CorralError, OSError) as error:
            # The first instance will try again.
            log.warning("The new image %s is not in all pools yet: %s", event.new_fingerprint, error)

    async def _forget_image(self, event: ImageDeleted | ImageRefreshed) -> None:
        await image_volumes.delete(self.context, event.fingerprint)

    def _image_preferences(self) -> Preferences:
        config = self._settings.config
        return Preferences(
            auto_update_cached=config[keys.IMAGES_AUTO_UPDATE_CACHED] is True,
            auto_update_interval_h=config[keys.IMAGES_AUTO_UPDATE_INTERVAL] or 0,
            remote_cache_expiry_days=config[keys.IMAGES_REMOTE_CACHE_EXPIRY] or 0,
            compression=config[keys.IMAGES_COMPRESSION] or "gzip",
        )

    def _set_proxies(self) -> None:
        config = self._settings.config
        self._outbound.proxies = choose_proxies(
            config[keys.PROXY_HTTP] or "",
            config[keys.PROXY_HTTPS] or "",
            config[keys.PROXY_IGNORE_HOSTS] or "",
            os.environ,
        )

    async def _use_settings(self, event: SettingsChanged) -> None:
        self._set_proxies()
        if keys.IMAGES_REMOTE_CACHE_EXPIRY.name in event.changed:
            self._background.start("unused images", image_updates.prune_expired(self.context))

    async def _move_directories(self, event: SettingsChanged) -> None:
        for key in server_volumes.DIRECTORIES:
            if key in event.changed:
                await server_volumes.move(self.context, key, event.changed[key])

    async def run(self) -> None:
        """Start, serve until asked to end, stop."""
        self._catch_signals()
        logging.getLogger().addHandler(logs.EventHandler(self.context.events))
        database = self._member.state_dir / "database"
        await upgrade.open_database(self._local, upgrade.of_local(database))
        await upgrade.open_database(self.context.db, upgrade.of_global(database))
        self.context.parts.add(await in_thread(server_certificate.ensure_server_certificate, self._member))
        await self._settings.load(self.context)
        self._set_proxies()
        if await in_thread(self._authority.load):
            log.info("Only certificates that the CA has signed are accepted")
        await self._listeners.start()
        await self._listeners.open("unix", self._unix_socket())
        for listener in self._networks:
            await listener.start()
        log.info("%s is starting in %s", self._member.product.title, self._member.state_dir)
        for step in START_STEPS:
            await step(self.context)
        self._background.every(PRUNE_INTERVAL_S, "resolved warnings", self._warnings.prune)
        self._background.every(86400.0, "unused images", lambda: image_updates.prune_expired(self.context))
        self._background.every(3600.0, "newer images", lambda: image_updates.update_all(self.context))
        self._background.every(60.0, "storage pools", lambda: pools.retry_mounts(self.context))
        self._background.every(60.0, "backup files", lambda: backup_file.write_outdated(self.context))
        self._background.start("scheduled snapshots", scheduling.run(self.context))
        self._background.every(60.0, "expired backups", lambda: backups.delete_expired(self.context))
        self._background.every(60.0, "volume backups", lambda: volume_backups.delete_expired(self.context))
        self._background.every(log_expiry.INTERVAL_S, "old logs", lambda: log_expiry.expire(self.context))
        self._dispatcher.ready.set()
        self._lifetime.ready.set()
        # What is here now stays: the collector, which stops the loop, need not walk through it again and again.
        gc.freeze()
        systemd.notify("READY=1")
        log.info("Daemon started")
        await self._lifetime.ended.wait()
        await self._stop()

    def _unix_socket(self) -> socket.socket:
        """The socket that the service manager passed, else one of our own."""
        passed = [one for group in systemd.take_sockets().values() for one in group]
        unix = [one for one in passed if one.family == socket.AF_UNIX]
        for other in passed:
            if other not in unix[:1]:
                other.close()
        if unix:
            self._activated = True
            unix[0].setblocking(False)
            return unix[0]
        return listeners.bind_unix(self._member.state_dir / "unix.socket", self._group)

    def _catch_signals(self) -> None:
        loop = asyncio.get_running_loop()
        for number, stop_instances in (
            (signal.SIGTERM, False),
            (signal.SIGINT, False),
            (signal.SIGQUIT, False),
            (signal.SIGPWR, True),
        ):
            loop.add_signal_handler(number, self._asked_by_signal, number, stop_instances)

    def _asked_by_signal(self, number: signal.Signals, stop_instances: bool) -> None:
        log.info("Received %s: ending", number.name)
        self._lifetime.end(stop_instances=stop_instances)

    def _grace_of_tasks(self) -> float:
        """Seconds that work may go on: what the shutdown was given, else `core.shutdown_timeout`."""
        given = self._lifetime.timeout_s
        minutes = self._settings.config[keys.SHUTDOWN_TIMEOUT]
        return given if given is not None else max(OPERATIONS_GRACE_S, (minutes or 0) * 60.0)

    async def _stop(self) -> None:
        systemd.notify("STOPPING=1")
        grace_s = self._grace_of_tasks()
        await self._operations.stop(min(OPERATIONS_GRACE_S, grace_s), grace_s)
        if self._lifetime.stop_instances:
            for step in STOP_INSTANCES_STEPS:
                try:
                    await step(self.context)
                except Exception:
                    log.exception("Step %s of the shutdown failed", step.__qualname__)
        self._lifetime.instances_stopped.set()
        await asyncio.sleep(0)
        self.context.events.close()
        await guest_listener.stop(self.context)
        await self._listeners.stop()
        await self._background.stop()
        await self._outbound.close()
        await instances.close_parts(self.context)
        await self._local.close()
        await self.context.db.close()
        if not self._activated:
            (self._member.state_dir / "unix.socket").unlink(missing_ok=True)
        log.info("Daemon stopped")


def watch_children_by_pidfd() -> None:
    """Have asyncio wait for programs by pidfd: before Python 3.12 it starts a thread for each of them by default."""
    if sys.version_info < (3, 12):
        asyncio.set_child_watcher(asyncio.PidfdChildWatcher())


async def serve(member: Member, group: str | None) -> None:
    """Run the daemon until it is asked to end."""
    if asyncio.get_running_loop().get_debug():
        slow_steps.Watch().install()
    await Daemon(member, group).run()


def main(argv: list[str]) -> int:
    """Run the daemon in the foreground and return its exit status."""
    flags = parse_flags(argv)
    product = product_of(argv[0])
    if os.geteuid() != 0:
        print("Error: This must be run as root", file=sys.stderr)
        return 1
    logs.configure(
        debug=flags.debug, verbose=flags.verbose, file=flags.logfile, syslog=product.name if flags.syslog else None
    )
    logs.trace(",".join(flags.trace))
    os.umask(0o022)
    try:
        member = make_member(product, debug=flags.debug)
        make_directories(member)
        lock = lock_directory(member.state_dir)
        watch_children_by_pidfd()
        with lock:
            asyncio.run(serve(member, flags.group), debug=bool(os.environ.get(f"{product.prefix}_ASYNCIO_DEBUG")))
    except (CorralError, OSError) as error:
        log.error("%s", error)
        print(f"Error: {error}", file=sys.stderr)
        return 1
    return 0
