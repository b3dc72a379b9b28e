"""The documents are true to the tree: what they name is there."""

import re
from pathlib import Path

import pytest

TOP = Path(__file__).parents[2]
DOCUMENTS = sorted([*TOP.glob("*.md"), *TOP.glob("docs/**/*.md")])
PLACES = (".", "src/corral", "src/corral/server", "src/corral/server/instances", "src/corral/server/rest", "tests")
"""What names of files are relative to, besides a document's own directory."""
NAMED = re.compile(
    r"`([\w./-]+/[\w.-]+\.(?:py|md|bash)|(?:scripts|tests|docs|src)/[\w./-]+)`|\]\(([^)#:]+)(?:#[^)]*)?\)"
)
INVENTED = re.compile(r"\bNAME\b|\bx\b|-words\b")
"""Names that stand for those of whoever reads."""


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda document: str(document.relative_to(TOP)))
def test_what_a_document_names_is_there(document: Path) -> None:
    named = {first or second for first, second in NAMED.findall(document.read_text())}
    missing = [
        name
        for name in sorted(named)
        if not INVENTED.search(name)
        and not any((base / name).exists() for base in (document.parent, *(TOP / place for place in PLACES)))
    ]
    assert missing == []
