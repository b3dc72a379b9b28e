"""The devices of an instance or a profile as commands change them: read, changed, written back unless outrun."""

from __future__ import annotations

from corral.cli.records import INSTANCE_WRITABLE, PROFILE_WRITABLE
from corral.cli.session import pick
from corral.client.server import escape
from corral.errors import CorralError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from corral.client.server import Server


class DeviceOwner:
    """The instance or profile (`kind`: instances or profiles) whose devices a command works on."""

    def __init__(self, server: Server, kind: str, name: str) -> None:
        self.name = name
        self._server = server
        self._is_profile = kind == "profiles"
        self._path = f"/{kind}/{escape(name)}"
        self._body: dict[str, Any]
        self._body, self._etag = server.get_tagged(self._path)
        self.devices: dict[str, dict[str, str]] = self._body.get("devices") or {}

    @property
    def inherited(self) -> dict[str, dict[str, str]]:
        """The devices with those of its profiles."""
        return self._body.get("expanded_devices") or {}

    def device(self, name: str, inherited_error: str) -> dict[str, str]:
        """A device of its own. Raises CorralError."""
        if name in self.devices:
            return self.devices[name]
        raise CorralError(inherited_error if name in self.inherited else "Device doesn't exist")

    def attach(self, name: str, device: dict[str, str]) -> None:
        """Add a device and write that back. Raises CorralError where one has its name."""
        if name in self.devices:
            raise CorralError(f"Device already exists: {name}")
        self.devices[name] = device
        self.save()

    def choose(self, name: str, found: list[str], thing: str) -> str:
        """The device that is meant: the named one, or else the only one that was found for a thing.

        Raises CorralError.
        """
        if not name and len(found) > 1:
            raise CorralError("More than one device matches, specify the device name")
        if not name and not found:
            raise CorralError(f"No device found for this {thing}")
        name = name or found[0]
        if name not in self.devices:
            raise CorralError("The specified device doesn't exist")
        return name

    def save(self) -> None:
        """Write the changed devices back."""
        self._body["devices"] = self.devices
        if self._is_profile:
            self._server.put(self._path, pick(self._body, PROFILE_WRITABLE), self._etag)
        else:
            self._server.run("PUT", self._path, pick(self._body, INSTANCE_WRITABLE), self._etag)
