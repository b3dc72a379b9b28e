"""A profile: config and devices that instances take over by name."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from corral.errors import InvalidRequest


@dataclass(frozen=True, slots=True)
class Profile:
    """A profile as stored. `used_by` holds (project, instance) of the instances that have it."""

    id: int
    project: str
    name: str
    description: str
    config: Mapping[str, str] = field(default_factory=dict)
    devices: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    used_by: tuple[tuple[str, str], ...] = ()


def check_name(name: str) -> None:
    """Raise InvalidRequest where a profile cannot be called so."""
    if not name:
        raise InvalidRequest("No name provided")
    if "/" in name:
        raise InvalidRequest("Profile names may not contain slashes")
    if name in (".", ".."):
        raise InvalidRequest(f'Invalid profile name "{name}"')
