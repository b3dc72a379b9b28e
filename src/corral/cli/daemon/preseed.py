"""A preseed: reading it, and applying it with everything taken back where a part fails."""

from __future__ import annotations

from corral.cli.records import NETWORK_WRITABLE, POOL_WRITABLE, PROFILE_WRITABLE, PROJECT_WRITABLE, VOLUME_WRITABLE
from corral.cli.session import pick
from corral.client.server import ApiError, escape
from corral.errors import CorralError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from corral.client.server import Server

    Entry = dict[str, Any]

_FIELDS = {
    "": ("config", "networks", "storage_pools", "storage_volumes", "profiles", "projects", "cluster"),
    "networks": ("config", "description", "name", "type", "project"),
    "storage_pools": ("config", "description", "name", "driver"),
    "storage_volumes": ("config", "description", "name", "type", "content_type", "pool", "project"),
    "profiles": ("config", "description", "devices", "name"),
    "projects": ("config", "description", "name"),
}


def read_preseed(content: bytes) -> Entry:
    """The preseed in a YAML text. Raises CorralError for what is no preseed."""
    from corral.client.yaml_input import parse_mapping

    try:
        preseed = parse_mapping(content)
        _check_fields("", preseed)
        for section, entries in preseed.items():
            if section in ("config", "cluster") or entries is None:
                continue
            if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
                raise CorralError(f"yaml: {section} must be a list of mappings")
            for entry in entries:
                _check_fields(section, entry)
    except CorralError as error:
        raise CorralError(f"Failed to parse the preseed: {error}") from error
    return preseed


def _check_fields(section: str, entry: Entry) -> None:
    for name in entry:
        if name not in _FIELDS[section]:
            where = f"a {section} entry" if section else "a preseed"
            raise CorralError(f"yaml: field {name} not found in {where}; there are {', '.join(_FIELDS[section])}")


class _Applying:
    """What was done to a server so far, and how to take it back."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self._undos: list[Callable[[], None]] = []

    def undo_with(self, undo: Callable[[], None]) -> None:
        """Remember how to take the last step back."""
        self._undos.append(undo)

    def undo(self) -> None:
        """Take everything back, the last step first; what cannot be taken back stays."""
        while self._undos:
            try:
                self._undos.pop()()
            except CorralError:
                continue


def apply_preseed(server: Server, preseed: Entry) -> Callable[[], None]:
    """Make the server what the preseed says; what takes it back. On an error everything is taken back first."""
    applying = _Applying(server)
    try:
        _apply_config(applying, preseed.get("config") or {})
        _apply_all(applying, preseed.get("storage_pools"), _POOLS)
        networks = [{"project": "default", **entry} for entry in preseed.get("networks") or ()]
        for network in networks:
            if network["project"] == "default":
                _apply_network(applying, network)
        _apply_all(applying, preseed.get("projects"), _PROJECTS)
        for network in networks:
            if network["project"] != "default":
                _apply_network(applying, network)
        for volume in preseed.get("storage_volumes") or ():
            _apply_volume(applying, volume)
        _apply_all(applying, preseed.get("profiles"), _PROFILES)
    except BaseException:
        applying.undo()
        raise
    return applying.undo


def _wrap(message: str, error: CorralError) -> CorralError:
    return CorralError(f"{message}: {error}")


def _apply_config(applying: _Applying, config: dict[str, str]) -> None:
    if not config:
        return
    server = applying.server
    try:
        body, etag = server.get_tagged("")
    except CorralError as error:
        raise _wrap("Failed to retrieve current server configuration", error) from error
    before = dict(body.get("config") or {})
    applying.undo_with(lambda: server.put("", {"config": before}))
    try:
        server.put("", {"config": {**before, **config}}, etag)
    except CorralError as error:
        raise _wrap("Failed to update server configuration", error) from error


class _Kind:
    """A sort of entry: its path, its name in messages, and what may be written of it."""

    def __init__(self, path: str, noun: str, writable: tuple[str, ...], own: str = "") -> None:
        self.path = path
        self.noun = noun
        self.writable = writable
        self.own = own


_POOLS = _Kind("/storage-pools", "storage pool", POOL_WRITABLE)
_PROJECTS = _Kind("/projects", "project", PROJECT_WRITABLE, "local member ")
_PROFILES = _Kind("/profiles", "profile", PROFILE_WRITABLE)
_NETWORKS = _Kind("/networks", "network", NETWORK_WRITABLE, "local member ")


def _apply_all(applying: _Applying, entries: list[Entry] | None, kind: _Kind) -> None:
    """Create the entries that do not exist and merge the others into what there is."""
    if not entries:
        return
    try:
        urls = applying.server.get(kind.path) or []
    except CorralError as error:
        raise _wrap(f"Failed to retrieve list of {kind.noun}s", error) from error
    names = {str(url).partition("?")[0].rpartition("/")[2] for url in urls}
    for entry in entries:
        if escape(entry["name"]) in names:
            _update(applying, applying.server, entry, kind)
        else:
            _create(applying, applying.server, entry, kind)


def _create(applying: _Applying, server: Server, entry: Entry, kind: _Kind, where: str = "") -> None:
    name = entry["name"]
    body = {"config": {}, "description": "", **entry}
    body.pop("project", None)
    try:
        server.post(kind.path, body)
    except CorralError as error:
        raise _wrap(f'Failed to create {kind.own}{kind.noun} "{name}"{where}', error) from error
    applying.undo_with(lambda: server.delete(f"{kind.path}/{escape(name)}"))


def _update(applying: _Applying, server: Server, entry: Entry, kind: _Kind, where: str = "") -> None:
    name = entry["name"]
    path = f"{kind.path}/{escape(name)}"
    try:
        body, etag = server.get_tagged(path)
    except CorralError as error:
        raise _wrap(f'Failed to retrieve current {kind.noun} "{name}"{where}', error) from error
    if kind is _POOLS and body["driver"] != entry.get("driver"):
        message = f'Storage pool "{name}" is of type "{body["driver"]}" instead of "{entry.get("driver", "")}"'
        raise CorralError(message)
    before = pick(body, kind.writable)
    applying.undo_with(lambda: server.put(path, before))
    try:
        server.put(path, merge(before, entry), etag)
    except CorralError as error:
        raise _wrap(f'Failed to update {kind.own}{kind.noun} "{name}"{where}', error) from error


def merge(before: Entry, entry: Entry) -> Entry:
    """A record with the entry's config, devices and description laid over it."""
    merged = dict(before)
    merged["config"] = {**(before.get("config") or {}), **(entry.get("config") or {})}
    if entry.get("description"):
        merged["description"] = entry["description"]
    if "devices" in before:
        devices = {name: dict(device) for name, device in (before["devices"] or {}).items()}
        for name, device in (entry.get("devices") or {}).items():
            devices.setdefault(name, {}).update(device)
        merged["devices"] = devices
    return merged


def _apply_network(applying: _Applying, entry: Entry) -> None:
    server = applying.server.with_project(entry["project"])
    where = f' in project "{entry["project"]}"'
    try:
        server.get(f"/networks/{escape(entry['name'])}")
    except ApiError:
        _create(applying, server, entry, _NETWORKS, where)
    else:
        _update(applying, server, entry, _NETWORKS, where)


def _apply_volume(applying: _Applying, entry: Entry) -> None:
    volume_type = entry.get("type") or "custom"
    path = f"/storage-pools/{escape(entry.get('pool', ''))}/volumes/{volume_type}"
    kind = _Kind(path, "storage volume", VOLUME_WRITABLE)
    server = applying.server.with_project(entry.get("project") or "default")
    body = {name: value for name, value in entry.items() if name != "pool"}
    try:
        server.get(f"{path}/{escape(entry['name'])}")
    except ApiError:
        _create(applying, server, {"content_type": "filesystem", **body, "type": volume_type}, kind)
    else:
        _update(applying, server, body, kind)


def apply_cluster(server: Server, preseed: Entry) -> None:
    """Make the server the first member of a cluster, or join one, where the preseed says so."""
    cluster = preseed.get("cluster")
    if not cluster:
        return
    joins = bool(cluster.get("cluster_address") and cluster.get("server_address"))
    if not joins and not cluster.get("enabled"):
        return
    try:
        current, etag = server.get_tagged("/cluster")
        if joins or not current["enabled"]:
            server.run("PUT", "/cluster", cluster, "" if joins else etag)
    except CorralError as error:
        raise _wrap("Failed to join cluster" if joins else "Failed to configure cluster", error) from error
