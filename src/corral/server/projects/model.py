"""A project: a scope with its own instances and, by feature, its own images, profiles, networks and volumes."""

from collections.abc import Mapping
from dataclasses import dataclass

from corral.errors import InvalidRequest
from corral.units import is_true


@dataclass(frozen=True, slots=True)
class Project:
    """A project as stored."""

    id: int
    name: str
    description: str
    config: Mapping[str, str]

    def has(self, feature: str) -> bool:
        """Whether the project has its own set of what a feature names (`features.profiles`)."""
        return self.name == "default" or is_true(self.config.get(feature))

    def owner_of(self, feature: str) -> str:
        """The name of the project whose things this one uses: itself, or the default project."""
        return self.name if self.has(feature) else "default"


def check_name(name: str) -> None:
    """Raise InvalidRequest where a project cannot be called so."""
    if not name:
        raise InvalidRequest("No name provided")
    for character, noun in (("/", "slashes"), (" ", "spaces"), ("_", "underscores"), ("'", "quotes"), ('"', "quotes")):
        if character in name:
            raise InvalidRequest(f"Project names may not contain {noun}")
    if name == "*":
        raise InvalidRequest("Reserved project name")
    if name in (".", ".."):
        raise InvalidRequest(f'Invalid project name "{name}"')
