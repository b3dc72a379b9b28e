"""Compression algorithms: the commands that they stand for, and what is none."""

import pytest

from corral.errors import InvalidRequest
from corral.server.host.programs.compressors import WRITES_FILES, compose


@pytest.mark.parametrize(
    ("algorithm", "argv"),
    [
        ("none", []),
        ("", []),
        ("xz", ["xz", "-c"]),
        ("gzip -9", ["gzip", "-c", "-9", "-n"]),
        ("'gzip' \"-9\"", ["gzip", "-c", "-9", "-n"]),
        ("squashfs -b 64k", [WRITES_FILES, "-b", "64k", "-q", "--no-skip", "--force", "--compressor", "xz"]),
    ],
)
def test_an_algorithm_is_a_command(algorithm: str, argv: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda program: f"/usr/bin/{program}")
    assert compose(algorithm) == argv


@pytest.mark.parametrize("algorithm", ["no-such-program", "/bin/gzip", "'", "none -1"])
def test_what_is_no_program_is_refused(algorithm: str) -> None:
    with pytest.raises(InvalidRequest, match="Invalid compression algorithm"):
        compose(algorithm)
