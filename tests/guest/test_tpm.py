"""Virtual TPMs: Debian's kernel has the proxy that they need."""

from collections.abc import Callable

from harness.api import Api
from harness.client import Client

Make = Callable[..., str]

GET_RANDOM = r"\200\001\000\000\000\014\000\000\001\173\000\010"
"""TPM2_GetRandom for eight bytes (TPM 2.0 library, part 3, 16.1)."""

ANSWER_SIZE = 20


def answers(lxc: Client, name: str, path: str) -> bool:
    """Whether a TPM answers a command."""
    script = f"exec 3<>{path} && printf '{GET_RANDOM}' >&3 && head -c {ANSWER_SIZE} <&3 | wc -c"
    done = lxc.run("exec", name, "--", "sh", "-c", script)
    return done.returncode == 0 and done.stdout.strip() == str(ANSWER_SIZE).encode()


def test_a_tpm(api: Api, lxc: Client, make_instance: Make) -> None:
    name = make_instance()
    lxc("config", "device", "add", name, "tpm", "tpm", "path=/dev/tpm0", "pathrm=/dev/tpmrm0")
    assert answers(lxc, name, "/dev/tpmrm0")
    lxc("config", "device", "remove", name, "tpm")
    assert lxc.run("exec", name, "--", "test", "-e", "/dev/tpm0").returncode == 1
    # Before a start, too; and it is another each time the container runs, with the same state.
    lxc("stop", "--force", name)
    lxc("config", "device", "add", name, "tpm", "tpm", "path=/dev/tpm0", "pathrm=/dev/tpmrm0")
    for _ in range(2):
        api.set_state(name, "start")
        assert answers(lxc, name, "/dev/tpm0")
        lxc("stop", "--force", name)
