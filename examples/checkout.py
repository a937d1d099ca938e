"""An order: reserve, charge, ship.  What was done is undone when a later part is refused or the order is cancelled.

    perdure serve examples/checkout.py
    curl localhost:8080/Stock/lamp/restock --json 5
    curl localhost:8080/Checkout/o1/run \
        --json '{"items": [{"sku": "lamp", "count": 2, "cents": 4900}], "card": "4242", "address": "Main Street 1"}'
    curl localhost:8080/Stock/lamp/left
    curl localhost:8080/Checkout/o2/run/send \
        --json '{"items": [{"sku": "lamp", "count": 1, "cents": 4900}], "card": "4242", "address": "Main Street 1",
                 "may_change_mind_for": "PT1H"}'
    curl localhost:8080/Checkout/o2/change_mind
    curl localhost:8080/Checkout/o2/status
    curl localhost:8080/Stock/lamp/left

Order o2 waits for an hour before it is shipped, and is taken back: its lamp is in stock again, its charge is void.
A card "declined" and the address "moon" are refused, and undone likewise.
"""

import asyncio
from datetime import timedelta
from typing import Annotated, Literal

from msgspec import Meta, Struct

from perdure.objects import (
    RetryPolicy,
    TerminalError,
    VirtualObject,
    Workflow,
    handler,
    shared,
    step,
)

Count = Annotated[int, Meta(gt=0)]
Stage = Literal["new", "reserved", "charged", "shipped", "refused", "taken back"]


class Item(Struct, frozen=True):
    sku: str
    count: Count
    cents: Count


class Order(Struct, frozen=True):
    items: Annotated[list[Item], Meta(min_length=1)]
    card: str
    address: str
    may_change_mind_for: timedelta = timedelta()


class OutOfStock(TerminalError):
    status = 409


class CardDeclined(TerminalError):
    status = 402


class NobodyDelivers(TerminalError):
    status = 422


class Stock(VirtualObject):
    """What lies on one shelf, and for whom."""

    available: int = 0
    reserved: dict[str, int]

    @handler
    async def restock(self, count: Count) -> int:
        self.available += count
        return self.available

    @handler
    async def reserve(self, order: str, count: Count) -> None:
        if count > self.available:
            raise OutOfStock(f"only {self.available} of {self.key} left")
        self.available -= count
        self.reserved[order] = self.reserved.get(order, 0) + count

    @handler
    async def release(self, order: str) -> None:
        """May be asked although nothing was reserved: an undo is registered before what it undoes."""
        self.available += self.reserved.pop(order, 0)

    @handler
    async def hand_over(self, order: str) -> None:
        self.reserved.pop(order, None)

    @shared
    async def left(self) -> int:
        return self.available


class Checkout(Workflow):
    """One order; its key is the order's number."""

    stage: Stage = "new"
    invocation: str = ""

    @handler
    async def run(self, order: Order) -> str:
        self.invocation = self.ctx.invocation.id
        try:
            async with self.ctx.saga() as saga:
                for item in order.items:
                    stock = self.ctx.ref(Stock, item.sku)
                    saga.undo(stock.release, self.key)
                    await stock.reserve(self.key, item.count)
                self.stage = "reserved"

                # Before the charge, by the order's number and not by what the charge gives back: one that timed out or
                # was cut off may have been made all the same.
                saga.undo(void_charge, self.key)
                await self.ctx.run(charge_card, self.key, order.card, sum(i.count * i.cents for i in order.items))
                self.stage = "charged"

                await self.ctx.sleep(order.may_change_mind_for)
                parcel = await self.ctx.run(ship, self.key, order.address)
        except TerminalError:
            self.stage = "refused"
            raise
        except asyncio.CancelledError:
            self.stage = "taken back"
            raise
        # Out of the saga: the parcel is on its way, and nothing that fails from here on may undo the charge.
        self.stage = "shipped"
        for item in order.items:
            self.ctx.ref(Stock, item.sku).hand_over.send(self.key)
        return parcel

    @shared
    async def change_mind(self) -> None:
        """Taken back, if it isn't shipped yet: CancelledError is raised where `run` waits."""
        if not self.invocation:
            raise TerminalError(f"no order {self.key}", status=404)
        self.ctx.handle(self.invocation).cancel()

    @shared
    async def status(self) -> Stage:
        return self.stage


# --- the outside world: a stub of a bank and a carrier ----------------------------------------------------------------


class Bank:
    def __init__(self) -> None:
        self.charges: dict[str, int] = {}
        self.void: set[str] = set()


BANK = Bank()
PARCELS: dict[str, str] = {}


@step(retry=RetryPolicy(max_attempts=5), timeout=10)
async def charge_card(order: str, card: str, cents: int) -> None:
    """`order` is the bank's idempotency key: asked again, it is the same charge."""
    if card == "declined":
        raise CardDeclined("the card was declined")
    if order in BANK.void:
        raise TerminalError(f"the charge for {order} was voided", status=409)
    BANK.charges.setdefault(order, cents)


@step(retry=RetryPolicy())  # without a limit: it is somebody else's money
async def void_charge(order: str) -> None:
    """Charged or not; and a charge that is still on its way, from an attempt that was cut off, comes to nothing."""
    BANK.void.add(order)
    BANK.charges.pop(order, None)


@step(retry=RetryPolicy(max_attempts=5))
def ship(order: str, address: str) -> str:
    """No coroutine: it runs in a thread."""
    if address == "moon":
        raise NobodyDelivers(f"nobody delivers to {address}")
    return PARCELS.setdefault(order, f"parcel-{order}")
