"""When the ticks of a schedule are, and which schedules are refused when their class is defined."""

# The classes here are wrong on purpose.
# pyright: reportUnusedClass=false, reportUntypedFunctionDecorator=false, reportArgumentType=false

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, date, datetime, time, timedelta
from itertools import pairwise, takewhile
from random import Random
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from perdure.objects import DefinitionError, Schedule, Service, VirtualObject, Workflow, cron, every, handler, shared
from perdure.objects.definitions import definition_of
from perdure.objects.schedules import ScheduleDefinition
from perdure.objects.ticks import CronTicks, IntervalTicks, microseconds_of, moment_of, ticks_after

SEED = 20_261_123
ZONES = ["UTC", "Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "America/Santiago", "Asia/Kathmandu"]
EXPRESSIONS = ["30 2 * * *", "0,30 2-3 * * *", "0 0 * * *", "*/20 * * * *", "15 */2 * * *", "0 9 L * *", "59 23 * * 0"]


def ticks(expression: str, zone: str, begin: datetime, end: datetime) -> list[str]:
    """In local time."""
    made = ticks_after(CronTicks(expression, zone), microseconds_of(begin) - 1)
    until = microseconds_of(end)
    return [moment_of(at).astimezone(ZoneInfo(zone)).isoformat() for at in takewhile(lambda at: at < until, made)]


def local(zone: str, *numbers: int) -> datetime:
    return datetime(*numbers, tzinfo=ZoneInfo(zone))  # type: ignore[arg-type, misc]


# --- summer time ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("zone", "day", "expected"),
    [
        ("Europe/Berlin", (2026, 3, 28), "2026-03-28T02:30:00+01:00"),
        ("Europe/Berlin", (2026, 3, 29), "2026-03-29T03:00:00+02:00"),
        ("Europe/Berlin", (2026, 10, 25), "2026-10-25T02:30:00+02:00"),
        ("America/New_York", (2026, 3, 8), "2026-03-08T03:00:00-04:00"),
        ("Australia/Lord_Howe", (2026, 10, 4), "2026-10-04T02:30:00+11:00"),
    ],
)
def test_a_time_that_does_not_exist_is_the_first_moment_after_the_gap(
    zone: str, day: tuple[int, int, int], expected: str
) -> None:
    """Once; and one that comes twice is the first of the two (25 October)."""
    begin = local(zone, *day)

    assert ticks("30 2 * * *", zone, begin, begin + timedelta(days=1)) == [expected]


def test_times_that_fall_into_one_gap_are_one_tick() -> None:
    begin = local("Europe/Berlin", 2026, 3, 29)

    found = ticks("0,30 2-3 * * *", "Europe/Berlin", begin, begin + timedelta(hours=20))

    assert found == ["2026-03-29T03:00:00+02:00", "2026-03-29T03:30:00+02:00"]


def test_wildcards_go_by_real_time() -> None:
    """Every half hour, in the hour that comes twice too, and not in the one that does not exist."""
    for day in ((2026, 3, 29), (2026, 10, 25), (2026, 7, 1)):
        begin = microseconds_of(local("Europe/Berlin", *day))
        end = microseconds_of(local("Europe/Berlin", *day) + timedelta(days=1))
        found = list(takewhile(lambda at: at <= end, ticks_after(CronTicks("*/30 * * * *", "Europe/Berlin"), begin)))  # noqa: B023

        assert {later - at for at, later in pairwise([begin, *found])} == {1_800_000_000}
        assert found[-1] == end


@pytest.mark.parametrize("zone", ZONES)
@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_the_next_tick_is_the_same_wherever_one_asks_from(expression: str, zone: str) -> None:
    """What was missed is looked for from other moments than that of the tick before: all have to agree."""
    random = Random(f"{SEED} {expression} {zone}")
    made = CronTicks(expression, zone)
    for begin in (datetime(2026, 3, 6, tzinfo=UTC), datetime(2026, 10, 2, tzinfo=UTC)):
        at = microseconds_of(begin)
        until = at + 32 * 86_400_000_000
        all_of_them = list(takewhile(lambda tick: tick <= until, ticks_after(made, at)))  # noqa: B023

        assert all_of_them == sorted(set(all_of_them))
        for before, tick in pairwise([at, *all_of_them]):
            asked = random.randrange(before, tick)
            assert (made.next_after(asked), made.next_after(tick - 1)) == (tick, tick)


def test_fixed_times_are_what_a_calendar_says() -> None:
    """Twenty years of half past two, told by arithmetic with dates alone."""
    zone, first = ZoneInfo("America/New_York"), date(2020, 1, 1)
    expected: list[int] = []
    for days in range(20 * 365):
        moment = datetime.combine(first + timedelta(days=days), time(2, 30), zone)
        if moment.astimezone(UTC).astimezone(zone) != moment:  # it does not exist
            moment = moment.replace(hour=3, minute=0)
        expected.append(microseconds_of(moment))

    made = ticks_after(CronTicks("30 2 * * *", "America/New_York"), microseconds_of(local(zone.key, 2020, 1, 1)))

    assert [at for at, _ in zip(made, expected, strict=False)] == expected


def test_an_interval_is_counted_from_its_anchor() -> None:
    made = IntervalTicks(7_000_000, microseconds_of(datetime(2026, 1, 1, tzinfo=UTC)))
    late = microseconds_of(datetime(2026, 1, 1, 0, 0, 20, 999_999, tzinfo=UTC))

    assert moment_of(made.next_after(late)) == datetime(2026, 1, 1, 0, 0, 21, tzinfo=UTC)
    assert moment_of(made.next_after(late + 1)) == datetime(2026, 1, 1, 0, 0, 28, tzinfo=UTC)
    assert moment_of(made.next_after(microseconds_of(datetime(2025, 12, 31, 23, 59, 58, tzinfo=UTC)))) == datetime(
        2026, 1, 1, tzinfo=UTC
    )


# --- a class that has schedules ---------------------------------------------------------------------------------------


class Reports(VirtualObject, name="reports"):
    @handler(
        name="make",
        schedules=[
            cron("0  9 * * mon-fri", timezone="Europe/Berlin", key="daily/éà", args=("short",), jitter=30),
            every(timedelta(hours=1), key="hourly", name="h", kwargs={"title": "x", "pages": 3}),
        ],
    )
    async def build(self, title: str, pages: int = 1) -> None: ...


class OwnReports(Reports):
    """Inherits its handler, and so its schedules, under its own name."""


def schedules(cls: type) -> dict[str, ScheduleDefinition]:
    return definition_of(cls).schedules


def test_a_schedule_has_an_id_a_target_and_arguments() -> None:
    daily, hourly = schedules(Reports).values()

    assert (daily.id, daily.key, daily.arguments) == ("reports/make/daily/éà", "daily/éà", b'{"title":"short"}')
    assert (hourly.id, hourly.key, hourly.arguments) == ("reports/make/h", "hourly", b'{"title":"x","pages":3}')
    assert list(schedules(OwnReports)) == ["OwnReports/make/daily/éà", "OwnReports/make/h"]


def test_jitter_delays_a_tick_by_a_part_of_it_that_is_always_the_same() -> None:
    daily = schedules(Reports)["reports/make/daily/éà"]
    made = [at for at, _ in zip(ticks_after(daily.ticks, 0), range(2_000), strict=False)]

    delays = [daily.due(at) - at for at in made]

    assert all(0 <= delay < 30_000_000 for delay in delays)
    assert (min(delays) < 500_000, max(delays) > 29_500_000, len(set(delays)) > 1_990) == (True, True, True)
    assert delays[:3] == [daily.due(at) - at for at in made[:3]]
    assert schedules(OwnReports)["OwnReports/make/daily/éà"].due(made[0]) != daily.due(made[0])


def defined(*what: Any, base: type = VirtualObject, **options: Any) -> None:
    class Job(base):  # type: ignore[misc]
        @handler(schedules=what, **options)
        async def work(self, n: int = 1) -> None: ...

    definition_of(Job)


@pytest.mark.parametrize(
    ("schedule", "message"),
    [
        (cron("* * * *", key="a"), "cron('* * * *', timezone='UTC'): give five fields"),
        (cron("0 * * * * *", key="a"), "give five fields"),
        (cron("@daily", key="a"), "give five fields"),
        (cron("61 * * * *", key="a"), "the minute can't be read"),
        (cron("0 0 * * mo", key="a"), "the day-of-week can't be read"),
        (cron("0 0 30 2 *", key="a"), "the day-of-month can't be read"),
        (cron("0 0 * * *", timezone="Mars/Olympus", key="a"), "there is no time zone 'Mars/Olympus'"),
        (cron("0 0 * * *", timezone="../etc/passwd", key="a"), "there is no time zone"),
        (cron("0 0 * * *", timezone="", key="a"), "there is no time zone ''"),
        (cron(5, key="a"), "give five fields"),  # type: ignore[arg-type]
        (every(0.5, key="a"), "every(0.5): give a second or more"),
        (every(-1, key="a"), "give 0 seconds to 100 years"),
        (every("1h", key="a"), "takes seconds (float) or a timedelta"),  # type: ignore[arg-type]
        (every(60, anchor=datetime(2026, 1, 1), key="a"), "a datetime with an offset"),
        (every(60), "which object is called? Give its key="),
        (every(60, key=""), "the key is empty"),
        (every(60, key="a\n"), "control character"),
        (every(60, key="a", name="x/y"), "'x/y' cannot be a name in a path"),
        (every(60, key="a", args=(1, 2)), "too many positional arguments"),
        (every(60, key="a", args=("one",)), "work: n: "),
        (every(60, key="a", kwargs={"m": 1}), "got an unexpected keyword argument 'm'"),
        (every(60, key="a", jitter=60), "jitter= is 60 s, and two ticks may be 60 s apart"),
        (cron("0,5 9 * * *", key="a", jitter=300), "two ticks may be 300 s apart"),
        (every(60, key="a", overlap="wait"), "overlap='wait': give 'skip', 'allow' or 'cancel'"),  # type: ignore[arg-type]
        (every(60, key="a", catch_up="some"), "catch_up='some': give 'none', 'one' or 'all'"),  # type: ignore[arg-type]
        (every(60, key="a", catch_up="all"), "needs overlap='allow'"),
        (every(60, key="a", catch_up="all", overlap="allow", catch_up_max=0), "from 1 to 10000"),
        ("0 9 * * *", "schedules= takes a list of cron(…) and every(…), got '0 9 * * *'"),
    ],
)
def test_a_schedule_that_could_not_fire_is_refused_with_its_handler_named(schedule: Any, message: str) -> None:
    with pytest.raises(DefinitionError) as refused:
        defined(schedule)

    assert str(refused.value).startswith("test_a_schedule") is False
    assert "Job.work: " in str(refused.value)
    assert message in str(refused.value)
    assert "\n" not in str(refused.value)


def test_two_schedules_need_two_names() -> None:
    with pytest.raises(DefinitionError, match=r"Job\.work: two schedules are named Job/work/a; give one another name="):
        defined(every(60, key="a"), cron("0 * * * *", key="a"))


def test_a_service_has_no_key() -> None:
    with pytest.raises(DefinitionError, match="a Service has no key"):
        defined(every(60, key="a"), base=Service)


def test_a_schedule_stands_in_a_list() -> None:
    alone: Any = every(60, key="a")
    with pytest.raises(DefinitionError, match="give a list of cron"):
        handler(schedules=alone)


def test_a_workflow_runs_once_so_it_has_no_schedule() -> None:
    with pytest.raises(DefinitionError, match=r"Once\.run: a Workflow runs once for each key"):

        class Once(Workflow):
            @handler(schedules=[every(60, key="a")])
            async def run(self) -> None: ...

            @shared
            async def look(self) -> None: ...


def test_a_stream_has_no_schedule() -> None:
    with pytest.raises(DefinitionError, match="a stream has nobody to read it"):

        class Flow(Service):
            @handler(schedules=[every(60)])
            async def items(self) -> AsyncIterator[int]:
                yield 1


def test_nonsense_is_refused_as_such() -> None:
    """Whatever is written there: a line, never an error of the library."""
    random = Random(SEED)
    parts = ["*", "0", "5", "-", "/", ",", "L", "W", "#", "MON", "jan", "?", "²", "60", "31"]
    for _ in range(1_000):
        fields = ["".join(random.choices(parts, k=random.randrange(1, 4))) for _ in range(5)]
        try:
            CronTicks(" ".join(fields), "Europe/Berlin")
        except ValueError:
            continue


def test_a_schedule_is_plain_data() -> None:
    assert every(60, key="a") == every(60, key="a")
    assert isinstance(cron("* * * * *"), Schedule)


@pytest.mark.parametrize(
    ("interval", "shown"), [(timedelta(hours=1), "every(3600)"), (1.5, "every(1.5)"), (60, "every(60)")]
)
def test_a_schedule_is_shown_in_seconds(interval: float | timedelta, shown: str) -> None:
    assert str(every(interval, key="a").timing) == shown
