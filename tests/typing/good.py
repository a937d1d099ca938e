"""Right uses: every line must pass both checkers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine, Mapping, Sequence
from datetime import datetime, timedelta
from enum import Enum
from random import Random
from typing import Annotated, Any, Generic, Literal, NewType, TypeVar, assert_type
from uuid import UUID

import msgspec

from perdure.objects import (
    Awakeable,
    Context,
    Handle,
    List,
    Map,
    OldState,
    Promise,
    RetryPolicy,
    Service,
    Signal,
    TerminalError,
    VirtualObject,
    Workflow,
    cron,
    every,
    handler,
    shared,
    step,
)
from perdure.runtime import Client, RemoteHandle, Runtime


class Line(msgspec.Struct):
    sku: str
    count: int = 1


class Account(VirtualObject):
    balance: int = 0
    seen: list[str] = []  # noqa: RUF012
    lines: dict[str, Line] = {}  # noqa: RUF012
    bare: list[str]
    limit: Annotated[int, msgspec.Meta(ge=0)] = 0
    owner: str | None = None
    status: Literal["open", "closed"] = "open"

    @handler
    async def deposit(self, amount: int, *, note: str = "") -> int:
        self.balance += amount
        self.seen.append(note)
        self.bare.append(note)
        self.lines["x"] = Line(sku=note)
        return self.balance

    @handler(retry=RetryPolicy(max_attempts=3), public=False)
    async def withdraw(self, amount: int = 1) -> int:
        if amount > self.balance:
            raise TerminalError("insufficient", status=409, metadata={"balance": str(self.balance)})
        return await self.deposit(-amount)  # (c) plain

    @handler(
        schedules=[
            cron("0 9 * * MON", timezone="Europe/Berlin", key="a", name="mondays", args=(5,), kwargs={"note": "x"}),
            every(timedelta(hours=1), key="b", args=(1,), jitter=30, overlap="allow", catch_up="all", catch_up_max=5),
        ],
        public=False,
    )
    async def accrue(self, amount: int, *, note: str = "") -> int:
        assert_type(await self.deposit(amount), int)
        assert_type(await self.ctx.ref(Account, "b").accrue(1, note="y"), int)
        return amount

    @handler()
    async def plain_self(self) -> None:
        coro = self.deposit(1, note="x")
        takes_coroutine(coro)
        assert_type(await coro, int)
        task = asyncio.create_task(self.deposit(1))
        assert_type(task, asyncio.Task[int])
        assert_type(await task, int)
        h = self.deposit.send_after(timedelta(minutes=1), 5)  # message to itself
        assert_type(h, Handle[int])
        assert_type(self.key, str)
        me = self.ctx.ref(type(self), self.key)
        assert_type(await me.deposit(1), int)

    @shared
    async def read(self) -> int:
        return self.balance

    @shared(name="peek")
    async def look(self, deep: bool = False) -> dict[str, int]:
        return {"balance": self.balance}

    @handler
    async def history(self, since: int = 0) -> AsyncIterator[Line]:
        for line in self.lines.values():
            yield line

    @handler
    async def history2(self) -> AsyncGenerator[str, None]:
        yield ""


def takes_coroutine(coro: Coroutine[Any, Any, int]) -> None: ...


class Premium(Account):  # (f) inheritance
    bonus: int = 0

    @handler
    async def deposit(self, amount: int, *, note: str = "", extra: int = 0) -> int:
        self.bonus += extra
        return await super().deposit(amount, note=note)

    @handler
    async def upgrade(self) -> bool:
        return True


V = TypeVar("V")


class Cell(VirtualObject, Generic[V]):  # (f) generic
    value: V | None = None

    @handler
    async def put(self, value: V) -> V | None:
        old, self.value = self.value, value
        return old

    @shared
    async def get(self) -> V | None:
        return self.value


class IntCell(Cell[int]):
    @handler
    async def add(self, by: int) -> int:
        self.value = (self.value or 0) + by
        return self.value


class Mail(Service):
    @handler
    async def mail(self, to: str, text: str = "") -> bool:
        return True


class Signup(Workflow, name="signup"):
    approved: Promise[bool | None]
    status: str = "new"

    @handler
    async def run(self, email: str) -> bool:
        assert_type(await self.approved, bool | None)
        p = self.ctx.promise("x", Literal["yes", "no"])
        assert_type(p, Promise[Literal["yes", "no"]])
        assert_type(await p, Literal["yes", "no"])
        return True

    @shared
    async def approve(self, yes: bool) -> None:
        self.approved.resolve(yes)
        assert_type(self.approved.peek(), bool | None)


UserId = NewType("UserId", str)


class Colour(Enum):
    RED = "red"


class Room(VirtualObject):
    said: List[Line]
    members: Map[UserId, Line]
    scores: Map[int, float]
    colours: Map[Colour, list[str]]
    sides: Map[Literal["left", "right"], str]

    @handler
    async def say(self, line: Line, by: UserId) -> int:
        self.said.append(line)
        self.said.extend([line, line])
        self.said[-1] = line
        assert_type(self.said[0], Line)
        assert_type(self.said[-20:], list[Line])
        assert_type(self.said.pop(), Line)
        for said in reversed(self.said):
            said.count += 1
        self.said.clear()
        self.members[by] = line
        self.members[by].count += 1
        del self.members[by]
        assert_type(self.members.get(by), Line | None)
        assert_type(self.members.pop(by, None), Line | None)
        assert_type(self.members.setdefault(by, line), Line)
        self.colours.setdefault(Colour.RED, []).append("x")
        self.sides["left"] = "x"
        self.scores.update({1: 0.5})
        return len(self.said)

    @shared
    async def page(self, after: int | None) -> list[float]:
        found: list[float] = []
        for number, score in self.scores.items(after=after):
            assert_type(number, int)
            found.append(score)
        for by, line in self.members.items():
            assert_type(by, UserId)
            assert_type(line, Line)
        assert_type(max(self.scores.values()), float)
        assert_type(sorted(self.scores), list[int])
        takes_abstract(self.said, self.scores)
        return found


def takes_abstract(lines: Sequence[Line], scores: Mapping[int, float]) -> None: ...


class Table(VirtualObject, Generic[V]):
    rows: Map[str, V]

    @shared
    async def row(self, key: str) -> V | None:
        return self.rows.get(key)


@step(retry=RetryPolicy(max_attempts=3), timeout=10)
async def charge(card: str, amount: int, *, currency: str = "EUR") -> Line:
    return Line(sku=card)


def sync_fetch(url: str, tries: int = 3) -> bytes:
    return b""


async def note(text: str) -> None: ...


async def me_none() -> None: ...


async def words(text: str, *, limit: int) -> AsyncIterator[str]:
    yield text


async def fetch(url: str) -> dict[str, int]:
    return {}


class Migrated(VirtualObject, version=3):
    lines: List[Line]
    owner: str | None = None
    total: int = 0

    def migrate(self, old: OldState) -> None:
        if old.version < 2:
            self.owner = old.pop("name", None)
        self.total = old.read("sum", int) + old.get("more", 0)
        assert_type(old.read("owner", str | None), str | None)
        assert_type(old.read("lines", list[Line]), list[Line])
        assert_type(old.version, int)
        self.lines.extend(Line(text) for text in old.pop("lines") if "owner" in old)
        for name in old:
            assert_type(name, str)

    @handler
    async def go(self) -> int:
        return self.total


class Lasting(Workflow, version=2):
    def migrate(self, old: OldState) -> None:
        super().migrate(old)

    @handler
    async def run(self) -> None: ...


class Everything(VirtualObject):
    @handler
    async def all(self) -> None:
        ctx = self.ctx
        assert_type(ctx, Context)
        bob = ctx.ref(Account, "bob")
        assert_type(bob, Account)
        assert_type(await bob.deposit(5), int)
        assert_type(await bob.deposit(amount=5, note="hi"), int)
        assert_type(await bob.withdraw(), int)  # (e) defaults
        assert_type(await bob.look(deep=True), dict[str, int])
        assert_type(bob.deposit.send(5, note="x"), Handle[int])
        assert_type(bob.deposit.send_after(60, amount=5), Handle[int])
        h = bob.deposit.options(idempotency_key="k", headers={"a": "b"}).send(5)
        assert_type(await h.attach(), int)
        h.cancel()
        h.signal("stop", 3)
        assert_type(h.id, str)
        assert_type(await bob.deposit.options(idempotency_key="k")(5), int)
        async for line in bob.history(since=3):
            assert_type(line, Line)
        async for text in bob.history2():
            assert_type(text, str)

        a, b = await asyncio.gather(bob.deposit(1), bob.look())
        assert_type(a, int)
        assert_type(b, dict[str, int])
        many = await asyncio.gather(*(ctx.ref(Account, k).deposit(1) for k in "abc"))
        assert_type(many, list[int])
        async with asyncio.TaskGroup() as group:
            t1 = group.create_task(bob.deposit(1))
            t2 = group.create_task(ctx.run(fetch, "u"))
        assert_type(t1.result(), int)
        assert_type(t2.result(), dict[str, int])
        async with asyncio.timeout(5):
            await bob.deposit(1)
        assert_type(await asyncio.wait_for(bob.deposit(1), 3), int)
        tasks = {asyncio.create_task(bob.deposit(i)) for i in range(3)}
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        assert_type(done, set[asyncio.Task[int]])
        for f in asyncio.as_completed([bob.deposit(1), bob.withdraw(1)]):
            assert_type(await f, int)

        gold = ctx.ref(Premium, "gold")
        assert_type(await gold.deposit(1, extra=3), int)
        assert_type(await gold.upgrade(), bool)
        assert_type(await gold.read(), int)
        as_base: Account = gold
        await as_base.deposit(3)
        cell = ctx.ref(IntCell, "c")
        assert_type(await cell.put(3), int | None)
        assert_type(await cell.get(), int | None)
        assert_type(await cell.add(3), int)
        assert_type(await ctx.ref(Mail).mail("a", text="b"), bool)
        assert_type(await ctx.ref(Signup, "bob").run("a@b"), bool)

        assert_type(await ctx.run(charge, "c", 5, currency="USD"), Line)
        assert_type(await ctx.run(step(sync_fetch, timeout=timedelta(seconds=3), name="f"), "u"), bytes)
        assert_type(await ctx.run(sync_fetch, "u", tries=4), bytes)
        assert_type(await charge("c", 5), Line)
        await ctx.sleep(3)
        await ctx.sleep(timedelta(days=3))
        await ctx.sleep(until=ctx.now() + timedelta(days=1))
        await asyncio.sleep(3)
        assert_type(ctx.now(), datetime)
        assert_type(ctx.random, Random)
        assert_type(ctx.uuid(), UUID)
        assert_type(ctx.invocation.id, str)
        w = ctx.awakeable(bool)
        assert_type(w, Awakeable[bool])
        assert_type(await w, bool)
        assert_type(await ctx.awakeable(Line | None), Line | None)
        assert_type(await ctx.awakeable(list[Line]), list[Line])
        both = await asyncio.gather(w, ctx.awakeable(str))
        assert_type(both, tuple[bool, str])
        async with asyncio.timeout(3):
            await w
        assert_type(ctx.signal("stop", int), Signal[int])
        assert_type(await ctx.signal("stop", int), int)
        assert_type(await ctx.handle("inv_1", int).attach(), int)
        assert_type(await ctx.handle("inv_1", int | None).attach(), int | None)
        ctx.handle("inv_1").cancel()
        mixed = await asyncio.gather(ctx.run(fetch, "u"), ctx.sleep(1), w, ctx.run(note, "x"))
        assert_type(mixed, tuple[dict[str, int], None, bool, None])
        mixed2 = await asyncio.gather(bob.deposit(1), me_none(), self.all(), h.attach())
        assert_type(mixed2, tuple[int, None, None, int])
        async for word in ctx.stream(words, "text", limit=3):
            assert_type(word, str)
        if ctx.patched("new-fee"):
            pass
        async with ctx.saga() as saga:
            saga.undo(sync_fetch, "u")
            saga.undo(charge, "c", 5)
            saga.undo(bob.deposit, 5, note="x")
            saga.undo(self.own_undo, 3)

    async def own_undo(self, n: int) -> None: ...


def helper(ctx: Context, find: Callable[[str], Account]) -> Account:
    return ctx.ref(Account, "x")


async def outside() -> None:
    async with Client("http://127.0.0.1:8080") as client:
        alice = client.ref(Account, "alice")
        assert_type(await alice.deposit(5), int)
        h = await client.send(alice.deposit, 5, note="x")
        assert_type(h, RemoteHandle[int])
        assert_type(await h.attach(), int)
        h2 = await client.send_after(60, alice.withdraw)
        assert_type(await h2.attach(), int)
        h3 = await client.send(client.ref(Signup, "x").run, "a@b")
        assert_type(await h3.attach(), bool)
        await client.send(client.ref(Cell[str], "x").put, "s")
        async for line in alice.history():
            assert_type(line, Line)
        assert_type(await client.handle("inv", list[Line]).attach(), list[Line])
        await h.cancel()
        await h.signal("go", Line)
        await h.reject_signal("go", "closed")
        await client.resolve_awakeable("awk", 5)
        await client.reject_awakeable("awk", "closed")
        got, nothing = await asyncio.gather(h.attach(), h.cancel())
        assert_type(got, int)
        assert_type(nothing, None)
    async with Runtime([Account, Mail, Signup, IntCell], data_dir=None) as runtime:
        assert_type(await runtime.ref(Account, "a").deposit(3), int)
        r = await asyncio.gather(*(runtime.ref(Account, str(i)).deposit(3) for i in range(9)))
        assert_type(r, list[int])
        async with asyncio.TaskGroup() as group:
            group.create_task(runtime.ref(Account, "a").deposit(3))
