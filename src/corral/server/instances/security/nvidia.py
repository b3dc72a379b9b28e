"""NVIDIA's container runtime: what liblxc's hook for it needs in a container's configuration. Pure, but for the check.

The hook is part of LXC; it has `nvidia-container-cli` put the driver's libraries and nodes into the container. The
names of the variables are NVIDIA's.
"""

import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path

from corral.errors import NotSupported
from corral.units import is_true

KEY = "nvidia.runtime"
HOOK = "/usr/share/lxc/hooks/nvidia"
_DEFAULT_CAPABILITIES = "compute,utility"
_REQUIREMENTS = (
    ("nvidia.require.cuda", "NVIDIA_REQUIRE_CUDA"),
    ("nvidia.require.driver", "NVIDIA_REQUIRE_DRIVER"),
)


def is_wanted(config: Mapping[str, str]) -> bool:
    """Whether the driver is to be passed in."""
    return is_true(config.get(KEY))


def environment(config: Mapping[str, str], devices: Iterable[str]) -> list[tuple[str, str]]:
    """The hook's variables. `devices` are shares of cards by NVIDIA's names; whole cards are device nodes."""
    if not is_wanted(config):
        return []
    capabilities = config.get("nvidia.driver.capabilities") or _DEFAULT_CAPABILITIES
    found = [
        ("NVIDIA_VISIBLE_DEVICES", ",".join(devices) or "none"),
        ("NVIDIA_DRIVER_CAPABILITIES", capabilities),
    ]
    return found + [(name, config[key]) for key, name in _REQUIREMENTS if config.get(key)]


def check(config: Mapping[str, str]) -> None:
    """Raise NotSupported where the driver is wanted and this server lacks what passes it in."""
    if not is_wanted(config):
        return
    if not Path(HOOK).exists():
        raise NotSupported(f"The NVIDIA LXC hook couldn't be found at {HOOK}: install the package lxc")
    if shutil.which("nvidia-container-cli") is None:
        raise NotSupported(
            "The NVIDIA container tools couldn't be found: install nvidia-container-cli (libnvidia-container)"
        )
