"""Runs in the guest: serves one virtio-serial port, one command after the other. Standard library only.

A request is a line of JSON (`argv`, `cwd`, `env`, `timeout_s`, `input`: how many bytes of standard input follow).
Answers are frames, a letter and a length of 4 bytes before the content: O output, X the exit status, which ends it.
"""

import json
import os
import selectors
import signal
import struct
import subprocess
import sys
import time
from typing import Any, BinaryIO

TIMED_OUT = 124


def _read_exactly(port: BinaryIO, count: int) -> bytes:
    found = bytearray()
    while len(found) < count:
        part = port.read(min(count - len(found), 1 << 16))
        if not part:
            time.sleep(0.25)  # nobody is connected
        found += part
    return bytes(found)


def _read_line(port: BinaryIO) -> bytes:
    line = b""
    while not line.endswith(b"\n"):
        line += _read_exactly(port, 1)
    return line


def _send(port: BinaryIO, kind: bytes, content: bytes) -> None:
    data = memoryview(kind + struct.pack(">I", len(content)) + content)
    while data:
        data = data[port.write(data) :]


def _run(port: BinaryIO, request: dict[str, Any], given: bytes) -> int:
    with open("/run/guest-input", "w+b") as source:
        source.write(given)
        source.seek(0)
        process = subprocess.Popen(
            request["argv"],
            cwd=request.get("cwd", "/"),
            env=os.environ | request.get("env", {}),
            stdin=source,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    assert process.stdout is not None
    deadline = time.monotonic() + request["timeout_s"]
    with selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ)
        # Its children may hold the pipe for longer than it lives: its end is what counts.
        while time.monotonic() < deadline:
            ended = process.poll() is not None
            if selector.select(0 if ended else 0.2):
                output = os.read(process.stdout.fileno(), 65536)
                if output:
                    _send(port, b"O", output)
                    continue
                selector.unregister(process.stdout)
                process.wait(max(0.1, deadline - time.monotonic()))
            if ended or not selector.get_map():
                return process.wait()
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    return TIMED_OUT


def main() -> None:
    """Serve the port for ever."""
    with open(sys.argv[1], "r+b", buffering=0) as port:
        while True:
            request = json.loads(_read_line(port))
            given = _read_exactly(port, request.get("input", 0))
            try:
                status = _run(port, request, given)
            except (OSError, subprocess.SubprocessError) as error:
                _send(port, b"O", f"{error}\n".encode())
                status = 127
            _send(port, b"X", struct.pack(">i", status))


if __name__ == "__main__":
    main()
