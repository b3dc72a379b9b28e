"""Wire form of profiles."""

import msgspec


class ProfilePut(msgspec.Struct, kw_only=True):
    """What may be changed of a profile."""

    config: dict[str, str] = {}
    description: str = ""
    devices: dict[str, dict[str, str]] = {}


class ProfilesPost(ProfilePut, kw_only=True):
    """A new profile."""

    name: str = ""


class ProfilePost(msgspec.Struct, kw_only=True):
    """The new name of a profile."""

    name: str = ""


class Profile(msgspec.Struct, kw_only=True):
    """A profile and the instances that use it."""

    config: dict[str, str]
    description: str
    devices: dict[str, dict[str, str]]
    name: str
    used_by: list[str]
