"""pongo2's words that differ from Jinja2's, Go's time layouts, and the bounds of a rendering."""

import time
from datetime import UTC, datetime, timedelta, timezone

import pytest
from jinja2 import TemplateError

from corral.server.pongo2.engine import Bounds, render
from corral.server.pongo2.go_time import format_go_time

MOMENT = datetime(2026, 3, 4, 15, 6, 7, 8900, tzinfo=UTC)
CONTEXT = {
    "devices": {"eth0": {"type": "nic"}, "a": {"type": "none"}},
    "words": ["x", "y"],
    "odd": {"items": "thing", "update": "u"},
    "t": MOMENT,
}


@pytest.mark.parametrize(
    ("source", "result"),
    [
        ("{% for name, device in devices %}{{ name }}={{ device.type }};{% endfor %}", "a=none;eth0=nic;"),
        ("{% for name in devices %}{{ name }} {% endfor %}", "a eth0 "),
        ("{% for w in words reversed %}{{ w }}{% endfor %}", "yx"),
        ("{% for w in words sorted %}{{ w }}{% endfor %}", "xy"),
        ("{% for w in words reversed sorted %}{{ w }}{% endfor %}", "yx"),
        (
            "{% for w in words %}{{ forloop.Counter }}{{ forloop.Counter0 }}{{ forloop.Last }} {% endfor %}",
            "10False 21True ",
        ),
        ('{{ "forloop.Counter" }}', "forloop.Counter"),
        ("{{ odd.items }}{{ odd.keys|default:'-' }}{{ odd.update }}{{ odd.pop.deep }}", "thing-u"),
        ("{{ t|date:'02 Jan 06 3:04PM' }}", "04 Mar 26 3:06PM"),
        ('{{ 1.5|floatformat:2 }} {{ 3|pluralize }} {{ 1|pluralize:"y,ies" }}', "1.50 s y"),
        ('{{ "abcdef"|slice:"1:3" }} {{ "a b c"|truncatewords:2 }}|{{ "x"|rjust:3 }}', "bc a b ...|  x"),
        ('{{ "<b>x</b>"|striptags }} {{ 9|divisibleby:3 }} {{ "Ab Cd!"|slugify }}', "x True ab-cd"),
    ],
)
def test_words(source: str, result: str) -> None:
    assert render(source, CONTEXT, {}) == result


@pytest.mark.parametrize(
    ("layout", "text"),
    [
        ("2006-01-02T15:04:05Z07:00", "2026-03-04T15:06:07Z"),
        ("Monday, January _2 2006 03:04:05.000 pm MST", "Wednesday, March  4 2026 03:06:07.008 pm UTC"),
        ("Mon Jan 2 -0700", "Wed Mar 4 +0000"),
        ("20060102150405", "20260304150607"),
        ("snap_2006", "snap_2026"),
        ("002 __2 .999999", "063  63 .0089"),
        ("Janet Months", "Janet Months"),
        ("", ""),
    ],
)
def test_go_layouts(layout: str, text: str) -> None:
    assert format_go_time(MOMENT, layout) == text


def test_offsets() -> None:
    moment = MOMENT.astimezone(timezone(timedelta(hours=-3, minutes=-30)))
    assert format_go_time(moment, "15:04 Z0700 -07:00 -07") == "11:36 -0330 -03:30 -03"


@pytest.mark.parametrize(
    "source",
    [
        "{% for a in '"
        + "x" * 1000
        + "'|make_list %}"
        + "{{ (a|ljust:4000000)|upper|lower|wordcount }}"
        + "{% endfor %}",
        "{{ 'x'|ljust:4000000" + "|upper" * 40000 + " }}",
        "{{ 'xx'|ljust:4000000|split:'' }}{{ 'x'|ljust:4000000|make_list }}",
        "{{ words|join:('x'|ljust:4000000) }}{{ words|reversed_items|join:('x'|ljust:4000000) }}",
    ],
)
def test_bounds(source: str) -> None:
    before = time.monotonic()
    with pytest.raises((TemplateError, ValueError, RecursionError)):
        render(source, CONTEXT, {}, Bounds(time_s=0.3))
    assert time.monotonic() - before < 5
