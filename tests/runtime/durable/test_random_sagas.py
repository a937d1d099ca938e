"""Random transfers in sagas: refused, late, cancelled, retried, crashed; what was taken was given, or is back."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any, ClassVar

import msgspec
import pytest

from perdure.objects import RetryPolicy, Saga, TerminalError, VirtualObject, handler, step
from perdure.runtime import Refused
from perdure.runtime.store import MemoryStore

if TYPE_CHECKING:
    from tests.runtime.durable.conftest import World

    Worlds = Callable[..., World]

SEED = 20_261_124
STORIES = 60
CRASHES = 4
KEYS = "abcd"
BALANCE = 1000

Instruction = dict[str, Any]


class Luck:
    """How often what is flaky has failed; as outside of the process as a network is."""

    of_steps: ClassVar[Counter[str]] = Counter()


@step(retry=RetryPolicy(first_delay=0.5, jitter=0))
def flaky(name: str, failures: int) -> str:
    if Luck.of_steps[name] < failures:
        Luck.of_steps[name] += 1
        raise ConnectionError("no answer")
    return name


AT_LAST = RetryPolicy(first_delay=0.5, jitter=0, max_attempts=3, then="fail")


class Bank(VirtualObject):
    balance: int = BALANCE
    taken: dict[str, int]
    given: dict[str, int]

    @handler(retry=AT_LAST)
    async def pay(self, program: list[dict[str, Any]]) -> str:
        async with self.ctx.saga() as saga:
            await self.follow(saga, program)
        return "paid"

    @handler(retry=AT_LAST)
    async def give(self, id: str, amount: int, program: list[dict[str, Any]]) -> None:
        async with self.ctx.saga() as saga:
            saga.undo(self.drop, id)
            self.given[id] = amount
            self.balance += amount
            await self.follow(saga, program)

    @handler
    async def give_back(self, id: str) -> None:
        self.drop(id)

    def drop(self, id: str) -> None:
        self.balance -= self.given.pop(id, 0)

    def take_back(self, id: str) -> None:
        self.balance += self.taken.pop(id, 0)

    async def slowly_take_back(self, id: str) -> None:
        await self.ctx.sleep(0.25)
        self.take_back(id)

    async def follow(self, saga: Saga, program: list[dict[str, Any]]) -> None:
        for do in program:
            match do["do"]:
                case "pay":
                    await self.transfer(saga, do)
                case "sleep":
                    await self.ctx.sleep(do["seconds"])
                case "step":
                    await self.ctx.run(flaky, do["name"], do["failures"])
                case "bug":
                    if self.ctx.invocation.attempt <= do["failures"]:
                        raise ValueError("a bug")
                case "refuse":
                    raise TerminalError("refused", status=409)
                case "late":
                    async with asyncio.timeout(do["seconds"]):
                        await self.ctx.sleep(1)
                case "together":
                    async with asyncio.TaskGroup() as group:
                        for one in do["programs"]:
                            group.create_task(self.follow(saga, one))
                case "nested":
                    with suppress(TerminalError, TimeoutError):
                        async with self.ctx.saga() as inner:
                            await self.follow(inner, do["program"])
                case other:
                    raise AssertionError(other)

    async def transfer(self, saga: Saga, do: dict[str, Any]) -> None:
        saga.undo(self.slowly_take_back if do["slowly"] else self.take_back, do["id"])
        self.taken[do["id"]] = do["amount"]
        self.balance -= do["amount"]
        if do["first"]:
            await self.follow(saga, do["first"])
        other = self.ctx.ref(Bank, do["to"])
        if do["to"] != self.key:  # to oneself is a deadlock, and so would be to undo it there
            saga.undo(other.give_back, do["id"])
        async with asyncio.timeout(do["within"]):
            await other.give(do["id"], do["amount"], do["program"])


class Story:
    """Payments lead from a key to a later one, so that no undo meets a cycle; or to the key itself."""

    def __init__(self, seed: int) -> None:
        self._draw = random.Random(seed)
        self._names = 0
        self.requests = [
            (self._draw.choice([0.0, 0.0, 0.3, 1.0]), key, self._program(key, 0), self._cancelled_after())
            for key in self._draw.choices(KEYS[:3], k=self._draw.randint(2, 4))
        ]

    def _cancelled_after(self) -> float | None:
        return self._draw.choice([None, None, 0.1, 0.6, 1.1, 2.6])

    def _name(self) -> str:
        self._names += 1
        return f"n{self._names}"

    def _program(self, key: str, depth: int) -> list[Instruction]:
        return [self._instruction(key, depth) for _ in range(self._draw.randint(1, 3))]

    def _instruction(self, key: str, depth: int) -> Instruction:  # noqa: PLR0911  # one case each
        draw = self._draw
        kinds = ["sleep", "step", "bug", "refuse", "late"]
        if depth < 3:
            kinds += ["pay"] * 6 + ["together", "nested"]
        match draw.choice(kinds):
            case "pay":
                return self._payment(key, depth)
            case "sleep":
                return {"do": "sleep", "seconds": draw.choice([0.1, 0.5, 2.0])}
            case "late":
                return {"do": "late", "seconds": draw.choice([0.5, 1.5, 1.5])}
            case "refuse":
                return {"do": "refuse"}
            case "together":
                return {"do": "together", "programs": [self._program(key, depth + 1) for _ in range(2)]}
            case "nested":
                return {"do": "nested", "program": self._program(key, depth + 1)}
            case kind:
                return {"do": kind, "name": self._name(), "failures": draw.choice([0, 1, 2, 3])}

    def _payment(self, key: str, depth: int) -> Instruction:
        draw = self._draw
        to = draw.choice(KEYS[KEYS.index(key) + 1 :] * 4 + key)
        return {
            "do": "pay",
            "id": self._name(),
            "to": to,
            "amount": draw.randint(1, 9),
            "slowly": draw.random() < 0.3,
            "within": draw.choice([None, None, 0.5, 3.0]),
            "first": [] if draw.random() < 0.5 else [{"do": "sleep", "seconds": draw.choice([0.1, 1.0])}],
            "program": [] if to == key or draw.random() < 0.5 else self._program(to, depth + 1),
        }


async def told(world: World, story: Story) -> list[str]:
    """Each request is made, and made again if it was made before; some are cancelled."""
    ids = [""] * len(story.requests)
    events = [(at, "send", index) for index, (at, *_) in enumerate(story.requests)]
    events += [
        (at + after, "cancel", index) for index, (at, _, _, after) in enumerate(story.requests) if after is not None
    ]
    begun = world.now
    for at, what, index in sorted(events):
        await world.advance(max(0.0, begun + at - world.now))
        if what == "cancel":
            with suppress(Refused):  # it has ended
                await world.runtime.handle(ids[index]).cancel()
            continue
        _, key, program, _ = story.requests[index]
        pay = world.ref(Bank, key).pay.options(idempotency_key=f"r{index}")
        ids[index] = await world.send(pay, program)
    await world.advance(1000)
    return ids


def nothing_is_lost(world: World, ids: list[str]) -> None:
    kernel = world.runtime.engine.kernel
    for id in ids:
        assert world.invocation(id).ended, world.view(id)
    assert kernel.counts.queued == 0
    held = {key: entry for key in KEYS if (entry := kernel.entry("Bank", key)) is not None}
    assert all(entry.holder is None and not entry.mailbox for entry in held.values())

    def read(key: str, field: str, default: Any) -> Any:
        entry = held.get(key)
        return default if entry is None or field not in entry.fields else msgspec.json.decode(entry.fields[field])

    taken = {id: amount for key in KEYS for id, amount in read(key, "taken", {}).items()}
    given = {id: amount for key in KEYS for id, amount in read(key, "given", {}).items()}
    assert taken == given
    assert sum(read(key, "balance", BALANCE) for key in KEYS) == BALANCE * len(KEYS)


@pytest.mark.parametrize("seed", range(SEED, SEED + STORIES))
async def test_what_was_taken_was_given_or_is_back(worlds: Worlds, seed: int) -> None:
    """Undisturbed, and after crashes at random records, each request then made again."""
    story, draw = Story(seed), random.Random(seed)
    Luck.of_steps.clear()
    world = await worlds(Bank).start()
    nothing_is_lost(world, await told(world, story))
    kept = [*world.journal.records]

    for _ in range(CRASHES):
        Luck.of_steps.clear()
        count = draw.randrange(len(kept))
        world.store = world.store and MemoryStore()  # what it holds is of the life before, not of these records
        await world.begin_with(kept[:count])
        nothing_is_lost(world, await told(world, story))
