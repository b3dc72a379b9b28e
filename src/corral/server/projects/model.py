"""A project: a scope with its own instances and, by feature, its own images, profiles, networks and volumes."""

from collections.abc import Mapping
from dataclasses import dataclass

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
