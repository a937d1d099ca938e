"""Wrong uses: both checkers must flag each line marked E (M: mypy only, P: pyright only, X: neither, known)."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

from good import Account, IntCell, Line, Mail, Premium, Signup, charge, fetch, sync_fetch

from perdure.objects import (
    Awakeable,
    List,
    Map,
    OldState,
    RetryPolicy,
    Service,
    VirtualObject,
    Workflow,
    cron,
    every,
    handler,
    shared,
    step,
)
from perdure.runtime import Client, Runtime


class Sync(VirtualObject):
    @handler  # E sync def
    def bad(self) -> int:
        return 1

    @handler()  # E sync def, with arguments
    def bad2(self) -> int:
        return 1

    @handler(retries=3)  # E unknown option
    async def bad3(self) -> int:
        return 1

    @handler(schedules=every(60, key="a"))  # E a schedule alone
    async def bad4(self) -> None: ...

    @handler(schedules=["0 9 * * *"])  # E an expression alone
    async def bad5(self) -> None: ...

    @handler(schedules=[cron("0 9 * * *", overlap="wait")])  # E no such policy
    async def bad6(self) -> None: ...

    @handler(schedules=[every("1h", key="a")])  # E seconds or timedelta
    async def bad7(self) -> None: ...

    @handler(schedules=[every(60, key="a", args=("x",))])  # X its arguments are looked at when the class is defined
    async def bad8(self, amount: int) -> None: ...

    @shared(schedules=[every(60, key="a")])  # E shared handlers have none
    async def bad9(self) -> None: ...

    @handler
    async def good(self, amount: int) -> int:
        return amount

    @handler
    async def uses(self) -> None:
        self.ctx = None  # E read-only
        self.key = "x"  # E read-only
        self.good(1)  # E forgotten await on self
        self.missing  # E
        self.ctx.promise("x", int)  # E only in workflows


class Worse(Account):
    @handler
    async def deposit(self, amount: str) -> int:  # E
        return 1


class Worse2(Account):
    balance: str = ""  # E state retyped


class Use(VirtualObject):
    n: int = "x"  # E
    items: list[int] = ["a"]  # E
    left: int = 0

    @shared
    async def writes(self) -> None:
        self.left += 1  # X a write in a shared handler: at definition or at run time

    @handler
    async def all(self) -> None:
        ctx = self.ctx
        bob = ctx.ref(Account, "bob")
        await bob.deposit("5")  # E wrong type
        await bob.deposit()  # E missing
        await bob.deposit(5, 6)  # E too many
        await bob.deposit(5, memo="x")  # E unknown name
        await bob.depositt(5)  # E unknown handler
        bob.deposit(5)  # E forgotten await
        x: str = await bob.deposit(5)  # E result
        await bob.deposit.send(5)  # E send is not awaited
        bob.deposit.send("5")  # E
        bob.deposit.send()  # E
        bob.deposit.send_after(5)  # E amount missing
        bob.deposit.send_after("5s", 5)  # E delay
        bob.deposit.send_after(5, "5")  # E
        bob.deposit.options(key="x")  # E
        bob.deposit.options(idempotency_key="x")("5")  # E
        y: int = bob.deposit.send(5)  # E
        ctx.ref(Account)  # E key missing
        ctx.ref(Mail, "k")  # E a service has no key
        ctx.ref(Account, 5)  # E
        ctx.ref("Account", "k")  # E
        ctx.ref(int, "k")  # E
        Account()  # E not constructed
        await bob.history()  # E a stream is not awaited
        bob.history.send()  # E streams are not sent (see report)
        await ctx.ref(Premium, "x").deposit(1, extra="x")  # E
        await ctx.ref(IntCell, "x").put("s")  # E generic
        await bob.own_helper()  # E
        bob.balance  # X expression only; reading state of a reference is not refused by types
        z: int = bob.balance  # X not refused by types: raises
        ctx.run(fetch, "u")  # E forgotten
        await ctx.run(fetch)  # E
        await ctx.run(fetch, 5)  # E
        await ctx.run(fetch, "u", nope=1)  # E
        await ctx.run(fetch("u"))  # E a coroutine object
        await ctx.run(sync_fetch("u"))  # E a value
        await ctx.run(charge, "c", "5")  # E
        q: int = await ctx.run(charge, "c", 5)  # E
        step(charge, retries=3)  # E
        step(5)  # E
        ctx.sleep(3)  # E forgotten
        await ctx.sleep("3s")  # E
        await ctx.sleep()  # E
        await ctx.sleep(3, until=ctx.now())  # E
        w: Awakeable[int] = ctx.awakeable(str)  # E
        v: int = await ctx.awakeable(str)  # E
        ctx.awakeable(5)  # E
        ctx.handle("x", int).attach()  # E forgotten
        u: str = await ctx.handle("x", int).attach()  # E
        async with ctx.saga() as saga:
            saga.undo(charge, "c")  # E
            saga.undo(charge("c", 5))  # E
            saga.undo(bob.deposit, "x")  # E
        ctx.saga().undo(charge, "c", 5)  # X outside its block: raises
        ctx.random = None  # E
        RetryPolicy(3)  # E keyword only
        RetryPolicy(then="explode")  # E
        print(x, y, z, q, w, v, u)


class Room(VirtualObject):
    said: List[str]
    members: Map[str, Line]
    floats: Map[float, int]  # E no type of a key
    default: List[str] = []  # E starts empty

    @handler
    async def all(self) -> None:
        self.said = []  # E a container, not a value
        self.members = {}  # E
        self.said.append(5)  # E wrong type
        self.said.extend([5])  # E
        self.said[0] = 5  # E
        self.said["a"]  # E
        self.said[0:1] = ["x"]  # E no slices are assigned
        self.said.insert(0, "x")  # E only at the end
        self.said.remove("x")  # E
        self.said.pop(0)  # E
        self.said.sort()  # E
        del self.said[0]  # E
        n: int = self.said[0]  # E
        self.members[5]  # E wrong key
        self.members["a"] = "x"  # E wrong value
        self.members["a"].cuont += 1  # E
        self.members.get("a").count  # E may be None
        self.members.items(after=5)  # E
        List[int]()  # E not constructed
        print(n)


class Wf(Workflow):
    @handler
    async def run(self) -> None:
        self.ctx.promise("x", int).resolve("s")  # E


async def outside() -> None:
    async with Client("x") as client:
        a = client.ref(Account, "a")
        a.deposit(5)  # E forgotten
        await client.send(a.deposit, "5")  # E
        await client.send(a.deposit)  # E
        client.send(a.deposit, 5)  # E forgotten
        await client.send(a.deposit(5), 5)  # E
        await client.send(5)  # E
        n: str = await (await client.send(a.deposit, 5)).attach()  # E
        h = await client.send(a.deposit, 5)
        h.cancel()  # E forgotten
        h.signal("go", 5)  # E forgotten
        await h.signal("go")  # E
        await h.reject_signal("go", 5)  # E
        client.resolve_awakeable("awk", 5)  # E forgotten
        await client.reject_awakeable("awk")  # E
        a.deposit.send(5)  # X wrong side: raises
        print(n)
    async with asyncio.TaskGroup() as group:
        group.create_task(a.deposit.send(5))  # E
    Runtime([int], data_dir=None)  # E


def unused(x: Any, s: Service, w: Signup) -> None:
    w.approved.resolve("x")  # E


class Misspelt(VirtualObject, nmae="x"):  # E unknown class option
    pass


class Migrated(VirtualObject, version="2"):  # E
    count: int = 0

    def migrate(self, old: OldState) -> None:
        self.count = old.read("count", str)  # E
        self.count = old.read("count")  # E
        old["count"] = 5  # E it is read, and popped
        self.coutn = 5  # X found in the source when the class is defined
        del old["count"]  # E
        old.pop(5)  # E


class Asleep(VirtualObject, version=2):
    async def migrate(self, old: OldState) -> None: ...  # E


class Named(VirtualObject, version=2):
    @handler
    async def migrate(self) -> None: ...  # E


async def helper(account: Account) -> None:
    await account.deposit(5)
    account.balance = 3  # X typed as the class: state of a reference is refused at run time only
    asyncio.timeout(timedelta(days=1))  # E asyncio wants seconds
    t = await asyncio.gather(account.deposit(1), account.look())
    n: int = t[1]  # E gather keeps the types
    print(n)
