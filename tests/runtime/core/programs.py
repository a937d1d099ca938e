"""Random programs: trees of instructions that are drawn from a seed and interpreted by objects.

Writes, calls, messages, sleeps, failures, things done at the same time.  Each message has a value of its own, appended
to a list where it arrives: so what is lost, or delivered twice, shows.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from typing import TYPE_CHECKING, Any

import msgspec

from perdure.objects import TerminalError, VirtualObject, handler, shared
from perdure.runtime.records import Send, Turn
from tests.runtime.kernel_dump import counted, told_by

if TYPE_CHECKING:
    from tests.runtime.core.conftest import World

KEYS = "abcd"

Instruction = dict[str, Any]


class Machine(VirtualObject):
    """Interprets instructions.  Only what is in the journal decides: all else would be found as a mismatch."""

    arrived: list[str]
    notes: dict[str, str]
    count: int = 0

    @handler
    async def run(self, name: str, program: list[dict[str, Any]]) -> str:
        self.arrived.append(name)
        return await self.interpret(name, program)

    async def interpret(self, name: str, program: list[dict[str, Any]]) -> str:  # noqa: PLR0912  # one case each
        result = name
        for number, step in enumerate(program):
            match step["do"]:
                case "write":
                    self.count += step["amount"]
                    self.notes[name] = str(number)
                case "sleep":
                    await asyncio.sleep(step["seconds"])
                case "send":
                    other = self.ctx.ref(Machine, step["key"])
                    if step["delay"]:
                        other.run.send_after(step["delay"], name=step["name"], program=step["program"])
                    else:
                        other.run.send(name=step["name"], program=step["program"])
                case "call":
                    result = await self.safely(name, step)
                case "together":
                    await asyncio.gather(*(self.safely(name, one) for one in step["steps"]))
                case "race":
                    tasks = [asyncio.create_task(self.safely(name, one)) for one in step["steps"]]
                    done, late = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
                    self.notes[f"{name} race"] = f"{len(done)} {len(late)}"
                    for task in late:
                        task.cancel()
                    await asyncio.gather(*late, return_exceptions=True)
                case "within":
                    try:
                        async with asyncio.timeout(step["seconds"]):
                            await self.safely(name, step["step"])
                    except TimeoutError:
                        self.notes[f"{name} late"] = str(number)
                case "draw":
                    self.notes[f"{name} drew"] = f"{self.ctx.random.randrange(1000)} {self.ctx.uuid()}"
                case "refuse":
                    raise TerminalError(f"{name} refuses", status=409)
                case _:
                    raise AssertionError(step)
        return result

    async def safely(self, name: str, step: dict[str, Any]) -> str:
        if step["do"] == "sleep":
            await asyncio.sleep(step["seconds"])
            return ""
        try:
            return await self.ctx.ref(Machine, step["key"]).run(name=step["name"], program=step["program"])
        except TerminalError as error:
            self.notes[f"{step['name']} refused"] = type(error).__name__
            return "refused"

    @shared
    async def look(self) -> int:
        return self.count


class Drawn:
    """One program, and the names of all that its instructions make.

    A `wild` one has everything.  Of one that isn't, the end doesn't depend on who comes first: calls lead only from a
    key to a later one, so that nothing is refused for a deadlock, and nobody races.
    """

    def __init__(self, seed: int, *, wild: bool) -> None:
        self._draw = random.Random(seed)
        self._wild = wild
        self._names = 0
        self.requests: list[tuple[float, str, str, list[Instruction]]] = []
        for _ in range(self._draw.randint(2, 5)):
            at, key = self._draw.choice([0.0, 0.0, 0.5, 2.0]), self._draw.choice(KEYS)
            self.requests.append((at, key, self._name(), self._program(key, depth=0)))
        self.requests.sort(key=lambda request: request[0])

    def _name(self) -> str:
        self._names += 1
        return f"m{self._names}"

    def _program(self, key: str, depth: int) -> list[Instruction]:
        return [self._step(key, depth) for _ in range(self._draw.randint(1, 4))]

    def _step(self, key: str, depth: int) -> Instruction:  # noqa: PLR0911  # one case each
        draw, others = self._draw, self._callable_from(key)
        kinds = ["write", "write", "sleep", "draw"]
        if depth < 3:
            kinds += ["send", "send"]
        if depth < 3 and others:
            kinds += ["call", "call", "together", *(["race", "within"] if self._wild else [])]
        if depth > 0:
            kinds += ["refuse"]
        match draw.choice(kinds):
            case "write":
                return {"do": "write", "amount": draw.randint(1, 9)}
            case "sleep":
                return self._sleep()
            case "draw":
                return {"do": "draw"}
            case "refuse":
                return {"do": "refuse"}
            case "send":
                return {**self._call(KEYS, depth), "do": "send", "delay": draw.choice([0, 0, 1.5, 7.25])}
            case "call":
                return self._call(others, depth)
            case "within":
                return {"do": "within", "seconds": draw.choice([0.25, 2.0]), "step": self._call(others, depth)}
            case kind:
                return {"do": kind, "steps": [self._wait(others, depth) for _ in range(draw.randint(2, 3))]}

    def _wait(self, others: str, depth: int) -> Instruction:
        return self._sleep() if self._draw.random() < 0.5 else self._call(others, depth)

    def _callable_from(self, key: str) -> str:
        return KEYS if self._wild else KEYS[KEYS.index(key) + 1 :]

    def _sleep(self) -> Instruction:
        return {"do": "sleep", "seconds": self._draw.choice([0.001, 0.5, 1.0, 3.0])}

    def _call(self, keys: str, depth: int) -> Instruction:
        key, name = self._draw.choice(keys), self._name()
        return {"do": "call", "key": key, "name": name, "program": self._program(key, depth + 1)}


def memory(world: World, *, draws: bool = True) -> dict[str, Any]:
    """What the objects hold, whoever came first: who arrived, what was noted, the sums.

    What was drawn depends on the seed of an invocation, which is another one if it was not yet accepted at the crash.
    """
    held: dict[str, Any] = {}
    for key in KEYS:
        fields = world.state("Machine", key)
        notes = {name: note for name, note in fields.get("notes", {}).items() if draws or not name.endswith(" drew")}
        held[key] = (sorted(fields.get("arrived", [])), fields.get("count", 0), notes)
    return held


def arrivals(world: World) -> Counter[str]:
    return Counter(name for key in KEYS for name in world.state("Machine", key).get("arrived", []))


def all_ended_well(world: World) -> None:
    """Nothing waits, nothing is paused, nothing is left over; each message that was sent arrived, and none twice."""
    kernel = world.engine.kernel
    assert not world.engine.failed.done()
    world.objects()  # which brings all of it into memory
    assert all(one.ended for one in kernel.invocations.values())
    assert told_by(kernel.counts) == counted(kernel)
    assert kernel.counts.queued == 0
    assert len(kernel.timers) == 0
    assert all(entry.holder is None and not entry.mailbox for entry in kernel.objects.values())
    assert "Paused" not in world.kinds()
    assert "Attempted" not in world.kinds()
    assert max(arrivals(world).values(), default=0) <= 1
    assert sent_messages(world) <= set(arrivals(world))


def sent_messages(world: World) -> set[str]:
    """What the journal says was sent."""
    turns = (record for record in world.recorded() if isinstance(record, Turn))
    sends = (command for turn in turns for command in turn.commands if isinstance(command, Send))
    return {msgspec.json.decode(send.arguments)["name"] for send in sends}


async def life(world: World, drawn: Drawn, draw: random.Random | None = None) -> World:
    """Everything is asked for at its time, by clients that ask again after a crash, and ends.

    With `draw` the process also crashes at some of these times.
    """
    await world.start()
    for at, key, name, program in drawn.requests:
        if at > world.now:
            await world.advance(at - world.now)
        world.submit(f"Machine/{key}/run", {"name": name, "program": program}, idempotency_key=name)
        if draw is not None and draw.random() < 0.5:
            await world.settle()
            await world.restart()
    if draw is not None:
        for _ in range(3):
            await world.advance(draw.choice([0.3, 0.7, 1.6]))
            await world.restart()
    await world.advance(1000)
    return world
