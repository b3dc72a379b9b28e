"""`lxc exec` by the unmodified client: streams, exit codes, users, terminals, signals."""

import hashlib
import os
import signal

import pytest

from harness.api import Api
from harness.client import Client
from harness.waiting import until

MEGABYTES = 64


@pytest.mark.parametrize(
    ("command", "code"),
    [
        (["true"], 0),
        (["sh", "-c", "exit 7"], 7),
        (["no-such-program"], 127),
        (["/etc/passwd"], 126),
        (["sh", "-c", "kill -9 $$"], 137),
    ],
)
def test_exit_codes(lxc: Client, instance: str, command: list[str], code: int) -> None:
    assert lxc.run("exec", instance, "--", *command).returncode == code


def test_a_command_may_close_its_outputs_before_it_ends(lxc: Client, instance: str) -> None:
    script = "exec >/dev/null 2>&1; sleep 0.3; exit 3"
    assert lxc.run("exec", instance, "--", "sh", "-c", script).returncode == 3
    assert lxc.run("exec", "--disable-stdin", instance, "--", "sh", "-c", script).returncode == 3


def test_signals_reach_a_command_that_closed_its_outputs(lxc: Client, instance: str) -> None:
    script = "trap 'exit 9' TERM; exec >/dev/null 2>&1; touch /tmp/closed; while :; do sleep 0.05; done"
    process = lxc.popen("exec", instance, "--", "sh", "-c", script)
    until(
        lambda: lxc.run("exec", instance, "--", "test", "-e", "/tmp/closed").returncode == 0, "its outputs are closed"
    )
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    assert process.returncode == 9


def test_standard_output_and_error_are_apart(lxc: Client, instance: str) -> None:
    done = lxc.run("exec", instance, "--", "sh", "-c", "echo out; echo err >&2")
    assert (done.stdout, done.stderr) == (b"out\n", b"err\n")


def test_input_ends(lxc: Client, instance: str) -> None:
    assert lxc("exec", instance, "--", "wc", "-c", stdin="12345").strip() == "5"


def test_every_byte_goes_through(lxc: Client, instance: str) -> None:
    every = bytes(range(256)) * 64
    done = lxc.run("exec", instance, "--", "cat", stdin=every)
    assert done.stdout == every


def test_bulk_in_and_out(lxc: Client, instance: str) -> None:
    block = os.urandom(1 << 20) * MEGABYTES
    done = lxc.run("exec", instance, "--", "cat", stdin=block, timeout_s=180)
    assert hashlib.sha256(done.stdout).digest() == hashlib.sha256(block).digest()


def test_user_group_directory_and_environment(lxc: Client, instance: str) -> None:
    command = ("sh", "-c", "id -u; id -g; pwd; echo $COLOUR")
    flags = ("--user", "1000", "--group", "1000", "--cwd", "/tmp", "--env", "COLOUR=blue")
    assert lxc("exec", instance, *flags, "--", *command).split() == ["1000", "1000", "/tmp", "blue"]


def test_the_environment_of_root(lxc: Client, instance: str) -> None:
    shown = lxc("exec", instance, "--", "env").splitlines()
    assert "HOME=/root" in shown
    assert "USER=root" in shown
    assert any(line.startswith("PATH=/usr/local/sbin:") for line in shown)


def test_config_environment(lxc: Client, instance: str) -> None:
    lxc("config", "set", instance, "environment.COLOUR", "green")
    assert "COLOUR=green" in lxc("exec", instance, "--", "env").splitlines()


def test_terminal(lxc: Client, instance: str) -> None:
    with lxc.terminal("exec", instance, "--", "sh", rows=33, columns=77) as terminal:
        terminal.expect("# ")
        terminal.send("tty; stty size\n")
        terminal.expect("/dev/pts/")
        terminal.expect("33 77")
        terminal.expect("# ")
        terminal.resize(44, 99)
        terminal.send("sleep 0.2; stty size\n")
        terminal.expect("44 99")
        terminal.send("exit 5\n")
        assert terminal.wait() == 5


def test_a_command_may_close_its_terminal_and_open_it_again(lxc: Client, instance: str) -> None:
    script = (
        "exec </dev/null >/dev/null 2>&1; sleep 0.3; exec >/dev/tty; echo again; exec >/dev/null; sleep 0.3; exit 3"
    )
    with lxc.terminal("exec", instance, "--", "sh", "-c", script) as terminal:
        assert terminal.wait() == 3
        assert terminal.text == "again\r\n"


def test_interrupt_on_a_terminal(lxc: Client, instance: str) -> None:
    with lxc.terminal("exec", instance, "--", "sh") as terminal:
        terminal.expect("# ")
        terminal.send("sleep 4242\n")
        terminal.expect("sleep 4242")
        until(lambda: "sleep 4242" in lxc("exec", instance, "--", "ps"), "the command runs")
        terminal.send("\x03")
        terminal.expect("# ")
        terminal.send("exit 3\n")
        assert terminal.wait() == 3


def test_a_signal_is_forwarded(lxc: Client, instance: str) -> None:
    script = "trap 'echo caught; exit 9' TERM; echo ready; while :; do sleep 0.05; done"
    process = lxc.popen("exec", instance, "--", "sh", "-c", script)
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"
    process.send_signal(signal.SIGTERM)
    out, _ = process.communicate(timeout=60)
    assert (process.returncode, out) == (9, b"caught\n")


def test_the_command_ends_with_its_client(lxc: Client, api: Api, instance: str) -> None:
    process = lxc.popen("exec", instance, "--", "cat")
    running = "pidof cat"
    until(lambda: lxc.run("exec", instance, "--", "sh", "-c", running).returncode == 0, "the command runs")
    process.kill()
    process.communicate(timeout=60)
    until(lambda: lxc.run("exec", instance, "--", "sh", "-c", running).returncode != 0, "the command has ended")


def test_recorded_output(api: Api, instance: str) -> None:
    body = {
        "command": ["sh", "-c", "echo out; echo err >&2; exit 4"],
        "interactive": False,
        "wait-for-websocket": False,
        "record-output": True,
    }
    done = api.run("POST", f"/1.0/instances/{instance}/exec", body)
    assert done["metadata"]["return"] == 4
    for number, text in (("1", b"out\n"), ("2", b"err\n")):
        assert api.raw("GET", done["metadata"]["output"][number])[2] == text


def test_many_at_once(lxc: Client, instance: str) -> None:
    processes = [lxc.popen("exec", instance, "--", "sh", "-c", f"echo {number}") for number in range(12)]
    assert [process.communicate(timeout=60)[0] for process in processes] == [b"%d\n" % n for n in range(12)]
