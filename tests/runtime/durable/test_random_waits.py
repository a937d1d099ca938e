"""Random handlers that wait for all there is, while they are cancelled, killed, paused, evicted and crashed."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any, ClassVar

import msgspec
import pytest

from perdure.objects import (
    Limits,
    List,
    Map,
    Promise,
    Rate,
    RetryPolicy,
    Service,
    TerminalError,
    VirtualObject,
    Workflow,
    handler,
    shared,
    step,
)
from perdure.runtime import Refused
from perdure.runtime.records import Paused
from perdure.runtime.store import MemoryStore
from tests.runtime.kernel_dump import counted, dump, everything, rebuilt, told_by

if TYPE_CHECKING:
    from tests.runtime.durable.conftest import World

    Worlds = Callable[..., World]

SEED = 20_261_124
STORIES = 40
CRASHES = 3
KEYS = "abc"

Instruction = dict[str, Any]


class Outside:
    """What a world outside of the process knows."""

    awakeables: ClassVar[set[str]] = set()
    failed: ClassVar[Counter[str]] = Counter()


@step(retry=RetryPolicy(first_delay=0.5, jitter=0))
async def flaky(name: str, failures: int) -> str:
    if Outside.failed[name] < failures:
        Outside.failed[name] += 1
        raise ConnectionError("no answer")
    return name


async def words(count: int) -> AsyncIterator[str]:
    for number in range(count):
        yield f"word {number}"


class Few(Service, limits=Limits(running=1, steps=1, rate=Rate(count=2, per=3))):
    @handler
    async def work(self, name: str, program: list[dict[str, Any]]) -> str:
        for do in program:
            match do["do"]:
                case "sleep":
                    await self.ctx.sleep(do["seconds"])
                case "step":
                    await self.ctx.run(flaky, do["name"], do["failures"])
                case _:
                    pass
        return name


class Flow(Workflow):
    verdict: Promise[str]

    @handler
    async def run(self, name: str) -> str:
        return f"{name}: {await self.verdict}"

    @shared
    async def decide(self, verdict: str) -> None:
        with suppress(TerminalError):
            self.verdict.resolve(verdict)

    @shared
    async def watch(self) -> str:
        return await self.verdict


class Worker(VirtualObject, retention=60, time_to_live=3600):
    arrived: list[str]
    notes: dict[str, str]
    log: List[str]
    index: Map[str, int]

    @handler(retry=RetryPolicy(first_delay=0.5, jitter=0))
    async def run(self, name: str, program: list[dict[str, Any]]) -> str:
        self.arrived.append(name)
        self.log.append(name)
        for number, do in enumerate(program):
            await self.follow(name, number, do)
        return name

    @shared
    async def look(self, name: str) -> int:
        await self.ctx.sleep(0.1)
        return len(self.arrived)

    @handler
    async def items(self, name: str, count: int) -> AsyncIterator[str]:
        for number in range(count):
            self.index[f"{name} {number}"] = number
            yield f"{name} {number}"
            await self.ctx.sleep(0.1)

    async def follow(self, name: str, number: int, do: dict[str, Any]) -> None:
        match do["do"]:
            case "write":
                self.notes[name] = str(number)
                self.index[name] = number
                if len(self.log) > 3:
                    self.log.pop()
            case "send":
                self.ctx.ref(Worker, do["key"]).run.send_after(do["delay"], name=do["name"], program=do["program"])
            case "send and cancel":
                sent = self.ctx.ref(Worker, do["key"]).run.send(name=do["name"], program=do["program"])
                await self.ctx.sleep(do["delay"])
                sent.cancel()
            case "together":
                await asyncio.gather(*(self.safely(name, one) for one in do["waits"]))
            case "race":
                tasks = [asyncio.create_task(self.safely(name, one)) for one in do["waits"]]
                await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)
            case "within":
                with suppress(TimeoutError):
                    async with asyncio.timeout(do["seconds"]):
                        await self.safely(name, do["wait"])
            case "refuse":
                raise TerminalError("refused", status=409)
            case _:
                await self.safely(name, do)

    async def safely(self, name: str, do: dict[str, Any]) -> None:
        try:
            self.notes[f"{name} {do['do']}"] = str(await self.wait(name, do))
        except TerminalError as error:
            self.notes[f"{name} {do['do']}"] = type(error).__name__

    async def wait(self, name: str, do: dict[str, Any]) -> object:  # noqa: PLR0911, PLR0912  # one case each
        match do["do"]:
            case "sleep":
                await self.ctx.sleep(do["seconds"])
                return "slept"
            case "step":
                return await self.ctx.run(flaky, do["name"], do["failures"])
            case "stream of a step":
                return [word async for word in self.ctx.stream(words, do["count"])]
            case "awakeable":
                awakeable = self.ctx.awakeable(str)
                Outside.awakeables.add(awakeable.id)
                return await awakeable
            case "signal":
                return await self.ctx.signal("go", int)
            case "call":
                return await self.ctx.ref(Worker, do["key"]).run(name=do["name"], program=do["program"])
            case "attach":
                sent = self.ctx.ref(Worker, do["key"]).run.send(name=do["name"], program=do["program"])
                return await sent.attach()
            case "look":
                return await self.ctx.ref(Worker, do["key"]).look(name)
            case "items":
                return [item async for item in self.ctx.ref(Worker, do["key"]).items(do["name"], do["count"])]
            case "few":
                return await self.ctx.ref(Few).work(name=do["name"], program=do["program"])
            case "flow":
                return await self.ctx.ref(Flow, do["id"]).run("flow")
            case "decide":
                await self.ctx.ref(Flow, do["id"]).decide(do["name"])
                return "decided"
            case "watch":
                return await self.ctx.ref(Flow, do["id"]).watch()
            case "draw":
                return f"{self.ctx.random.random()} {self.ctx.uuid()} {self.ctx.now()}"
            case other:
                raise AssertionError(other)


class Story:
    def __init__(self, seed: int) -> None:
        self._draw = random.Random(seed)
        self._names = 0
        draw = self._draw
        self.requests = [
            (draw.choice([0.0, 0.0, 0.3, 1.0]), key, self._name(), self._program(0))
            for key in draw.choices(KEYS, k=draw.randint(2, 4))
        ]
        kinds = ["cancel", "kill", "pause", "resume", "awakeables", "signal", "restart-as-new", "purge", "decide"]
        self.events = [
            (draw.choice([0.05, 0.2, 0.45, 0.7, 1.1, 2.3, 5.0]), draw.choice(kinds), draw.random())
            for _ in range(draw.randint(0, 8))
        ]

    def _name(self) -> str:
        self._names += 1
        return f"n{self._names}"

    def _program(self, depth: int) -> list[Instruction]:
        return [self._instruction(depth) for _ in range(self._draw.randint(1, 4))]

    def _instruction(self, depth: int) -> Instruction:
        draw = self._draw
        kinds = ["write", "write", "wait", "wait", "wait"]
        if depth < 3:
            kinds += ["send", "send and cancel", "together", "race", "within"]
        if depth:
            kinds += ["refuse"]
        match draw.choice(kinds):
            case "wait":
                return self._wait(depth)
            case "send":
                return {**self._request(depth), "do": "send", "delay": draw.choice([0, 0, 1.5, 7.25])}
            case "send and cancel":
                return {**self._request(depth), "do": "send and cancel", "delay": draw.choice([0.01, 0.5])}
            case "within":
                return {"do": "within", "seconds": draw.choice([0.25, 2.0]), "wait": self._wait(depth)}
            case "together" | "race" as kind:
                return {"do": kind, "waits": [self._wait(depth) for _ in range(draw.randint(2, 3))]}
            case kind:
                return {"do": kind}

    def _wait(self, depth: int) -> Instruction:  # noqa: PLR0911  # one case each
        draw = self._draw
        kinds = ["sleep", "step", "stream of a step", "awakeable", "signal", "look", "items", "few", "draw"]
        kinds += ["flow", "decide", "watch"]
        if depth < 3:
            kinds += ["call"] * 3 + ["attach"]
        match draw.choice(kinds):
            case "sleep":
                return {"do": "sleep", "seconds": draw.choice([0.001, 0.5, 3.0])}
            case "step":
                return {"do": "step", "name": self._name(), "failures": draw.choice([0, 0, 1, 2])}
            case "stream of a step":
                return {"do": "stream of a step", "count": draw.choice([0, 1, 3])}
            case "items":
                return {"do": "items", "key": draw.choice(KEYS), "name": self._name(), "count": draw.choice([0, 1, 3])}
            case "look":
                return {"do": "look", "key": draw.choice(KEYS)}
            case "few":
                steps = [
                    {"do": "step", "name": self._name(), "failures": draw.choice([0, 1])},
                    {"do": "sleep", "seconds": 0.2},
                ]
                return {"do": "few", "name": self._name(), "program": draw.sample(steps, 2)}
            case "flow" | "decide" | "watch" as kind:
                return {"do": kind, "id": draw.choice("xy"), "name": self._name()}
            case "call" | "attach" as kind:
                return {**self._request(depth), "do": kind}
            case kind:
                return {"do": kind}

    def _request(self, depth: int) -> Instruction:
        return {"key": self._draw.choice(KEYS), "name": self._name(), "program": self._program(depth + 1)}


async def told(world: World, story: Story) -> None:
    happens: list[tuple[float, int, Any]] = [(at, 0, request) for at, *request in story.requests]
    happens += [(at, 1, (kind, luck)) for at, kind, luck in story.events]
    begun = world.now
    for at, order, what in sorted(happens, key=lambda each: each[:2]):
        await world.advance(max(0.0, begun + at - world.now))
        if order == 0:
            key, name, program = what
            await world.send(world.ref(Worker, key).run.options(idempotency_key=name), name=name, program=program)
        else:
            await interfere(world, *what)
    await world.advance(10)
    check(world)
    for _ in range(40):
        if all(one.ended for one in everything(world.runtime.engine.kernel)):
            break
        await resolve_all(world)
        await world.advance(20)


async def interfere(world: World, kind: str, luck: float) -> None:
    kernel, operations = world.runtime.engine.kernel, world.runtime.engine.operations
    ids = sorted(one.id for one in everything(kernel))
    if not ids:
        return
    id = ids[int(luck * len(ids))]
    with suppress(Refused, TerminalError):
        match kind:
            case "awakeables":
                await complete_awakeables(world)
            case "signal":
                await operations.resolve_signal(id, "go", b"1")
            case "restart-as-new":
                world.runtime.engine.restart_as_new(id)
            case "decide":
                await world.call(world.ref(Flow, "x").decide("outside"))
            case _:
                await getattr(operations, kind)(id)
    await world.settle()


async def complete_awakeables(world: World) -> None:
    for id in sorted(Outside.awakeables):
        with suppress(Refused, TerminalError):
            await world.runtime.resolve_awakeable(id, "done")


async def resolve_all(world: World) -> None:
    operations = world.runtime.engine.operations
    await complete_awakeables(world)
    for one in everything(world.runtime.engine.kernel):
        if not one.ended:
            with suppress(Refused):
                await operations.resume(one.id)
            with suppress(Refused):
                await operations.resolve_signal(one.id, "go", b"2")
    for id in "xy":
        with suppress(Refused, TerminalError):
            await world.runtime.send(world.ref(Flow, id).decide, "last")


def check(world: World) -> None:
    kernel = world.runtime.engine.kernel
    assert not world.runtime.engine.failed.done()
    everything(kernel)
    assert told_by(kernel.counts) == counted(kernel)
    paused = [record for record in world.recorded() if isinstance(record, Paused)]
    assert [record.failure for record in paused if record.failure.type == "ReplayMismatch"] == []
    told, held = dump(rebuilt(world.journal.records)), dump(kernel)
    for part in ("objects", "rows", "retention", "counts"):
        assert told[part] == held[part]


@pytest.mark.parametrize("seed", range(SEED, SEED + STORIES))
async def test_whatever_waits_comes_to_its_end(worlds: Worlds, seed: int) -> None:
    """Undisturbed, and after crashes at random records: nothing hangs, nothing diverges, the counts are right."""
    story, draw = Story(seed), random.Random(seed)
    Outside.awakeables.clear()
    Outside.failed.clear()
    world = await worlds(Worker, Flow, Few).start()
    await told(world, story)
    at_its_end(world)
    if all(kind != "restart-as-new" for _, kind, _ in story.events):
        assert max(arrivals(world).values()) == 1
    kept = [*world.journal.records]

    for _ in range(CRASHES):
        world.store = world.store and MemoryStore()  # what it holds is of the life before, not of these records
        await world.begin_with(kept[: draw.randrange(len(kept))])
        await told(world, story)
        at_its_end(world)


def arrivals(world: World) -> Counter[str]:
    entries = [world.runtime.engine.kernel.entry("Worker", key) for key in KEYS]
    return Counter(
        name
        for entry in entries
        if entry is not None
        for name in msgspec.json.decode(entry.fields.get("arrived", b"[]"))
    )


def at_its_end(world: World) -> None:
    check(world)
    kernel = world.runtime.engine.kernel
    assert [world.view(one.id) for one in everything(kernel) if not one.ended] == []
    assert kernel.counts.queued == 0
    assert all(entry.holder is None and not entry.mailbox for entry in kernel.objects.values())
