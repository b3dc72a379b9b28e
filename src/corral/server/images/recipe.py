"""What an image to build is described by: the recipe, and the templates that go into it."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from corral.errors import InvalidRequest

_PACKAGE = re.compile(r"[a-z0-9][a-z0-9.+-]*(?::[a-z0-9]+)?(?:[=/][A-Za-z0-9.+:~-]+)?")
_MIRROR = re.compile(r"https?://[^\s\[\]'\"\\]+")


@dataclass(frozen=True, slots=True)
class Recipe:
    """An image to build. `mirror` is the URL of a package archive, empty for the one that this machine uses."""

    os: str
    release: str
    variant: str
    architecture: str
    packages: tuple[str, ...] = ()
    mirror: str = ""

    def __post_init__(self) -> None:
        for package in self.packages:
            if _PACKAGE.fullmatch(package) is None:
                raise InvalidRequest(f"{package!r} is no name of a package")
        if self.mirror and _MIRROR.fullmatch(self.mirror) is None:
            raise InvalidRequest(f"{self.mirror!r} is no URL of a package mirror: give one with http:// or https://")


@dataclass(frozen=True, slots=True)
class TemplateSource:
    """A template of the image: the file it makes, when, and its text."""

    path: str
    when: tuple[str, ...]
    name: str
    text: str
    properties: Mapping[str, str] = field(default_factory=dict)
