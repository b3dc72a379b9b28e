"""Containers in containers: this very server inside an unprivileged container, with an unprivileged one of its own."""

import shutil
import site
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from harness import images, programs
from harness.api import Api

Make = Callable[..., str]

STATE = "/var/lib/corral"


@pytest.fixture
def outer(api: Api, make_instance: Make, busybox_image: Path, tmp_path: Path) -> Iterator[str]:
    """A container that allows nesting, with the host's programs and this tree to read."""
    fingerprint = api.upload_image(images.borrowed(tmp_path / "borrowed.tar"), "borrowed")
    programs.write_launchers(tmp_path / "bin")
    # Nobody in the container may read what only the host's root may.
    (tmp_path / "bin").chmod(0o755)
    shutil.copy(busybox_image, tmp_path / "bin/busybox.tar")
    shown = {
        "usr": Path("/usr"),
        "sources": programs.SOURCES,
        "libraries": Path(site.getsitepackages()[0]),
        "bin": tmp_path / "bin",
    }
    disks = {
        name: {"type": "disk", "source": str(path), "path": str(path), "readonly": "true"}
        for name, path in shown.items()
    }
    config = {"security.nesting": "true", "raw.lxc": "lxc.init.cmd=/bin/busybox init"}
    yield make_instance("outer", image="borrowed", config=config, devices=disks)
    api.run("DELETE", f"/1.0/images/{fingerprint}")


def test_a_container_in_a_container(api: Api, outer: str, tmp_path: Path) -> None:
    def inside(script: str) -> str:
        """Run a script in the outer container and return what it prints."""
        setup = f"export PATH={tmp_path}/bin:/usr/sbin:/usr/bin CORRAL_DIR={STATE} HOME=/root; "
        body = {"command": ["sh", "-ec", setup + script], "interactive": False, "record-output": True}
        done = api.run("POST", f"/1.0/instances/{outer}/exec", body)["metadata"]
        told = [api.raw("GET", done["output"][number])[2].decode() for number in ("1", "2")]
        assert done["return"] == 0, f"{script}: exit status {done['return']}\n{told[0]}{told[1]}"
        return told[0]

    inside("setsid corrald --logfile /var/log/corrald.log >/dev/null 2>&1 & corrald waitready --timeout=60")
    inside("corrald init --auto --storage-backend dir")
    inside(f"corral image import {tmp_path}/bin/busybox.tar --alias busybox")
    inside("corral launch busybox inner")
    assert inside("corral exec inner -- cat /proc/self/uid_map").split() == ["0", "100000", "65536"]
    assert inside("corral exec inner -- id -u") == "0\n"
    # Fresh mounts of its own, which the kernel allows where whole ones are in sight.
    inside("corral exec inner -- sh -c 'mkdir /p && mount -t proc proc /p && mount -t tmpfs none /tmp'")
    assert "RUNNING" in inside("corral list -f csv -c s")
    inside("corral stop -f inner; corral delete inner; corrald shutdown --timeout=60")
