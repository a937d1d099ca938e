"""What is served for the benchmark of the store, beside the examples."""

import asyncio

from perdure.objects import List, Map, VirtualObject, handler, shared


class Waiter(VirtualObject):
    awakeable: str = ""
    woken: int = 0

    @handler
    async def wait(self) -> None:
        given = self.ctx.awakeable(int)
        self.awakeable = given.id
        await given
        self.woken += 1

    @handler
    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)
        self.woken += 1

    @shared
    async def look(self) -> tuple[str, int]:
        return self.awakeable, self.woken


class Shelf(VirtualObject):
    lines: List[str]
    names: Map[str, int]

    @handler
    async def fill(self, until: int) -> int:
        """A turn's worth of entries, up to so many."""
        for number in range(len(self.lines), min(until, len(self.lines) + 5_000)):
            self.lines.append(f"line {number}")
            self.names[f"name {number}"] = number
        return len(self.lines)

    @handler
    async def append(self) -> int:
        self.lines.append("one more")
        return len(self.lines)

    @handler
    async def put(self, name: str) -> int:
        self.names[name] = self.names[name] + 1
        return self.names[name]

    @shared
    async def get(self, name: str) -> int:
        return self.names[name]
