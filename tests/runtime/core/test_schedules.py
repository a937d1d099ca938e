"""Schedules: each tick is one call, however often the process dies and whatever its clock does."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import UTC, date, datetime, time, timedelta
from random import Random
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo

import pytest
from structlog.typing import EventDict

from perdure.journal import MemoryJournal
from perdure.objects import Context, List, Schedule, Service, VirtualObject, cron, every, handler, shared
from perdure.objects.definitions import definition_of
from perdure.objects.ticks import microseconds_of, moment_of, ticks_after
from perdure.runtime.admission import Refused
from perdure.runtime.records import Invoked, Planned, Ticked, Unplanned
from perdure.runtime.schedule_operations import ScheduleView
from perdure.runtime.schedules import TICK_HEADER
from tests.runtime.kept_journal import KeptJournal

if TYPE_CHECKING:
    from tests.runtime.core.conftest import World

    Worlds = Callable[..., World]

SEED = 20_261_123
MINUTE, HOUR, DAY = 60.0, 3_600.0, 86_400.0
BERLIN, NEW_YORK = "Europe/Berlin", "America/New_York"
DAYS = 1_000
ALL: dict[str, Any] = {"overlap": "allow", "catch_up": "all", "catch_up_max": 10_000}


KEYS = ("berlin", "york", "nj", "steady")


class Clerk(VirtualObject):
    """Writes down its ticks in its state, so what a crash takes away is gone there too."""

    heard: List[str]

    @handler(
        schedules=[
            cron("30 2 * * *", timezone=BERLIN, key="berlin", **ALL),
            cron("30 1 * * *", timezone=NEW_YORK, key="york", jitter=600, **ALL),
            cron("15 2 * * *", timezone=NEW_YORK, key="nj", **ALL),
            every(timedelta(hours=17), key="steady", **ALL),
        ]
    )
    async def note(self) -> None:
        self.heard.append(self.ctx.invocation.headers[TICK_HEADER])

    @shared
    async def all(self) -> list[str]:
        return [*self.heard]


def clerk(*schedules: Schedule) -> type:
    """A class `Job` with these schedules: made anew for each start of a story in which the code changes."""

    class Job(VirtualObject):
        heard: list[str]

        @handler(schedules=schedules)
        async def note(self) -> None:
            self.heard.append(self.ctx.invocation.headers[TICK_HEADER][:16])

    return Job


def heard(world: World, key: str = "a") -> list[str]:
    found: list[str] = world.state("Job", key).get("heard", [])
    return found


def ticked(world: World) -> list[Ticked]:
    return [record for record in world.recorded() if isinstance(record, Ticked)]


def view(world: World, id: str = "Job/note/a") -> ScheduleView:
    return world.engine.schedules.describe(id)


def at(text: str) -> int:
    return microseconds_of(datetime.fromisoformat(text))


async def down_for(world: World, seconds: float, *classes: type) -> None:
    """No process for so long; what was recorded before is synced."""
    await world.settle()
    await world.crash()
    world.sleep_while_down(seconds)
    if classes:
        world.classes = classes
    await world.start()
    await world.settle()


def set_back(world: World, seconds: float) -> None:
    world.clock._now_us -= round(seconds * 1e6)  # pyright: ignore[reportPrivateUsage]


def put_ahead(world: World, seconds: float) -> None:
    """At once: nothing rings on the way."""
    set_back(world, -seconds)


# --- once per tick ----------------------------------------------------------------------------------------------------


def daily(zone_name: str, hour: int, minute: int, begin: int, end: int) -> list[str]:
    """By the calendar: a local time each day, the first after the gap if there is none such."""
    zone, found = ZoneInfo(zone_name), list[str]()
    for days in range(-1, DAYS + 2):
        moment = datetime.combine(date(2026, 1, 1) + timedelta(days=days), time(hour, minute), zone)
        if moment.astimezone(UTC).astimezone(zone) != moment:
            moment = moment.replace(hour=3, minute=0)
        if begin < microseconds_of(moment) <= end:
            found.append(moment_of(microseconds_of(moment)).isoformat().replace("+00:00", "Z"))
    return found


async def test_each_tick_of_a_thousand_days_is_one_call(worlds: Worlds, logged: list[EventDict]) -> None:
    """With a crash in every week or so that may lose the newest records, hours of downtime, and clocks set back and
    ahead; through the changes of summer time of three years in two zones."""
    random = Random(SEED)
    world = await worlds(Clerk).start()
    begin = world.clock.now_us()
    end = begin + DAYS * 86_400_000_000

    crashes = jumps = lost = 0
    while world.clock.now_us() < end:
        await world.advance(min(random.expovariate(1 / (6 * DAY)), (end - world.clock.now_us()) / 1e6 + 1))
        if random.random() < 0.2:
            jumps += 1
            set_back(world, random.uniform(0, 3 * HOUR))
            await world.advance(random.uniform(0, 2 * HOUR))
        if random.random() < 0.1:
            jumps += 1
            put_ahead(world, random.uniform(0, 2 * DAY))
        keep = max(4, len(world.journal.records) - random.choice((0, 0, 1, 2, 3, 5)))
        lost += len(world.journal.records) - keep
        await world.crash(keep)
        world.sleep_while_down(random.choice((0, 0, 60, 5 * HOUR, random.uniform(0, 40 * HOUR))))
        await world.start()
        crashes += 1
    await world.advance(DAY)

    end = world.clock.now_us()
    times = {key: await world.call(f"Clerk/{key}/all") for key in KEYS}
    made = ticks_after(definition_of(Clerk).schedules["Clerk/note/steady"].ticks, begin)
    steady = [moment_of(tick) for tick, _ in zip(made, range(3_000), strict=False) if tick <= end]
    assert (crashes > 100, jumps > 20, lost > 100) == (True, True, True), (crashes, jumps, lost)
    assert times["berlin"] == daily(BERLIN, 2, 30, begin, end)
    assert times["york"] == daily(NEW_YORK, 1, 30, begin, end)
    assert times["nj"] == daily(NEW_YORK, 2, 15, begin, end)
    assert times["steady"] == [moment.isoformat().replace("+00:00", "Z") for moment in steady]
    assert {"2026-03-29T01:00:00Z", "2026-10-25T00:30:00Z", "2028-03-26T01:00:00Z"} <= {*times["berlin"]}
    assert {"2026-11-01T05:30:00Z", "2027-11-07T05:30:00Z"} <= {*times["york"]}
    assert {"2026-03-08T07:00:00Z", "2027-03-14T07:00:00Z", "2028-03-12T07:00:00Z"} <= {*times["nj"]}


async def test_a_crash_after_any_record_fires_no_tick_twice_and_loses_none(worlds: Worlds) -> None:
    story = await worlds(Clerk).start()
    await story.advance(3 * DAY)
    records, now = [*story.journal.records], story.clock.now_us()
    expected = {key: await story.call(f"Clerk/{key}/all") for key in KEYS}

    for keep in range(4, len(records)):  # the first four say that the schedules are new
        world = worlds(Clerk, journal=KeptJournal(records[:keep]))
        world.random = Random(f"{SEED} {keep}")
        world.sleep_while_down((now - world.clock.now_us()) / 1e6)
        await world.start()
        await world.settle()

        assert {key: await world.call(f"Clerk/{key}/all") for key in expected} == expected, keep
        await world.engine.close()


async def test_what_is_remembered_of_a_schedule_is_in_the_records(worlds: Worlds) -> None:
    world = await worlds(clerk(every(HOUR, key="a"), every(2 * HOUR, key="b"))).start()
    await world.advance(5 * HOUR)
    await world.engine.schedules.pause("Job/note/b")
    await world.advance(5 * HOUR)

    assert world.dump() == world.rebuilt_dump()
    assert [type(one) for one in world.recorded()[:2]] == [Planned, Planned]


async def test_a_tick_and_its_call_are_one_record(worlds: Worlds) -> None:
    world = await worlds(clerk(every(HOUR, key="a"))).start()
    await world.advance(2 * HOUR)

    assert not any(isinstance(record, Invoked) for record in world.recorded())
    assert [one.invoked.id for one in ticked(world) if one.invoked] == [
        one.id for one in world.invocations("Job/a/note")
    ]


async def test_classes_without_schedules_record_nothing(worlds: Worlds) -> None:
    world = await worlds(clerk()).start()
    await world.advance(DAY)

    assert world.journal.records == []


# --- clocks -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("restarted", [False, True])
async def test_a_clock_set_back_fires_nothing_twice(worlds: Worlds, restarted: bool) -> None:
    world = await worlds(clerk(every(HOUR, key="a"))).start()
    await world.advance(3 * HOUR + 1)

    set_back(world, 2.5 * HOUR)
    if restarted:
        await world.restart()
    await world.advance(3 * HOUR)

    assert heard(world) == [f"2026-01-01T0{hour}:00" for hour in (1, 2, 3)]
    await world.advance(HOUR)
    assert heard(world)[3:] == ["2026-01-01T04:00"]


async def test_a_clock_put_ahead_is_a_downtime(worlds: Worlds) -> None:
    world = await worlds(clerk(every(HOUR, key="a"))).start()
    await world.advance(HOUR)

    put_ahead(world, 10.5 * HOUR)
    await world.advance(HOUR)

    assert heard(world) == ["2026-01-01T01:00", "2026-01-01T11:00", "2026-01-01T12:00"]


async def test_a_schedule_of_the_future_says_that_it_waits(worlds: Worlds, logged: list[EventDict]) -> None:
    """After a clock that was years ahead when it was planned."""
    world = worlds(clerk(every(HOUR, key="a")))
    put_ahead(world, 365 * DAY)
    await world.start()
    await world.settle()
    set_back(world, 365 * DAY)
    await world.restart()

    (said,) = [event for event in logged if event["event"].startswith("a schedule waits")]
    assert (said["schedule"], said["until"]) == ("Job/note/a", "2027-01-01T00:00:00Z")


# --- what was missed --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("catch_up", "made_up_for"),
    [("none", []), ("one", ["05T09:00"]), ("all", ["03T09:00", "04T09:00", "05T09:00"])],
)
async def test_what_was_missed_is_made_up_for_as_the_schedule_says(
    worlds: Worlds, logged: list[EventDict], catch_up: Any, made_up_for: list[str]
) -> None:
    """Four days are missed; of "all" here at most three."""
    schedule = cron("0 9 * * *", key="a", catch_up=catch_up, overlap="allow", catch_up_max=3)
    world = await worlds(clerk(schedule)).start()
    await world.advance(10 * HOUR)

    await down_for(world, 4 * DAY)
    assert heard(world) == ["2026-01-01T09:00", *(f"2026-01-{day}" for day in made_up_for)]

    await world.restart()
    await world.advance(DAY)
    assert heard(world)[1 + len(made_up_for) :] == ["2026-01-06T09:00"]
    (said,) = [event for event in logged if event["event"] == "ticks of a schedule were missed"]
    assert (said["since"], said["made_up_for"]) == ("2026-01-02T09:00:00Z", len(made_up_for))


async def test_a_tick_less_than_a_minute_ago_was_not_missed(worlds: Worlds) -> None:
    """A restart takes its seconds."""
    job = clerk(cron("0 9 * * *", key="a", catch_up="none"))
    world = await worlds(job).start()
    await world.advance(9 * HOUR - 5)
    await down_for(world, 65)
    assert heard(world) == ["2026-01-01T09:00"]

    await world.advance(DAY - 65)
    await down_for(world, 66)
    assert heard(world) == ["2026-01-01T09:00"]


async def test_years_of_seconds_are_made_up_for_at_once(worlds: Worlds) -> None:
    """Nobody goes through each of them."""
    world = await worlds(clerk(every(1, key="a"), cron("* * * * *", key="b"))).start()
    await down_for(world, 3 * 365 * DAY + 0.5)

    assert (heard(world), heard(world, "b")) == (["2028-12-31T00:00"], ["2028-12-31T00:00"])


# --- jitter -----------------------------------------------------------------------------------------------------------


async def test_jitter_delays_within_its_bounds_and_always_alike(worlds: Worlds) -> None:
    fired: list[list[int]] = []
    for restarts in (False, True):
        world = await worlds(clerk(every(HOUR, key="a", jitter=MINUTE * 10))).start()
        for _ in range(48):
            await world.advance(0.77 * HOUR)
            if restarts:
                await world.restart()
        fired.append([one.at - (one.tick or 0) for one in ticked(world)])

    assert fired[0] == fired[1]
    assert len(fired[0]) > 30
    assert all(0 <= delay < 600_000_000 for delay in fired[0])
    assert max(fired[0]) - min(fired[0]) > 400_000_000


async def test_a_new_jitter_changes_no_tick(worlds: Worlds) -> None:
    """Nothing is planned anew, so nothing that was missed during the deploy is forgotten."""
    world = await worlds(clerk(every(HOUR, key="a"))).start()
    await down_for(world, 2.5 * HOUR, clerk(every(HOUR, key="a", jitter=60)))

    assert heard(world) == ["2026-01-01T02:00"]


# --- overlaps ---------------------------------------------------------------------------------------------------------

EVENTS: list[str] = []


@pytest.fixture(autouse=True)
def nothing_happened() -> None:
    EVENTS.clear()


async def take_a_while(ctx: Context) -> None:
    minute = ctx.invocation.headers[TICK_HEADER][14:16]
    EVENTS.append(f"begin {minute}")
    try:
        await ctx.sleep(100)
        EVENTS.append(f"end {minute}")
    except asyncio.CancelledError:
        EVENTS.append(f"cancelled {minute}")
        raise


def slow(overlap: Any, base: type = Service) -> type:
    """A call takes 100 s, and is made each minute."""

    class OfAService(Service, name="Slow"):
        @handler(schedules=[every(MINUTE, name="s", overlap=overlap)])
        async def work(self) -> None:
            await take_a_while(self.ctx)

    class OfAnObject(VirtualObject, name="Slow"):
        @handler(schedules=[every(MINUTE, name="s", key="a", overlap=overlap)])
        async def work(self) -> None:
            await take_a_while(self.ctx)

    return OfAService if base is Service else OfAnObject


@pytest.mark.parametrize(
    ("overlap", "base", "expected"),
    [
        ("skip", Service, ["begin 01", "end 01", "begin 03", "end 03"]),
        ("allow", Service, ["begin 01", "begin 02", "end 01", "begin 03", "end 02", "end 03"]),
        ("allow", VirtualObject, ["begin 01", "end 01", "begin 02", "end 02", "begin 03"]),
        ("cancel", Service, ["begin 01", "cancelled 01", "begin 02", "cancelled 02", "begin 03", "cancelled 03"]),
        ("cancel", VirtualObject, ["begin 01", "cancelled 01", "begin 02", "cancelled 02", "begin 03", "cancelled 03"]),
    ],
)
async def test_a_tick_while_the_last_call_runs(worlds: Worlds, overlap: Any, base: type, expected: list[str]) -> None:
    world = await worlds(slow(overlap, base)).start()
    await world.advance(4 * MINUTE + 50)

    happened = [event for event in dict.fromkeys(EVENTS) if not event.endswith("04")]  # a replay begins again
    assert happened == expected or (overlap == "cancel" and sorted(happened) == sorted(expected))
    assert view(world, "Slow/work/s").last_skipped_at == (at("2026-01-01T00:04:00Z") if overlap == "skip" else None)


async def test_what_runs_is_known_after_a_crash(worlds: Worlds) -> None:
    world = await worlds(slow("skip")).start()
    await world.advance(90)
    await world.restart()
    await world.advance(40)

    assert [one.invoked is None for one in ticked(world)] == [False, True]
    assert view(world, "Slow/work/s").running
    await world.advance(30)
    assert EVENTS[-1] == "end 01"
    assert not view(world, "Slow/work/s").running


async def test_a_full_mailbox_skips_a_tick(worlds: Worlds, logged: list[EventDict]) -> None:
    world = await worlds(slow("allow", VirtualObject), mailbox_per_key_max=1).start()
    await world.advance(3 * MINUTE + 30)

    assert [one.invoked is None for one in ticked(world)] == [False, False, False]
    await world.advance(MINUTE)
    assert [one.invoked is None for one in ticked(world)] == [False, False, False, True]
    assert [event["why"] for event in logged if event["event"].startswith("a tick is skipped")] == [
        "1 invocations wait for this key, which is the limit"
    ]


async def test_a_full_journal_delays_a_tick(worlds: Worlds) -> None:
    journal = KeptJournal(capacity_bytes=1_400_000)
    world = await worlds(clerk(every(HOUR, key="a")), journal=journal).start()
    journal._capacity_bytes = 1_000  # pyright: ignore[reportPrivateUsage]
    await world.advance(2.5 * HOUR)
    assert (heard(world), view(world).next_at) == ([], at("2026-01-01T01:00:00Z"))

    journal._capacity_bytes = None  # pyright: ignore[reportPrivateUsage]
    await world.advance(1)
    assert heard(world) == ["2026-01-01T02:00"]


async def test_a_start_without_room_plans_later(worlds: Worlds) -> None:
    journal = KeptJournal(capacity_bytes=10)
    world = await worlds(clerk(every(HOUR, key="a")), journal=journal).start()
    with pytest.raises(Refused, match="disk is full"):
        world.engine.schedules.trigger("Job/note/a")
    journal._capacity_bytes = None  # pyright: ignore[reportPrivateUsage]
    await world.advance(HOUR)

    assert heard(world) == ["2026-01-01T01:00"]


# --- what operators do ------------------------------------------------------------------------------------------------


async def test_a_paused_schedule_stays_so_over_a_restart(worlds: Worlds) -> None:
    """And what was due meanwhile is not made up for."""
    world = await worlds(clerk(every(HOUR, key="a"))).start()
    await world.advance(HOUR)
    await world.engine.schedules.pause("Job/note/a")
    assert (view(world).paused, view(world).next_at) == (True, None)

    await down_for(world, 2 * HOUR)
    await world.advance(HOUR)
    assert heard(world) == ["2026-01-01T01:00"]

    await world.engine.schedules.resume("Job/note/a")
    await world.restart()
    await world.advance(HOUR)
    assert heard(world) == ["2026-01-01T01:00", "2026-01-01T05:00"]


async def test_a_trigger_is_a_call_now(worlds: Worlds) -> None:
    """Paused or not, and the next tick stays what it is."""
    world = await worlds(clerk(every(HOUR, key="a"))).start()
    await world.advance(0.25 * HOUR)
    await world.engine.schedules.pause("Job/note/a")
    id, durable = world.engine.schedules.trigger("Job/note/a")
    await world.settle()
    await durable
    assert world.invocation(id).target == "Job/a/note"
    await world.engine.schedules.resume("Job/note/a")
    await world.restart()
    await world.advance(HOUR)

    assert heard(world) == ["2026-01-01T00:15", "2026-01-01T01:00"]


async def test_a_trigger_overlaps_no_more_than_a_tick(worlds: Worlds) -> None:
    world = await worlds(slow("skip")).start()
    await world.advance(MINUTE)
    with pytest.raises(Refused, match="has not ended, and overlap='skip'") as refused:
        world.engine.schedules.trigger("Slow/work/s")
    assert refused.value.status == 409

    await world.restart(classes=[slow("cancel")])
    world.engine.schedules.trigger("Slow/work/s")
    await world.settle()
    assert sorted(EVENTS) == ["begin 01", "begin 01", "begin 01", "cancelled 01"]  # one of them the replay


async def test_a_schedule_as_operators_see_it(worlds: Worlds) -> None:
    world = await worlds(clerk(cron("0 9 * * *", timezone=BERLIN, key="a", jitter=60))).start()
    await world.advance(DAY)

    (seen,) = world.engine.schedules.list()
    tick = at("2026-01-01T08:00:00Z")
    assert (seen.id, seen.target, seen.timing) == (
        "Job/note/a",
        "Job/a/note",
        "cron('0 9 * * *', timezone='Europe/Berlin')",
    )
    assert (seen.overlap, seen.catch_up, seen.jitter_seconds, seen.paused) == ("skip", "one", 60, False)
    assert 0 <= (seen.last_fired_at or 0) - tick < 60_000_000
    assert 0 <= (seen.next_at or 0) - tick - 86_400_000_000 < 60_000_000
    assert world.invocation(seen.last_invocation or "").ended
    assert not seen.running


@pytest.mark.parametrize("id", ["Job/note/b", "Job", "", "Nowhere/x", "\ud800"])
async def test_an_unknown_schedule(worlds: Worlds, id: str) -> None:
    world = await worlds(clerk(every(HOUR, key="a"))).start()
    schedules = world.engine.schedules

    for ask in (schedules.describe, schedules.pause, schedules.resume, schedules.trigger):
        with pytest.raises(Refused, match="no schedule") as refused:
            ask(id)
        assert refused.value.status == 404


# --- the code changes -------------------------------------------------------------------------------------------------


async def test_another_expression_is_planned_from_now_on(worlds: Worlds) -> None:
    """It keeps what is known of it: what runs, and that it is paused."""
    world = await worlds(clerk(cron("0 9 * * *", key="a"))).start()
    await world.advance(10 * HOUR)
    last = view(world).last_invocation

    await down_for(world, 3 * DAY, clerk(cron("0 9 * * *", timezone=NEW_YORK, key="a")))
    assert (view(world).next_at, view(world).last_invocation) == (at("2026-01-04T14:00:00Z"), last)
    await world.engine.schedules.pause("Job/note/a")
    await down_for(world, DAY, clerk(every(HOUR, key="a")))
    assert view(world).paused
    await world.engine.schedules.resume("Job/note/a")
    await world.advance(HOUR)

    assert heard(world) == ["2026-01-01T09:00", "2026-01-05T11:00"]


async def test_the_same_expression_written_otherwise_is_the_same(worlds: Worlds) -> None:
    world = await worlds(clerk(cron("0  9 * * *", key="a"))).start()
    await down_for(world, DAY, clerk(cron("0 9 * * *", key="a", overlap="allow")))

    assert heard(world) == ["2026-01-01T09:00"]
    assert sum(isinstance(record, Planned) for record in world.recorded()) == 1


async def test_a_schedule_that_its_class_has_no_more_is_forgotten(worlds: Worlds) -> None:
    world = await worlds(clerk(every(HOUR, key="a"), every(HOUR, key="b"))).start()
    await world.engine.schedules.pause("Job/note/a")
    await world.restart(classes=[clerk(every(HOUR, key="b"))])
    await world.advance(HOUR)
    assert [one.id for one in world.engine.schedules.list()] == ["Job/note/b"]
    await world.restart()
    assert sum(isinstance(record, Unplanned) for record in world.recorded()) == 1

    await world.restart(classes=[clerk(every(HOUR, key="a"))])
    await world.advance(HOUR)
    assert (heard(world), heard(world, "b")) == (["2026-01-01T02:00"], ["2026-01-01T01:00"])


async def test_those_of_a_class_that_is_not_served_wait_for_it(worlds: Worlds) -> None:
    """It was a downtime for them."""
    job = clerk(every(HOUR, key="a"), every(HOUR, key="b"))
    world = await worlds(job).start()
    await world.engine.schedules.pause("Job/note/b")
    await world.advance(HOUR)
    await world.restart(classes=[Clerk])
    await world.advance(3 * HOUR)
    unserved = view(world)
    assert (unserved.served, unserved.next_at, view(world, "Job/note/b").paused) == (False, None, True)
    with pytest.raises(Refused, match="is not served by this process"):
        world.engine.schedules.resume("Job/note/b")

    await world.restart(classes=[job])
    await world.settle()
    assert (heard(world), heard(world, "b")) == (["2026-01-01T01:00", "2026-01-01T04:00"], [])


async def test_nothing_fires_while_the_process_stops(worlds: Worlds) -> None:
    world = await worlds(clerk(every(HOUR, key="a"))).start()
    await world.engine.drain(0)
    await world.advance(2 * HOUR)

    assert ticked(world) == []
    with pytest.raises(Refused, match="stopping"):
        world.engine.schedules.trigger("Job/note/a")


async def test_the_store_alone_remembers(worlds: Worlds) -> None:
    """After a checkpoint the records may be gone."""
    world = await worlds(clerk(every(HOUR, key="a"))).start()
    await world.engine.schedules.pause("Job/note/a")
    await world.engine.close()
    if world.store is not None:
        world.journal = MemoryJournal(first_lsn=world.store.lsn + 1)
    else:
        world.journal = KeptJournal(world.journal.records)
    await world.start()

    assert view(world).paused


async def test_a_tick_whose_jitter_is_not_over_outlives_a_pause(worlds: Worlds) -> None:
    """Resumed before it was to fire, it fires then."""
    job = clerk(every(HOUR, name="hourly", key="a", jitter=3_000))
    world = await worlds(job).start()
    at, before = None, 0
    while at is None:
        await world.advance(60)
        at = world.engine.schedules.describe("Job/note/hourly").next_at
        before = at - at % 3_600_000_000 if at else 0
        if at is None or not before < world.clock.now_us() < at:
            at = None

    await world.engine.schedules.pause("Job/note/hourly")
    await world.engine.schedules.resume("Job/note/hourly")

    assert world.engine.schedules.describe("Job/note/hourly").next_at == at
    so_far = len(heard(world))
    await world.advance((at - world.clock.now_us()) / 1e6 + 1)
    assert len(heard(world)) == so_far + 1
