"""A handler with every kind of wait in it, and what it needs; each step appends a line to a ledger outside.

What it saw is its result: the same whenever, and however often, the process is killed on the way.
"""

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable
from contextlib import suppress
from datetime import timedelta

from perdure.objects import (
    Promise,
    RetryPolicy,
    Service,
    StepFailed,
    TerminalError,
    VirtualObject,
    Workflow,
    current_step,
    handler,
    shared,
    step,
)

SOON = 0.002
NEVER = 3_600.0
AT_ONCE = RetryPolicy(first_delay=SOON, factor=1, jitter=0)


def note(ledger: str, label: str) -> str:
    """The effect: one line, whose first word is the key that is handed to the outside API."""
    line = f"{current_step().key} {label}\n".encode()
    descriptor = os.open(ledger, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        os.write(descriptor, line)
    finally:
        os.close(descriptor)
    return label


async def in_loop(ledger: str, label: str, after_seconds: float = 0.0) -> str:
    await asyncio.sleep(after_seconds)
    return note(ledger, label)


def in_thread(ledger: str, label: str) -> str:
    return note(ledger, label)


@step(retry=RetryPolicy(max_attempts=1))
def at_most_once(ledger: str, label: str) -> str:
    return note(ledger, label)


@step(retry=AT_ONCE)
async def at_second_try(ledger: str, label: str) -> str:
    if current_step().attempt == 1:
        raise ConnectionError("not yet")
    return note(ledger, label)


@step(retry=AT_ONCE)
async def refused(ledger: str, label: str) -> str:
    note(ledger, label)
    raise TerminalError(f"{label}: no", status=402)


async def tokens(ledger: str, *labels: str) -> AsyncIterator[str]:
    for label in labels[len(current_step().recorded) :]:
        yield note(ledger, label)


async def endless(ledger: str, label: str) -> str:
    note(ledger, label)
    await asyncio.sleep(NEVER)
    return label


class Bell(VirtualObject):
    heard: list[str]

    @handler
    async def ring(self, name: str, after_seconds: float = 0.0) -> str:
        if after_seconds:
            await asyncio.sleep(after_seconds)
        self.heard.append(name)
        return f"{self.key} {name}"

    @shared
    async def listen(self) -> list[str]:
        return self.heard


class Hand(Service):
    """Gives from elsewhere what somebody waits for."""

    @handler
    async def complete(self, id: str, value: str, after_seconds: float = 0.0) -> None:
        await asyncio.sleep(after_seconds)
        self.ctx.resolve_awakeable(id, value)

    @handler
    async def reject(self, id: str, reason: str) -> None:
        self.ctx.reject_awakeable(id, reason)

    @handler
    async def signal(self, id: str, name: str, values: list[str]) -> None:
        for value in values:
            self.ctx.handle(id).signal(name, value)
            await asyncio.sleep(SOON)


class Approval(Workflow):
    verdict: Promise[str]
    asked: int = 0

    @handler
    async def run(self, what: str) -> str:
        self.asked += 1
        verdict = await self.verdict
        return f"{what}: {verdict} ({self.asked})"

    @shared
    async def decide(self, verdict: str) -> str | None:
        self.verdict.resolve(verdict)
        return self.verdict.peek()


class Journey(VirtualObject):
    """`play` is the handler of this file."""

    saw: list[str]
    ledger: str = ""
    drawn: str = ""

    @handler
    async def play(self, ledger: str) -> list[str]:
        self.ledger = ledger
        for part in (
            *(self.steps, self.stream, self.sleeps, self.calls, self.awakeables, self.signals, self.promise),
            *(self.gather, self.task_group, self.failing_task_group, self.timeout, self.first_completed),
            *(self.as_completed, self.nested, self.saga, self.chance),
        ):
            await part()
        return self.saw

    async def steps(self) -> None:
        self.saw.append(await self.ctx.run(in_loop, self.ledger, "async step"))
        self.saw.append(await self.ctx.run(in_thread, self.ledger, "sync step"))
        for n in range(6):
            self.saw.append(await self.ctx.run(in_loop, self.ledger, f"round {n}"))
        self.saw.append(await self.ctx.run(at_second_try, self.ledger, "flaky step"))
        with suppress(StepFailed):  # cut off by a kill, it must not run again
            await self.ctx.run(at_most_once, self.ledger, "at most once")
        self.saw.append("at most once")
        try:
            await self.ctx.run(refused, self.ledger, "refused step")
        except TerminalError as error:
            self.saw.append(f"{error} {error.status}")

    async def stream(self) -> None:
        async for item in self.ctx.stream(tokens, self.ledger, "token 1", "token 2", "token 3", "token 4"):
            self.saw.append(item)

    async def sleeps(self) -> None:
        await self.ctx.sleep(timedelta(seconds=SOON))
        await asyncio.sleep(SOON)
        await self.ctx.sleep(until=self.ctx.now() + timedelta(seconds=SOON))
        rung = asyncio.Event()
        asyncio.get_running_loop().call_later(SOON, rung.set)
        await rung.wait()
        self.saw.append("slept")

    async def calls(self) -> None:
        self.saw.append(await self.ctx.ref(Bell, "a").ring("call"))
        sent = self.ctx.ref(Bell, "b").ring.send("send")
        later = self.ctx.ref(Bell, "b").ring.send_after(SOON, "later")
        never = self.ctx.ref(Bell, "b").ring.send_after(NEVER, "never")
        self.saw.append(await sent.attach())
        self.saw.append(await later.attach())
        never.cancel()
        twice = [self.ctx.ref(Bell, "c").ring.options(idempotency_key="k")("once") for _ in range(2)]
        self.saw += await asyncio.gather(*twice)

    async def awakeables(self) -> None:
        late = self.ctx.awakeable(str)
        self.ctx.ref(Hand).complete.send(late.id, "late", SOON)
        early = self.ctx.awakeable(str)
        await self.ctx.ref(Hand).complete(early.id, "early")
        self.saw += [await early, await late, await early]
        rejected = self.ctx.awakeable(str)
        self.ctx.ref(Hand).reject.send(rejected.id, "rejected")
        try:
            await rejected
        except TerminalError as error:
            self.saw.append(str(error))

    async def signals(self) -> None:
        self.ctx.ref(Hand).signal.send(self.ctx.invocation.id, "tick", ["tick 1", "tick 2", "tick 3"])
        self.saw.append(await self.ctx.signal("tick", str))
        await asyncio.sleep(2 * SOON)
        self.saw += [await self.ctx.signal("tick", str), await self.ctx.signal("tick", str)]

    async def promise(self) -> None:
        run = self.ctx.ref(Approval, self.key).run.send("an order")
        self.saw.append(str(await self.ctx.ref(Approval, self.key).decide("granted")))
        self.saw.append(await run.attach())

    async def gather(self) -> None:
        given = self.ctx.awakeable(str)
        self.ctx.ref(Hand).complete.send(given.id, "gathered awakeable", SOON)
        self.saw += await asyncio.gather(
            self.ctx.run(in_loop, self.ledger, "gathered step", SOON),
            self.ctx.run(in_thread, self.ledger, "gathered thread"),
            self.ctx.ref(Bell, "d").ring("gathered"),
            asyncio.sleep(SOON, "gathered sleep"),
            given,
        )

    async def task_group(self) -> None:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(self.two_steps(f"group {n}")) for n in range(3)]
        self.saw += [task.result() for task in tasks]

    async def two_steps(self, label: str) -> str:
        await self.ctx.run(in_loop, self.ledger, f"{label} first")
        return await self.ctx.run(in_thread, self.ledger, f"{label} second")

    async def failing_task_group(self) -> None:
        try:
            async with asyncio.TaskGroup() as group:
                for key in "pqr":
                    group.create_task(self.ctx.ref(Bell, key).ring("never", NEVER))
                group.create_task(self.ctx.run(endless, self.ledger, "endless in a group"))
                group.create_task(self.ctx.run(refused, self.ledger, "refused in a group"))
        except* TerminalError:
            self.saw.append("group failed")

    async def timeout(self) -> None:
        try:
            async with asyncio.timeout(2 * SOON):
                await self.ctx.run(endless, self.ledger, "endless in a timeout")
        except TimeoutError:
            self.saw.append("timed out")
        async with asyncio.timeout(NEVER):
            self.saw.append(await self.ctx.run(in_loop, self.ledger, "in time"))

    async def first_completed(self) -> None:
        never = self.ctx.awakeable(str)
        waiting = {
            asyncio.create_task(_of(never)),
            asyncio.ensure_future(self.ctx.run(in_loop, self.ledger, "first of two")),
        }
        done, pending = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        self.saw += [task.result() for task in done]
        for task in pending:
            task.cancel()

    async def as_completed(self) -> None:
        waits = [
            self.ctx.run(in_loop, self.ledger, "as completed 1", SOON),
            self.ctx.run(in_thread, self.ledger, "as completed 2"),
            self.ctx.ref(Bell, "e").ring("as completed", SOON),
        ]
        self.saw += sorted([await wait for wait in asyncio.as_completed(waits)])

    async def nested(self) -> None:
        async def in_time() -> list[str]:
            async with asyncio.timeout(NEVER), asyncio.TaskGroup() as group:
                one = group.create_task(self.two_steps("nested"))
                two = group.create_task(asyncio.wait_for(self.ctx.ref(Bell, "f").ring("nested", SOON), NEVER))
            return [one.result(), two.result()]

        (steps, slept) = await asyncio.gather(in_time(), self.ctx.run(in_loop, self.ledger, "beside the nested"))
        self.saw += [*steps, slept]

    async def saga(self) -> None:
        try:
            async with self.ctx.saga() as saga:
                saga.undo(in_thread, self.ledger, "undone by a thread")
                await self.ctx.run(in_thread, self.ledger, "done by a thread")
                saga.undo(self.ctx.ref(Bell, "g").ring, "undone")
                await self.ctx.ref(Bell, "g").ring("done")
                raise TerminalError("compensate")
        except TerminalError as error:
            self.saw.append(str(error))

    async def chance(self) -> None:
        self.drawn = f"{self.ctx.now()} {self.ctx.random.random()} {self.ctx.uuid()}"
        await self.ctx.run(in_loop, self.ledger, "last step")


async def _of(given: Awaitable[str]) -> str:
    return await given
