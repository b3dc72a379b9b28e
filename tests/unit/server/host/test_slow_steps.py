"""What is told of steps that block the event loop, and what is not."""

import subprocess
import sys

from corral.server.host.slow_steps import Moment, parse_crowded_out
from harness.programs import SOURCES

SCRIPT = """
import asyncio, logging, sys, threading, time
from corral.server.host import slow_steps

logging.basicConfig(stream=sys.stdout, level=logging.WARNING, format="%(message)s")

def work():
    end = time.thread_time() + 0.15
    while time.thread_time() < end:
        pass

async def rest():
    await asyncio.sleep(0.15)

async def main():
    slow_steps.Watch().install()
    loop = asyncio.get_running_loop()
    await rest()
    print("asleep", flush=True)
    loop.call_soon(time.sleep, 0.15)
    await asyncio.sleep(0)
    print("at work", flush=True)
    loop.call_soon(work)
    await asyncio.sleep(0)
    print("end", flush=True)

asyncio.run(main(), debug=True)
"""


def test_times_are_told_apart() -> None:
    spent = Moment(1.5, 0.25, 1.0).since(Moment(1.0, 0.25, 0.5))
    assert (spent.clock_s, spent.worked_s, spent.crowded_out_s, spent.waited_s) == (0.5, 0.0, 0.5, 0.0)
    assert not spent.is_blocked
    assert Moment(0.5, 0.2, 0.3).is_blocked
    assert Moment(0.5, 0.0, 0.3).is_blocked
    assert not Moment(0.5, 0.05, 0.4).is_blocked


def test_the_kernels_account() -> None:
    assert parse_crowded_out(b"24596 2500000000 2\n") == 2.5
    assert parse_crowded_out(b"") == 0.0


def test_steps_that_block_are_told() -> None:
    environment = {"PYTHONPATH": str(SOURCES)}
    argv = [sys.executable, "-c", SCRIPT]
    done = subprocess.run(argv, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    rest = done.stdout.partition("asleep\n")[2]
    asleep, _, working = rest.partition("at work\n")
    working = working.partition("end\n")[0]
    assert "asleep" in asleep
    assert "sleep(0.15)" in asleep
    assert "work()" in working
    assert done.stderr == ""
