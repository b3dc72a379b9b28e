"""/1.0/metadata/configuration: every config key with its type, default and meaning, from the key tables."""

from collections.abc import Callable, Iterable
from functools import cache
from typing import Any

from corral.server.instances.described_keys import DESCRIBED, UNSET
from corral.server.keys import Key, KeyTable
from corral.server.networks import keys as networks
from corral.server.projects import keys as projects
from corral.server.rest.request import Request
from corral.server.rest.routing import Routes
from corral.server.settings import keys as settings
from corral.server.storage import keys as storage
from corral.server.storage.registry import DRIVERS

routes = Routes("/1.0/metadata/configuration")

Groups = dict[str, dict[str, list[dict[str, dict[str, str]]]]]

_SERVER_GROUPS = ("acme", "cluster", "core", "images", "loki", "oidc")
_INSTANCE_GROUPS = {
    "limits": "resource-limits",
    **{name: name for name in ("boot", "cloud-init", "migration", "raw", "security", "snapshots", "volatile")},
}


@routes.get("")
async def get_configuration_keys(request: Request) -> dict[str, dict[str, Groups]]:
    """List all config keys, by what they configure and by group."""
    return compose()


@cache
def compose() -> dict[str, dict[str, Groups]]:
    """All keys in the shape of the API: {"configs": {thing: {group: {"keys": [{name: description}]}}}}."""
    found: dict[str, Groups] = {
        "server": _grouped(settings.TABLE, lambda name: _first(name, _SERVER_GROUPS)),
        "project": _grouped(
            projects.TABLE, lambda name: _first(name, ("features", "limits", "restricted"), "specific")
        ),
        "instance": _grouped(DESCRIBED, lambda name: _INSTANCE_GROUPS.get(name.split(".")[0], "miscellaneous")),
    }
    for kind, table in (
        ("bridge", networks.BRIDGE_KEYS),
        ("macvlan", networks.MACVLAN_KEYS),
        ("sriov", networks.SRIOV_KEYS),
        ("physical", networks.PHYSICAL_KEYS),
    ):
        found[f"network-{kind}"] = _grouped(table, lambda _: "network-conf")
    for name, driver in DRIVERS.items():
        found[f"storage-{name}"] = {
            **_grouped(storage.POOL_KEYS + driver.keys, lambda _: "pool-conf"),
            **_grouped(storage.VOLUME_KEYS, lambda _: "volume-conf"),
        }
    return {"configs": dict(sorted(found.items()))}


def _first(name: str, groups: Iterable[str], other: str = "miscellaneous") -> str:
    group = name.split(".")[0]
    return group if group in groups else other


def _grouped(table: KeyTable, group_of: Callable[[str], str]) -> Groups:
    groups: Groups = {}
    for key in sorted(table, key=lambda one: one.name):
        groups.setdefault(group_of(key.name), {"keys": []})["keys"].append({key.name: _describe(key)})
    return dict(sorted(groups.items()))


def _describe(key: Key[Any]) -> dict[str, str]:
    kind = key.type.name if key.type.name in ("bool", "integer") else "string"
    description = {"longdesc": "", "shortdesc": key.doc, "type": kind, "liveupdate": "yes" if key.live else "no"}
    default = key.default if key.default is not None else UNSET.get(key.name)
    if default is not None:
        description["defaultdesc"] = f"`{default}`"
    if key.scope != "global":
        description["scope"] = key.scope
    if key.applies:
        description["condition"] = ", ".join(sorted(key.applies))
    return description
