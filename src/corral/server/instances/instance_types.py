"""Instance types: names of cloud providers' sizes, and `c2-m4` for one's own, as limits of CPU and memory."""

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from corral.errors import InvalidRequest

Types = Mapping[str, Mapping[str, Mapping[str, float]]]
"""{provider: {name: {"cpu": vCPUs, "mem": GiB}}}, the format of LXD's image server."""

_CUSTOM_PART = re.compile(r"([cm])([0-9]+(?:\.[0-9]*)?|\.[0-9]+)")
_LARGEST = 1e6


def parse_type(text: str, types: Types) -> dict[str, str]:
    """The config that a type stands for: `t2.micro`, `aws:t2.micro` or `c0.5-m0.2`."""
    provider, colon, name = text.partition(":")
    if colon:
        size = types.get(provider, {}).get(name)
        if size is None:
            raise InvalidRequest(f"Provided instance type doesn't exist: {text}")
        return _limits(size.get("cpu", 0), size.get("mem", 0))
    matching = [sizes[text] for sizes in types.values() if text in sizes]
    if len(matching) > 1:
        raise InvalidRequest(f"Ambiguous instance type provided: {text}")
    if matching:
        return _limits(matching[0].get("cpu", 0), matching[0].get("mem", 0))
    return _parse_custom(text)


def _parse_custom(text: str) -> dict[str, str]:
    amounts = {"c": 0.0, "m": 0.0}
    for part in text.split("-"):
        if len(part) < 2 or part[0] not in amounts:
            raise InvalidRequest(f"Provided instance type doesn't exist: {text}")
        match = _CUSTOM_PART.fullmatch(part)
        if match is None or float(match[2]) > _LARGEST:
            raise InvalidRequest(f"Bad custom instance type: {text}")
        amounts[match[1]] = float(match[2])
    return _limits(amounts["c"], amounts["m"])


def _limits(cpus: float, gibibytes: float) -> dict[str, str]:
    """Whole CPUs, with a share of their time where it is to be less."""
    limits = {}
    if cpus > 0:
        count = math.ceil(cpus)
        share = int(cpus / count * 100 + 1e-6)
        limits["limits.cpu"] = str(count)
        if share < 100:
            limits["limits.cpu.allowance"] = f"{max(1, share)}%"
    # Less than a megabyte would be no limit but a container that cannot start.
    if gibibytes > 0:
        limits["limits.memory"] = f"{max(1, int(gibibytes * 1024 + 1e-6))}MB"
    return limits


def load_types() -> Types:
    """The types that come with the program."""
    loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    with open(Path(__file__).with_name("instance_types.yaml"), encoding="utf-8") as file:
        types: Types = yaml.load(file, Loader=loader)
    return types
