"""Images and their aliases on the wire: /1.0/images."""

import msgspec


class ImageAlias(msgspec.Struct, kw_only=True):
    """A name of an image, as the image shows it."""

    name: str
    description: str = ""


class ImageSource(msgspec.Struct, kw_only=True):
    """Where an image came from and is updated from."""

    alias: str = ""
    certificate: str = ""
    protocol: str = ""
    server: str = ""
    image_type: str = ""


class ImagePut(msgspec.Struct, kw_only=True):
    """What a client may change. Empty or zero `expires_at` leaves the date as it is."""

    auto_update: bool = False
    properties: dict[str, str] | None = None
    public: bool = False
    expires_at: str = ""
    profiles: list[str] | None = None


class ImagesPostSource(ImageSource, kw_only=True):
    """Where a new image comes from.

    `type` is instance, snapshot, image, url, or build: the last makes one here, from a recipe (`os`, `release`,
    `variant`, `packages`, `mirror`, `architecture`).
    """

    mode: str = ""
    type: str = ""
    url: str = ""
    name: str = ""
    fingerprint: str = ""
    secret: str = ""
    project: str = ""
    os: str = ""
    release: str = ""
    variant: str = ""
    packages: list[str] | None = None
    mirror: str = ""
    architecture: str = ""


class ImagesPost(ImagePut, kw_only=True):
    """A new image."""

    filename: str = ""
    source: ImagesPostSource | None = None
    compression_algorithm: str = ""
    aliases: list[ImageAlias] | None = None


class Image(msgspec.Struct, kw_only=True, omit_defaults=True):
    """An image."""

    auto_update: bool
    properties: dict[str, str]
    public: bool
    expires_at: str
    profiles: list[str]
    aliases: list[ImageAlias]
    architecture: str
    cached: bool
    filename: str
    fingerprint: str
    size: int
    type: str
    created_at: str
    last_used_at: str
    uploaded_at: str
    update_source: ImageSource | None = None


class RemoteImage(msgspec.Struct, kw_only=True):
    """An image as another server, of whatever age, tells of it."""

    fingerprint: str = ""
    type: str = ""
    architecture: str = ""
    size: int = 0
    filename: str = ""
    created_at: str = ""
    expires_at: str = ""
    properties: dict[str, str] | None = None
    aliases: list[ImageAlias] | None = None


class ImageExportPost(msgspec.Struct, kw_only=True):
    """Where to push an image: the target's URL and certificate, and the secret that it gave for this."""

    target: str = ""
    certificate: str = ""
    secret: str = ""
    aliases: list[ImageAlias] | None = None
    project: str = ""
    profiles: list[str] | None = None


class ImageAliasesEntryPut(msgspec.Struct, kw_only=True):
    """What may be changed of an alias. `target` is a fingerprint or the beginning of one."""

    description: str = ""
    target: str = ""


class ImageAliasesPost(ImageAliasesEntryPut, kw_only=True):
    """A new alias."""

    name: str = ""
    type: str = ""


class ImageAliasesEntryPost(msgspec.Struct, kw_only=True):
    """The new name of an alias."""

    name: str = ""


class ImageAliasesEntry(msgspec.Struct, kw_only=True):
    """An alias and the image it stands for."""

    description: str
    target: str
    name: str
    type: str
