"""The machine itself, for tests that run in a scene of their own in it."""

import subprocess


def host(*argv: str) -> str:
    """Run a command in the namespaces of the machine, where its systemd is, and return its output."""
    done = subprocess.run(
        ["nsenter", "--target", "1", "--mount", "--net", "--", *argv], check=False, capture_output=True, text=True
    )
    assert done.returncode == 0, f"{' '.join(argv)}: {done.stdout}{done.stderr}"
    return done.stdout.strip()
