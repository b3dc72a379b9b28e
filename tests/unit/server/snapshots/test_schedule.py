"""When snapshots are due."""

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest

from corral.errors import InvalidRequest
from corral.server.snapshots import schedule

DAY = datetime(2026, 11, 28, tzinfo=UTC)


def due_minutes(text: str, subject: int = 1, start: datetime = DAY, hours: int = 24) -> list[str]:
    """The minutes of some hours in which a schedule is due."""
    first = start.astimezone(UTC)
    moments = [(first + timedelta(minutes=n)).astimezone(start.tzinfo) for n in range(hours * 60)]
    return [f"{one:%d %H:%M}" for one in moments if schedule.is_due(text, subject, one)]


def test_cron_expressions() -> None:
    assert due_minutes("30 4 * * *") == ["28 04:30"]
    assert due_minutes("0 */6 * * *, 15 1,2 * * sat") == [
        "28 00:00",
        "28 01:15",
        "28 02:15",
        "28 06:00",
        "28 12:00",
        "28 18:00",
    ]
    assert due_minutes("10 2,5-8/2 * * *") == ["28 02:10", "28 05:10", "28 07:10"]
    assert due_minutes("0 0 * * mon-fri") == []
    assert due_minutes("5 5 ? * ?") == ["28 05:05"]
    assert len(due_minutes("* * * * *", hours=1)) == 60


def test_aliases_are_spread_and_stay_where_they_are() -> None:
    hourly = {subject: due_minutes("@hourly", subject, hours=1) for subject in range(20)}
    assert all(len(minutes) == 1 for minutes in hourly.values())
    assert len({minutes[0] for minutes in hourly.values()}) > 5
    assert hourly[3] == due_minutes("@hourly", 3, hours=1)
    assert len(due_minutes("@daily")) == 1
    assert due_minutes("@midnight")[0].startswith("28 00:")
    assert due_minutes("@weekly") == []  # the 28th is a Saturday
    assert len(due_minutes("@weekly", start=DAY + timedelta(days=1))) == 1
    for alias in ("@monthly", "@yearly", "@annually"):
        assert due_minutes(alias) == []
        assert len(due_minutes(alias, start=datetime(2027, 1, 1, tzinfo=UTC))) == 1
    assert due_minutes("@never, @startup") == []
    assert len(due_minutes("@startup,@daily")) == 1


def test_changes_of_the_clocks() -> None:
    berlin = ZoneInfo("Europe/Berlin")
    assert due_minutes("30 2 * * *", start=datetime(2026, 10, 25, tzinfo=berlin), hours=25) == ["25 02:30"]
    assert due_minutes("30 2 * * *", start=datetime(2026, 3, 29, tzinfo=berlin), hours=23) == ["29 03:00"]


@pytest.mark.parametrize("text", ["@startup", "@STARTUP, @daily", "@startup, 10 5,6 * * *", "@daily,@startup"])
def test_what_takes_at_a_start(text: str) -> None:
    assert schedule.takes_at_start(text)
    assert schedule.check(text, (schedule.STARTUP, schedule.NEVER)) == text


def test_what_does_not_take_at_a_start() -> None:
    assert not any(schedule.takes_at_start(text) for text in ("", "@daily", "@never", "0 0 * * *"))


@pytest.mark.parametrize(
    "text",
    [
        "often",
        "@often",
        "@daily, ",
        "* * * *",
        "* * * * * *",
        "60 * * * *",
        "* 24 * * *",
        "* * 0 * *",
        "* * 31 2 *",
        "1-0 * * * *",
        "*/0 * * * *",
        "@startup",
        "0 0 * * *,@daily",
        "\N{ARABIC-INDIC DIGIT ONE} * * * *",
        "0  0 * * *",
        "9" * 999 + " * * * *",
        "* * * * *, " * 200,
    ],
)
def test_what_is_no_schedule(text: str) -> None:
    with pytest.raises(InvalidRequest):
        schedule.check(text)


def test_one_of_an_older_program_takes_nothing() -> None:
    assert due_minutes("60 * * * *, often", hours=1) == []


def test_the_zone_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "Europe/Berlin")
    assert datetime(2026, 7, 1, tzinfo=schedule.local_zone()).utcoffset() == timedelta(hours=2)
    monkeypatch.setenv("TZ", "Nowhere/../../etc/passwd")
    assert schedule.local_zone() is UTC
