"""A shop's day: sales as they come, a report each morning in the shop's own time, and a look at the stock each hour.

    perdure serve examples/reports.py
    curl localhost:8080/Shop/berlin/sell --json '{"article": "tea", "euros": 4}'
    curl localhost:8080/Shop/berlin/sell --json '{"article": "cake", "euros": 3}'
    curl localhost:9070/schedules
    curl localhost:9070/schedules/Shop/report/berlin/trigger -X PATCH
    curl localhost:8080/Shop/berlin/reports
    curl localhost:9070/schedules/Stock/look/pause -X PATCH

Kill the process over night and start it at noon: the report of the morning is made then, once.  The looks at the stock
that were missed are not made up for: what the stock was, nobody needs to know any more.
"""

from datetime import timedelta

from msgspec import Struct

from perdure.objects import Service, VirtualObject, cron, current_step, every, handler, shared


class Report(Struct, frozen=True):
    until: str
    sold: int
    euros: int


class Shop(VirtualObject):
    """One shop."""

    sold: list[int]
    made: list[Report]

    @handler
    async def sell(self, article: str, euros: int) -> int:
        self.sold.append(euros)
        return sum(self.sold)

    @handler(
        public=False,
        schedules=[
            cron("0 8 * * MON-SAT", timezone="Europe/Berlin", key="berlin"),
            cron("0 8 * * MON-SAT", timezone="America/New_York", key="new york"),
        ],
    )
    async def report(self) -> None:
        """One turn: the sales are counted in this report or in the next one, and in no two."""
        until = self.ctx.invocation.headers["x-perdure-tick"]  # eight o'clock, however late it is by now
        self.made.append(Report(until, len(self.sold), sum(self.sold)))
        self.sold.clear()

    @shared
    async def reports(self) -> list[Report]:
        return self.made


class Stock(Service):
    @handler(schedules=[every(timedelta(hours=1), jitter=300, catch_up="none")])
    async def look(self) -> int:
        return await self.ctx.run(count_stock)


# --- the outside world: a stub ----------------------------------------------------------------------------------------

LOOKS: list[int] = []


async def count_stock() -> int:
    LOOKS.append(100 - len(LOOKS))
    current_step().log.info("stock counted", left=LOOKS[-1])
    return LOOKS[-1]
