"""Whatever text is given as schedule, pattern or template: an answer or a clear refusal, and never something else."""

import time
from datetime import UTC, datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jinja2 import TemplateError

from corral.errors import InvalidRequest
from corral.server.pongo2.engine import Bounds, render
from corral.server.snapshots import naming, schedule

pytestmark = pytest.mark.filterwarnings("ignore:invalid escape sequence")

MOMENT = datetime(2026, 11, 28, 9, 5, 7, tzinfo=UTC)
WORDS = st.sampled_from(
    [
        *"{}%#|:'\"()[].,!=<>+-*/~ \n\\x0",
        *(
            "{{",
            "}}",
            "{%",
            "%}",
            "{#",
            "#}",
            "for",
            "in",
            "if",
            "endif",
            "endfor",
            "else",
            "empty",
            "and",
            "not",
            "a",
            "b",
        ),
        *(
            "a.b",
            "forloop.Counter",
            "|date:'2006'",
            "|default:''",
            "|join:','",
            "config_get",
            "set",
            "loop",
            "_bounded",
            "block",
        ),
        *(
            "ifequal",
            "endifequal",
            "reversed",
            "sorted",
            "comment",
            "endcomment",
            "verbatim",
            "endverbatim",
            "2",
            "9999999999",
        ),
    ]
)
TEMPLATES = (
    st.lists(WORDS, max_size=30).map(" ".join) | st.lists(WORDS, max_size=40).map("".join) | st.text(max_size=60)
)
SCHEDULES = st.lists(
    st.sampled_from([*"0123456789*/-,? @#L", ", ", "@daily", "@startup", "* * * * *", "mon", "JAN", "60", "١"]),
    max_size=20,
).map("".join)


@settings(max_examples=120, deadline=None)
@given(TEMPLATES)
def test_templates(source: str) -> None:
    before = time.monotonic()
    try:
        text = render(source, {"a": {"b": ["x", 1, None]}, "b": "text"}, {"k": "v"}, Bounds(1000, 1.0))
    except (TemplateError, RecursionError, ArithmeticError, TypeError, ValueError):
        pass
    else:
        assert isinstance(text, str)
    assert time.monotonic() - before < 10


@settings(max_examples=80, deadline=None)
@given(TEMPLATES)
def test_patterns(pattern: str) -> None:
    try:
        name = naming.next_name(pattern, MOMENT, ["snap0", "x", "x-0"])
    except InvalidRequest:
        return
    naming.check_name(name)
    assert name not in ("snap0", "x", "x-0")


@settings(max_examples=120, deadline=None)
@given(SCHEDULES | st.text(max_size=30))
def test_schedules(text: str) -> None:
    try:
        schedule.check(text, (schedule.STARTUP, schedule.NEVER))
    except InvalidRequest:
        pass
    else:
        schedule.takes_at_start(text)
    assert schedule.is_due(text, 3, MOMENT.replace(second=0)) in (True, False)
