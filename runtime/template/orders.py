"""Orders that are paid once, whatever crashes, and that are taken back if nobody pays in time.

perdure serve orders.py
perdure call Order/o1/place '{"item": "lamp", "cents": 4900}'
perdure call Order/o1/pay '"4242"'
perdure call Order/o1/look
"""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated, Literal

from msgspec import Meta, Struct

from perdure.objects import TerminalError, VirtualObject, current_step, handler, shared, step

TIME_TO_PAY = timedelta(days=1)


class Placed(Struct, frozen=True):
    item: str
    cents: Annotated[int, Meta(gt=0)]


class NotOpen(TerminalError):
    status = 409


@step(timeout=10)
async def charge(card: str, cents: int) -> str:
    """What reaches the outside is a step: once its result is recorded, no crash repeats it.

    A crash may come between the charge and the record of it; the key lets whoever charges know the repetition.
    """
    return f"receipt {current_step().key} of {cents} from {card[-4:]}"


class Order(VirtualObject):
    """Its key is the order's number.  One handler at a time works on it; its fields are stored."""

    placed: Placed | None = None
    status: Literal["new", "open", "paid", "taken back"] = "new"
    receipt: str = ""

    @handler
    async def place(self, item: str, cents: int) -> None:
        if self.status != "new":
            raise NotOpen(f"order {self.key} was placed before")
        self.placed = Placed(item, cents)
        self.status = "open"
        self.give_up.send_after(TIME_TO_PAY)  # not asyncio.sleep: a handler that sleeps keeps everybody else waiting

    @handler
    async def pay(self, card: str) -> str:
        if self.status != "open" or self.placed is None:
            raise NotOpen(f"order {self.key} is {self.status}")
        self.receipt = await self.ctx.run(charge, card, self.placed.cents)
        self.status = "paid"
        return self.receipt

    @handler(public=False)
    async def give_up(self) -> None:
        """A message to itself, which arrives later, also if the process was down meanwhile."""
        if self.status == "open":
            self.status = "taken back"

    @shared
    async def look(self) -> str:
        return self.status
