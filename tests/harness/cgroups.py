"""The control groups of containers as the kernel shows them."""

from pathlib import Path


def cgroup_file(pid: int, controller: str, v1: str, v2: str) -> Path:
    """A file of a container's control group, by the version that the host has."""
    for line in Path(f"/proc/{pid}/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        if controller in controllers.split(","):
            return Path("/sys/fs/cgroup", controller, _payload(path), v1)
    path = next(line for line in Path(f"/proc/{pid}/cgroup").read_text().splitlines() if line.startswith("0::"))
    return Path("/sys/fs/cgroup", _payload(path[3:]), v2)


def _payload(path: str) -> str:
    """The part of a path that ends with the container's own group: guests make more below it."""
    parts = path.strip("/").split("/")
    ends = (index for index, part in enumerate(parts) if part.startswith("lxc.payload"))
    return "/".join(parts[: next(ends, 0) + 1])
