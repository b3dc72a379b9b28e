"""A server in a container, and a container of its own: each guest finds its own server at /dev/lxd/sock."""

import shutil
import site
from collections.abc import Callable
from pathlib import Path

from conftest import client_of
from harness import programs
from harness.api import Api
from harness.daemon import Daemon
from harness.guest import Guest
from harness.waiting import until

HOST_SYSTEM = "ln -sfn usr/lib /lib; ln -sfn usr/lib64 /lib64"
"""With the host's /usr mounted, a busybox system has all programs of the host."""

PREPARE = f"""set -e
{HOST_SYSTEM}
echo root:100000:65536 >/etc/subuid
echo root:100000:65536 >/etc/subgid
mkdir -p /var/lib/inner /var/log /var/cache
"""

ASK = """import socket, sys
end = socket.socket(socket.AF_UNIX)
end.connect("/dev/lxd/sock")
end.sendall(f"GET /1.0/config/{sys.argv[1]} HTTP/1.0\\r\\n\\r\\n".encode())
print(end.makefile().read())
"""


def test_each_level_asks_its_own_server(
    daemon: Daemon, api: Api, busybox_image: Path, make_instance: Callable[..., str], tmp_path: Path
) -> None:
    lxc = client_of(daemon)
    shared = tmp_path / "shared"
    programs.write_launchers(shared / "bin")
    shutil.copy(busybox_image, shared / "busybox.tar")
    shared.chmod(0o755)
    sources = {"usr": "/usr", "sources": str(programs.SOURCES), "libraries": site.getsitepackages()[0]}
    disks = {key: {"type": "disk", "source": path, "path": path, "readonly": "true"} for key, path in sources.items()}
    disks["shared"] = {"type": "disk", "source": str(shared), "path": "/shared", "readonly": "true"}
    outer = make_instance(config={"security.nesting": "true", "user.me": "outer"}, devices=disks)
    environment = ("--env", "PATH=/shared/bin:/usr/sbin:/usr/bin:/bin:/sbin", "--env", "LXD_DIR=/var/lib/inner")

    def inside(*argv: str) -> str:
        return lxc("exec", outer, *environment, "--", *argv)

    inside("sh", "-c", PREPARE)
    inside("sh", "-c", "setsid lxd --logfile /var/log/inner.log >/var/log/inner.out 2>&1 </dev/null &")
    inside("lxd", "waitready", "--timeout=30")
    inside("lxc", "storage", "create", "default", "dir")
    inside("lxc", "profile", "device", "add", "default", "root", "disk", "path=/", "pool=default")
    inside("lxc", "image", "import", "/shared/busybox.tar", "--alias", "busybox")
    inside("lxc", "init", "busybox", "inner", "-c", "user.me=inner")
    inside("lxc", "config", "device", "add", "inner", "usr", "disk", "source=/usr", "path=/usr", "readonly=true")
    inside("lxc", "start", "inner")
    inside("lxc", "exec", "inner", "--", "sh", "-c", HOST_SYSTEM)

    def ask(key: str) -> str:
        answer = inside("lxc", "exec", "inner", "--", "/usr/bin/python3", "-IS", "-c", ASK, key)
        return answer.partition("\n\n")[2].strip()

    assert ask("user.me") == "inner"
    pid = api.get(f"/1.0/instances/{outer}/state")["pid"]
    with Guest(pid) as guest:
        assert guest.text("/1.0/config/user.me") == "outer"
    # The outer server's socket, shown further in: whose process asks is the outer container's.
    inside("lxc", "config", "device", "add", "inner", "up", "disk", "source=/dev/lxd", "path=/up")
    until(lambda: "sock" in inside("lxc", "exec", "inner", "--", "ls", "/up"), "the outer socket is shown")
    further = ASK.replace("/dev/lxd/sock", "/up/sock")
    answer = inside("lxc", "exec", "inner", "--", "/usr/bin/python3", "-IS", "-c", further, "user.me")
    assert "Access denied for non-root user" in answer
    inside("lxc", "delete", "--force", "inner")
