"""The user guide: every command in its `sh` blocks runs as it is written, page by page."""

import contextlib
import re
import subprocess
from pathlib import Path

import pytest

from conftest import remove_instance
from harness.api import Api, ApiError
from harness.daemon import Daemon

GUIDE = Path(__file__).parents[2] / "docs" / "guide"
PAGES = sorted(page.name for page in GUIDE.glob("*.md") if "```sh" in page.read_text())


def commands(page: str) -> str:
    """The commands of a page, as one script."""
    return "\n".join(re.findall(r"^```sh\n(.*?)^```", (GUIDE / page).read_text(), re.MULTILINE | re.DOTALL))


@pytest.mark.parametrize("page", PAGES)
def test_page(daemon: Daemon, api: Api, tmp_path: Path, page: str) -> None:
    if daemon.programs.kind != "ours":
        pytest.skip("the guide is about our client")
    fingerprint = api.get("/1.0/images/aliases/busybox")["target"]
    api.call("POST", "/1.0/images/aliases", {"name": "debian/12", "target": fingerprint})
    environment = daemon.environment | {
        "PATH": f"{daemon.programs.lxc.parent}:/usr/bin:/bin:/usr/sbin:/sbin",
        "CORRAL_DIR": str(daemon.state_dir),
        "CORRAL_CONF": str(daemon.conf_dir),
    }
    script = f"set -eux\n{commands(page)}"
    try:
        done = subprocess.run(
            ["bash", "-c", script],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            timeout=180,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert [entry["name"] for entry in api.get("/1.0/instances?recursion=1&all-projects=true")] == []
    finally:
        for entry in api.get("/1.0/instances?recursion=1&all-projects=true"):
            remove_instance(api, entry["name"])
        with contextlib.suppress(ApiError):
            api.call("DELETE", "/1.0/images/aliases/debian%2F12")
        known = {alias["name"] for image in api.get("/1.0/images?recursion=1") for alias in image["aliases"]}
        if "busybox" not in known:
            api.call("POST", "/1.0/images/aliases", {"name": "busybox", "target": fingerprint})
            # The pool's copy of it, for the tests after this one.
            api.create("first", "busybox")
            api.delete("first")
