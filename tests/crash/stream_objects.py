"""A stream of many items: a step that yields, passed on, in portions that wait for a signal."""

from collections.abc import AsyncIterator

from perdure.objects import VirtualObject, current_step, handler, shared

PORTION = 2_000


async def numbers(begin: int, end: int) -> AsyncIterator[int]:
    for number in range(begin + len(current_step().recorded), end):
        yield number


class Numbers(VirtualObject):
    told: int = 0

    @handler
    async def tell(self, until: int) -> AsyncIterator[int]:
        for begin in range(0, until, PORTION):
            async for number in self.ctx.stream(numbers, begin, begin + PORTION):
                self.told += 1
                yield number
            await self.ctx.signal("go on", bool)

    @shared
    async def total(self) -> int:
        return self.told
