"""What is served for the benchmark of the store, beside the examples."""

import asyncio

from perdure.objects import VirtualObject, handler, shared


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
