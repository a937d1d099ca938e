"""What `perdure serve` serves for the benchmark, beside the examples."""

from collections.abc import AsyncIterator

from perdure.objects import VirtualObject, handler


class Callee(VirtualObject):
    calls: int = 0

    @handler
    async def touch(self, amount: int) -> int:
        self.calls += amount
        return self.calls


class Caller(VirtualObject):
    """Calls the callee of the same key, one call after the other."""

    @handler
    async def call(self, times: int) -> int:
        callee = self.ctx.ref(Callee, self.key)
        last = 0
        for _ in range(times):
            last = await callee.touch(1)
        return last


async def work(number: int) -> int:
    return number + 1


class Stream(VirtualObject):
    @handler
    async def count(self, until: int) -> AsyncIterator[int]:
        for number in range(until):
            yield number


class Steps(VirtualObject):
    """Ten steps, one after the other: each is recorded and synced before the next one starts."""

    @handler
    async def ten(self, number: int) -> int:
        for _ in range(10):
            number = await self.ctx.run(work, number)
        return number
