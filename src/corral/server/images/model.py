"""An image as the database knows it, its aliases, and what is said when one is added."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

TYPES = ("container", "virtual-machine")
PROTOCOLS = ("lxd", "direct", "simplestreams")
NEVER = "1970-01-01T00:00:00Z"
"""The expiry of an image that does not expire, as LXD shows it."""


@dataclass(frozen=True, slots=True)
class UpdateSource:
    """The server that an image was copied from."""

    server: str
    protocol: str
    certificate: str
    alias: str
    image_type: str = ""


@dataclass(frozen=True, slots=True)
class Alias:
    """A name of an image in a project."""

    name: str
    description: str
    target: str
    type: str


@dataclass(frozen=True, slots=True)
class Image:
    """An image of a project. Times are RFC 3339 text, empty for never."""

    id: int
    project: str
    fingerprint: str
    filename: str
    size: int
    public: bool
    auto_update: bool
    cached: bool
    architecture: str
    type: str
    created_at: str
    expires_at: str
    uploaded_at: str
    last_used_at: str
    properties: Mapping[str, str] = field(default_factory=dict)
    profiles: Sequence[str] = ()
    aliases: Sequence[tuple[str, str]] = ()
    update_source: UpdateSource | None = None


@dataclass(frozen=True, slots=True)
class Wanted:
    """What the one who adds an image wants of it: `properties` go over those of metadata.yaml, `aliases` are
    (name, description)."""

    filename: str = ""
    public: bool = False
    auto_update: bool = False
    expires_at: str = ""
    properties: Mapping[str, str] = field(default_factory=dict)
    profiles: Sequence[str] | None = None
    aliases: Sequence[tuple[str, str]] = ()


@dataclass(frozen=True, slots=True)
class ImageDeleted:
    """Published to reactions before the last row and the files of an image go: its copies in the pools must go too."""

    fingerprint: str


@dataclass(frozen=True, slots=True)
class ImageRefreshed:
    """Published to reactions: the pools' copies of an image are to be made anew when next used."""

    fingerprint: str


@dataclass(frozen=True, slots=True)
class ImageReplaced:
    """Published to reactions before an image goes for a newer one: pools that have the old one may get the new."""

    fingerprint: str
    new_fingerprint: str
