"""The names of the lifecycle events in the sources, beside those of LXD 5.0."""

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

SOURCES = Path(__file__).parents[4] / "src" / "corral" / "server"

_TEXT = """
    certificate-created certificate-deleted certificate-updated cluster-certificate-updated cluster-disabled
    cluster-enabled cluster-group-created cluster-group-deleted cluster-group-renamed cluster-group-updated
    cluster-member-added cluster-member-removed cluster-member-renamed cluster-member-updated cluster-token-created
    config-updated image-alias-created image-alias-deleted image-alias-renamed image-alias-updated image-created
    image-deleted image-refreshed image-retrieved image-secret-created image-updated instance-backup-created
    instance-backup-deleted instance-backup-renamed instance-backup-retrieved instance-console instance-console-reset
    instance-console-retrieved instance-created instance-deleted instance-exec instance-file-deleted
    instance-file-pushed instance-file-retrieved instance-log-deleted instance-log-retrieved
    instance-metadata-retrieved instance-metadata-template-created instance-metadata-template-deleted
    instance-metadata-template-retrieved instance-metadata-updated instance-paused instance-ready instance-renamed
    instance-restarted instance-restored instance-resumed instance-shutdown instance-snapshot-created
    instance-snapshot-deleted instance-snapshot-renamed instance-snapshot-updated instance-started instance-stopped
    instance-updated network-acl-created network-acl-deleted network-acl-renamed network-acl-updated network-created
    network-deleted network-forward-created network-forward-deleted network-forward-updated
    network-load-balancer-created network-load-balancer-deleted network-load-balancer-updated network-peer-created
    network-peer-deleted network-peer-updated network-renamed network-updated network-zone-created
    network-zone-deleted network-zone-record-created network-zone-record-deleted network-zone-record-updated
    network-zone-updated operation-cancelled profile-created profile-deleted profile-renamed profile-updated
    project-created project-deleted project-renamed project-updated storage-bucket-created storage-bucket-deleted
    storage-bucket-key-created storage-bucket-key-deleted storage-bucket-key-updated storage-bucket-updated
    storage-pool-created storage-pool-deleted storage-pool-updated storage-volume-backup-created
    storage-volume-backup-deleted storage-volume-backup-renamed storage-volume-backup-retrieved storage-volume-created
    storage-volume-deleted storage-volume-renamed storage-volume-restored storage-volume-snapshot-created
    storage-volume-snapshot-deleted storage-volume-snapshot-renamed storage-volume-snapshot-updated
    storage-volume-updated warning-acknowledged warning-deleted warning-reset
"""

NAMES = frozenset(_TEXT.split())
"""All of LXD 5.0."""

LATER = re.compile(
    r"cluster-.*|network-(acl|forward|load-balancer|peer|zone)-.*|storage-bucket-.*"
    r"|instance-metadata-.*|instance-ready|storage-volume-backup-.*"
)
"""Of what is not there yet, or is being made."""


@cache
def published() -> list[tuple[str, re.Pattern[str]]]:
    return list(_published())


def _published() -> Iterator[tuple[str, re.Pattern[str]]]:
    """What each string of the sources that looks like a name can be, with its place."""
    nouns = "|".join(sorted({name.partition("-")[0] for name in NAMES}))
    looks = re.compile(rf"({nouns}|\\0)-[a-z-]*(\\0)?[a-z-]*")
    for path in sorted(SOURCES.rglob("*.py")):
        for call in ast.walk(ast.parse(path.read_text())):
            if not isinstance(call, ast.Constant | ast.JoinedStr):
                continue
            text = _pattern(call)
            if text is not None and looks.fullmatch(text):
                yield f"{path.relative_to(SOURCES)}:{call.lineno} {text}", re.compile(text.replace("\\0", "[a-z-]+"))


def _pattern(node: ast.Constant | ast.JoinedStr) -> str | None:
    if isinstance(node, ast.Constant):
        return node.value if isinstance(node.value, str) else None
    return "".join(str(part.value) if isinstance(part, ast.Constant) else "\\0" for part in node.values)


def test_every_name_of_lxd_is_published_somewhere() -> None:
    patterns = [pattern for _, pattern in published()]
    missing = {name for name in NAMES if not any(pattern.fullmatch(name) for pattern in patterns)}
    assert {name for name in missing if not LATER.fullmatch(name)} == set()


def test_no_name_is_ours_alone() -> None:
    # What begins with a variable may be something else altogether.
    named = [(place, pattern) for place, pattern in published() if " \\0" not in place]
    made = [(place, pattern) for place, pattern in named if "-created" in place or "\\0" in place]
    strange = [place for place, pattern in made if not any(pattern.fullmatch(name) for name in NAMES)]
    assert strange == []
