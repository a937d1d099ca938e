"""reports.py: a report each morning in the shop's own time, whatever happened in the night."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from perdure.journal import MemoryJournal
from perdure.runtime import ManualClock, Runtime

DAY = timedelta(days=1)


@pytest.fixture
def reports(load: Callable[[str], Any]) -> Any:
    return load("reports")


def clock_at(moment: datetime) -> ManualClock:
    return ManualClock(round(moment.timestamp() * 1e6))


async def test_the_curl_lines(story: Callable[[str], Any]) -> None:
    """As the docstring says: sold, looked at, reported by hand, and a schedule paused."""
    lines = story("reports")
    await lines.start()

    assert (await lines.next(), await lines.next()) == ((200, 4), (200, 7))
    schedules = (await lines.next())[1]["schedules"]
    assert [one["id"] for one in schedules] == ["Shop/report/berlin", "Shop/report/new york", "Stock/look"]
    status, made = await lines.next()
    assert (status, list(made)) == (200, ["invocation_id"])
    found = (await lines.next())[1]
    while not found:
        found = await lines.again()
    assert (found[0]["sold"], found[0]["euros"]) == (2, 7)
    assert await lines.next() == (200, None)


async def test_each_shop_has_its_own_morning(reports: Any) -> None:
    """Over the night of Sunday, in which Berlin's clocks go ahead; there is none on Sunday."""
    clock = clock_at(datetime(2026, 3, 27, 12, tzinfo=UTC))
    async with Runtime([reports.Shop, reports.Stock], data_dir=None, clock=clock) as runtime:
        berlin, york = runtime.ref(reports.Shop, "berlin"), runtime.ref(reports.Shop, "new york")
        await berlin.sell("tea", 4)
        await runtime.advance(DAY)
        await berlin.sell("cake", 3)
        await runtime.advance(3 * DAY)

        assert [(one.until, one.euros) for one in await berlin.reports()] == [
            ("2026-03-28T07:00:00Z", 4),
            ("2026-03-30T06:00:00Z", 3),
            ("2026-03-31T06:00:00Z", 0),
        ]
        assert [one.until for one in await york.reports()] == [
            "2026-03-28T12:00:00Z",
            "2026-03-30T12:00:00Z",
            "2026-03-31T12:00:00Z",
        ]


async def test_a_night_without_a_process(reports: Any) -> None:
    """The report of the morning is made at noon, for eight o'clock; nobody looks at the stock of the night."""
    clock, journal = clock_at(datetime(2026, 5, 5, 20, 15, tzinfo=UTC)), MemoryJournal()
    classes = [reports.Shop, reports.Stock]
    async with Runtime(classes, data_dir=None, clock=clock, journal=journal) as runtime:
        await runtime.ref(reports.Shop, "berlin").sell("tea", 4)
        await runtime.advance(timedelta(hours=1))
    assert len(reports.LOOKS) == 1

    clock = clock_at(datetime(2026, 5, 6, 10, 30, tzinfo=UTC))
    async with Runtime(classes, data_dir=None, clock=clock, journal=MemoryJournal(journal.records)) as runtime:
        await runtime.advance(0)
        (report,) = await runtime.ref(reports.Shop, "berlin").reports()
        assert (report.until, report.euros) == ("2026-05-06T06:00:00Z", 4)
        assert len(reports.LOOKS) == 1
        await runtime.advance(timedelta(hours=1))
        assert len(reports.LOOKS) == 2
