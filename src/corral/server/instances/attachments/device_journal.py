"""What is about to change in a running container, noted in a file until record and container agree.

A daemon that dies in the middle of a change leaves the note: the next one finishes the change by it. It concerns only
what dies with the host, so the file need not outlast that.
"""

import json
import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from corral.server.devices import notes

log = logging.getLogger(__name__)

_FILE = "changing"

Configs = dict[str, dict[str, str]]


@dataclass(frozen=True, slots=True)
class Journal:
    """A change of devices and of config keys.

    `before` and `after` are the configs of the devices that go, come, or are replaced, `updated_before` and
    `updated_after` those of devices that change in place; `volatile_before` and `volatile_after` are what the devices
    remember, as whole keys. Until the change is `prepared`, nothing has come into the container.
    """

    before: Configs
    after: Configs
    updated_before: Configs
    updated_after: Configs
    volatile_before: dict[str, str]
    volatile_after: dict[str, str]
    keys: list[str]
    prepared: bool = False

    @property
    def plugged(self) -> list[tuple[str, dict[str, str], dict[str, str]]]:
        """What may be in the container: name, config and volatile keys; what came last is first."""
        coming = self.after if self.prepared else {}
        after = [(name, config, self.volatile_after) for name, config in coming.items()]
        return [*after, *((name, config, self.volatile_before) for name, config in self.before.items())]

    @property
    def names(self) -> set[str]:
        """The devices that go, come, or are replaced."""
        return self.before.keys() | self.after.keys()


def write(directory: Path, journal: Journal) -> None:
    """Note a change in the instance's devices directory."""
    notes.write(directory / _FILE, json.dumps(asdict(journal)))


def find(directory: Path) -> Journal | None:
    """The change that was cut short, None where there is none: a note that was only being made counts for nothing."""
    try:
        return Journal(**json.loads((directory / _FILE).read_text()))
    except FileNotFoundError:
        remove(directory)
        return None
    except (OSError, ValueError, TypeError) as error:
        log.warning("The note of a change in %s cannot be read: %s", directory, error)
        return None


def remove(directory: Path) -> None:
    """Forget the change."""
    notes.remove(directory / _FILE)


def of_devices(volatile: Mapping[str, str | None], names: set[str]) -> dict[str, str]:
    """The volatile keys of these devices."""
    prefixes = tuple(f"volatile.{name}." for name in names)
    return {key: value for key, value in volatile.items() if value and key.startswith(prefixes)}
