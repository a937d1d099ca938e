"""Classes of many kinds whose handlers answer at once, and take whatever their types allow."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, Struct

from perdure.objects import Service, TerminalError, VirtualObject, Workflow, every, handler, shared

Amount = Annotated[int, Meta(ge=0, le=1_000_000)]


class Item(Struct, frozen=True):
    sku: Annotated[str, Meta(min_length=1, max_length=20)]
    amount: Amount = 1
    colour: Literal["red", "blue"] | None = None


class SoldOut(TerminalError):
    status = 409


class Shelf(VirtualObject):
    held: Amount = 0

    @handler
    async def put(self, item: Item) -> int:
        self.held = min(self.held + item.amount, 1_000_000)
        return self.held

    @handler
    async def take(self, amount: Amount = 1) -> int:
        if self.held < amount:
            raise SoldOut("there are fewer")
        self.held -= amount
        return self.held

    @handler
    async def clear(self) -> None:
        self.held = 0

    @shared
    async def look(self) -> int:
        return self.held


class Clock(Service):
    @handler
    async def count(self, beats: list[Amount]) -> int | None:
        return max(beats, default=None)

    @handler(schedules=[every(3600)])
    async def tick(self) -> None: ...

    @handler
    async def echo(self, text: str = "") -> str:
        return text


class Order(Workflow):
    @handler
    async def run(self, items: list[Item]) -> int:
        return len(items)

    @shared
    async def status(self) -> str:
        return "there"
