"""Steps: what is done outside, how often it is tried, and what is known of it while it runs."""

from __future__ import annotations

import asyncio
import contextvars
import shutil
import threading
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import pytest
from msgspec import Struct
from structlog.typing import EventDict

from perdure.objects import Limits, RetryPolicy, StepFailed, TerminalError, VirtualObject, current_step, handler, step
from perdure.runtime import ManualClock
from perdure.runtime.admission import Request
from perdure.runtime.engine import Engine
from perdure.runtime.records import Attempted, Notified, decode
from perdure.runtime.registry import Registry
from perdure.runtime.settings import Settings
from perdure.runtime.slots import Slots
from perdure.runtime.store import MemoryStore
from tests.runtime.kept_journal import KeptJournal

if TYPE_CHECKING:
    from tests.runtime.durable.conftest import World
    from tests.runtime.held_journal import HeldJournal

    Worlds = Callable[..., World]

PLAIN = RetryPolicy(first_delay=1, factor=2, jitter=0)


class Outside:
    """What the world sees of the steps, and what it does to them."""

    keys: ClassVar[defaultdict[str, list[str]]]
    attempts: ClassVar[defaultdict[str, list[int]]]
    failures: ClassVar[defaultdict[str, int]]
    gate: ClassVar[asyncio.Event]
    thread_gate: ClassVar[threading.Event]
    cancelled: ClassVar[list[str]]
    left: ClassVar[list[str]]


@pytest.fixture(autouse=True)
def outside() -> type[Outside]:
    Outside.keys = defaultdict(list)
    Outside.attempts = defaultdict(list)
    Outside.failures = defaultdict(int)
    Outside.gate = asyncio.Event()
    Outside.thread_gate = threading.Event()
    Outside.cancelled = []
    Outside.left = []
    return Outside


def seen(name: str) -> None:
    Outside.keys[name].append(current_step().key)
    Outside.attempts[name].append(current_step().attempt)
    if Outside.failures[name] > 0:
        Outside.failures[name] -= 1
        raise ConnectionError(f"{name} is down")


@step(retry=PLAIN)
async def stubborn(name: str) -> str:
    seen(name)
    return f"{name} done"


@step(retry=RetryPolicy(first_delay=1, factor=2, jitter=0, max_attempts=3))
def bounded(name: str) -> str:
    seen(name)
    return f"{name} done"


@step(retry=RetryPolicy(max_attempts=1))
async def once(name: str) -> str:
    seen(name)
    await Outside.gate.wait()
    return f"{name} done"


@step(retry=RetryPolicy(first_delay=1, jitter=0, max_attempts=2))
async def twice(name: str) -> str:
    seen(name)
    if len(Outside.attempts[name]) == 1:
        raise ConnectionError("at first")
    await Outside.gate.wait()
    return f"{name} done"


@step(retry=RetryPolicy(first_delay=10, factor=1, jitter=0, max_duration=25))
async def for_a_while(name: str) -> str:
    seen(name)
    return f"{name} done"


@step(retry=RetryPolicy(never=(ValueError,)))
async def never_for_value_errors(name: str) -> str:
    seen(name)
    raise ValueError("no use")


@step(timeout=0.01, retry=RetryPolicy(first_delay=1, jitter=0, max_attempts=2))
async def too_slow(name: str) -> None:
    seen(name)
    await asyncio.sleep(3_600)


@step(timeout=0.01, retry=RetryPolicy(first_delay=1, jitter=0, max_attempts=1))
def too_slow_in_a_thread(name: str) -> None:
    seen(name)
    me = current_step()
    Outside.thread_gate.wait(10)
    Outside.cancelled.append(f"{name} {me.cancelled}")


async def refused(name: str) -> None:
    seen(name)
    raise TerminalError("card refused", status=402, metadata={"card": "4711"})


async def waits(name: str) -> str:
    seen(name)
    try:
        await Outside.gate.wait()
    except asyncio.CancelledError:
        Outside.cancelled.append(f"{name} {current_step().cancelled}")
        raise
    finally:
        Outside.left.append(name)
    return f"{name} done"


def waits_in_a_thread(name: str) -> str:
    seen(name)
    me = current_step()
    while not me.cancelled and not Outside.thread_gate.wait(0.001):
        pass
    if me.cancelled:
        Outside.cancelled.append(name)
    Outside.left.append(name)
    return f"{name} done"


async def lingers(name: str) -> None:
    seen(name)
    while True:
        try:
            await Outside.gate.wait()
        except asyncio.CancelledError:
            continue
        Outside.left.append(name)
        return


def lingers_in_a_thread(name: str) -> None:
    seen(name)
    Outside.thread_gate.wait(10)
    Outside.left.append(name)


async def counts(name: str) -> int:
    for n in range(3):
        current_step().heartbeat({"done": n})
    await Outside.gate.wait()
    return 3


class Item(Struct, frozen=True):
    name: str
    price: float


@dataclass
class Pair:
    first: int
    second: tuple[str, ...]


def typed() -> dict[str, list[Item]]:
    return {"a": [Item("lamp", 2.5)]}


def a_pair() -> Pair:
    return Pair(1, ("x", "y"))


def unannotated():  # type: ignore[no-untyped-def]  # as people write it
    return Item("lamp", 2.5)


def mistyped() -> int:
    return "seven"  # type: ignore[return-value]  # a lie that no checker saw


def unencodable() -> Any:
    return object()


def plain_json():  # type: ignore[no-untyped-def]  # needs no annotation
    return {"a": [1, 2.5, None, "x"]}


def large(size: int) -> str:
    return "x" * size


def append(words: list[str], word: str) -> list[str]:
    words.append(word)
    return words


def returns_a_coroutine(name: str) -> Any:
    return stubborn(name)


flavour: contextvars.ContextVar[str] = contextvars.ContextVar("flavour", default="none")


def taste() -> str:
    was = flavour.get()
    flavour.set("changed by a step")
    return was


def logs(text: str) -> None:
    current_step().log.info("charged", text=text)


class Job(VirtualObject):
    log: list[str]

    @handler
    async def run(self, kind: str, name: str = "a") -> str:
        self.log.append("begun")
        result: str = await self.ctx.run(STEPS[kind], name)
        self.log.append(result)
        return result

    @handler
    async def reports(self, kind: str, name: str = "a") -> list[str]:
        try:
            await self.ctx.run(STEPS[kind], name)
        except TerminalError as error:
            return [type(error).__name__, str(error), str(error.status), str(error.metadata)]
        return []

    @handler
    async def add(self, word: str) -> list[str]:
        self.log.append(word)
        return self.log

    @handler
    async def values(self) -> list[str]:
        items = await self.ctx.run(typed)
        pair = await self.ctx.run(a_pair)
        return [items["a"][0].name, repr(items), repr(pair), str(await self.ctx.run(plain_json))]

    @handler
    async def says(self, kind: str) -> str:
        fns: dict[str, Callable[[], Any]] = {
            "mistyped": mistyped,
            "unencodable": unencodable,
            "unannotated": unannotated,
        }
        try:
            await self.ctx.run(step(fns[kind], retry=RetryPolicy(max_attempts=1)))
        except StepFailed as error:
            return str(error)
        return "fine"

    @handler
    async def gets_much(self, size: int) -> int:
        try:
            return len(await self.ctx.run(large, size))
        except StepFailed as error:
            self.log.append(str(error))
            return -1

    @handler
    async def by_value(self) -> list[list[str]]:
        words = ["mine"]
        running = self.ctx.run(append, words, "step's")
        words.append("handler's")
        returned = await running
        return [words, returned, self.log]

    @handler
    async def own_state(self) -> list[str]:
        self.log.append("mine")
        await self.ctx.run(append, self.log, "step's")
        return self.log

    @handler
    async def in_parallel(self) -> list[str]:
        return await asyncio.gather(*(self.ctx.run(meets, f"{n}") for n in range(4)))

    @handler
    async def coroutine(self) -> str:
        result: str = await self.ctx.run(returns_a_coroutine, "a")
        return result

    @handler
    async def tastes(self) -> list[str]:
        flavour.set("handler's")
        return [await self.ctx.run(taste), flavour.get()]

    @handler
    async def logging(self) -> None:
        await self.ctx.run(logs, "7 euro")

    @handler
    async def impatient(self, kind: str) -> str:
        try:
            async with asyncio.timeout(5):
                await self.ctx.run(STEPS[kind], "a")
        except TimeoutError:
            return "timed out"
        return "done"

    @handler
    async def counting(self) -> int:
        return await self.ctx.run(counts, "a")


meeting = threading.Barrier(4, timeout=10)


def meets(name: str) -> str:
    meeting.wait()
    return name


STEPS: dict[str, Callable[[str], Any]] = {
    **{fn.__name__: fn for fn in (lingers, lingers_in_a_thread)},
    **{fn.__name__: fn for fn in (stubborn, bounded, once, twice, for_a_while, never_for_value_errors, too_slow)},
    **{fn.__name__: fn for fn in (too_slow_in_a_thread, refused, waits, waits_in_a_thread)},
}


# --- how often --------------------------------------------------------------------------------------------------------


async def test_a_failing_step_is_tried_again_by_its_policy(worlds: Worlds) -> None:
    """After 1, 2, 4 s; each failed attempt is recorded, and the handler knows nothing of it."""
    world = await worlds(Job).start()
    Outside.failures["a"] = 3
    id = await world.send(world.ref(Job, "j").run, "stubborn")

    times: list[float] = []
    for _ in range(100):
        if len(Outside.attempts["a"]) > len(times):
            times.append(round(world.now, 1))
        await world.advance(0.1)

    assert await world.result(id) == "a done"
    assert times == [0.0, 1.0, 3.0, 7.0]
    assert Outside.attempts["a"] == [1, 2, 3, 4]
    assert world.kinds().count("Attempted") == 3


async def test_a_bounded_step_ends_in_step_failed(worlds: Worlds) -> None:
    """It names the step, the attempts and the last error."""
    world = await worlds(Job).start()
    Outside.failures["a"] = 9
    id = await world.send(world.ref(Job, "j").reports, "bounded")

    await world.advance(60)

    type_, message, status, _ = await world.result(id)
    assert type_ == "StepFailed"
    assert message == "step bounded failed for good after 3 attempts: ConnectionError: a is down"
    assert status == "500"
    assert Outside.attempts["a"] == [1, 2, 3]


async def test_a_step_may_be_bounded_by_time(worlds: Worlds) -> None:
    """Attempts at 0, 10, 20 and 30 s: at the last one 25 s are over."""
    world = await worlds(Job).start()
    Outside.failures["a"] = 99
    id = await world.send(world.ref(Job, "j").reports, "for_a_while")

    await world.advance(600)

    assert (await world.result(id))[0] == "StepFailed"
    assert Outside.attempts["a"] == [1, 2, 3, 4]


async def test_an_error_that_never_passes_is_not_tried_again(worlds: Worlds) -> None:
    world = await worlds(Job).start()
    id = await world.send(world.ref(Job, "j").reports, "never_for_value_errors")

    assert "ValueError: no use" in (await world.result(id))[1]
    assert Outside.attempts["a"] == [1]


async def test_a_terminal_error_in_a_step_is_its_outcome_at_once(worlds: Worlds) -> None:
    """With its status and metadata, and recorded: no restart asks again."""
    world = await worlds(Job).start()
    id = await world.send(world.ref(Job, "j").reports, "refused")

    assert await world.result(id) == ["TerminalError", "card refused", "402", "{'card': '4711'}"]
    await world.restart()
    await world.advance(60)
    assert Outside.attempts["a"] == [1]


async def test_the_timeout_is_for_each_attempt(worlds: Worlds) -> None:
    world = await worlds(Job).start()
    id = await world.send(world.ref(Job, "j").reports, "too_slow")
    await world.until(lambda: "Attempted" in world.kinds())
    await world.advance(1)
    await world.until(lambda: world.invocation(id).ended)

    assert "TimeoutError: took longer than" in (await world.result(id))[1]
    assert Outside.attempts["a"] == [1, 2]


async def test_a_thread_that_timed_out_sees_that_nobody_waits(worlds: Worlds) -> None:
    """It can't be stopped, but it is asked to."""
    world = await worlds(Job).start()
    id = await world.send(world.ref(Job, "j").reports, "too_slow_in_a_thread")
    await world.until(lambda: world.invocation(id).ended)

    Outside.thread_gate.set()
    await world.until(lambda: Outside.cancelled)

    assert Outside.cancelled == ["a True"]


class Narrow(VirtualObject, limits=Limits(steps=1)):
    @handler
    async def run(self, name: str) -> str:
        try:
            await self.ctx.run(too_slow_in_a_thread, name)
        except TerminalError as error:
            return type(error).__name__
        return "in time"


async def test_a_thread_that_timed_out_keeps_its_key_and_its_place_until_it_ends(worlds: Worlds) -> None:
    """As one that was cancelled: it may still be talking to the world outside on the key's behalf."""
    world = await worlds(Narrow).start()
    first = await world.send(world.ref(Narrow, "k").run, "a")
    behind = await world.send(world.ref(Narrow, "k").run, "b")
    beside = await world.send(world.ref(Narrow, "other").run, "c")

    await world.until(lambda: world.invocation(first).ended)
    await world.advance(9)
    assert await world.result(first) == "StepFailed"
    assert [*Outside.attempts] == ["a"]

    Outside.thread_gate.set()
    await world.until(lambda: world.invocation(behind).ended and world.invocation(beside).ended)
    assert sorted(Outside.attempts) == ["a", "b", "c"]


async def test_the_next_attempt_does_not_wait_for_a_thread_that_hangs(worlds: Worlds) -> None:
    """That is what a timeout is for; both are in the one place that the step has."""
    world = await worlds(Hanging).start()
    id = await world.send(world.ref(Hanging, "k").run)
    await world.until(lambda: "Attempted" in world.kinds())
    await world.advance(1)

    await world.until(lambda: world.invocation(id).ended)
    assert await world.result(id) == "a done"
    other = await world.send(world.ref(Hanging, "other").run)
    assert not world.invocation(other).ended, "the thread of the first attempt has the place"

    Outside.thread_gate.set()
    await world.until(lambda: world.invocation(other).ended)


@step(timeout=0.05, retry=RetryPolicy(first_delay=1, jitter=0))
def hangs_once(name: str) -> str:
    seen(name)
    if len(Outside.attempts[name]) == 1:
        Outside.thread_gate.wait(10)
    return f"{name} done"


class Hanging(VirtualObject, limits=Limits(steps=1)):
    @handler
    async def run(self) -> str:
        return await self.ctx.run(hangs_once, "a")


@pytest.mark.parametrize("kind", ["once", "twice"])
async def test_a_bounded_step_never_starts_more_often_than_allowed_whatever_crashes(worlds: Worlds, kind: str) -> None:
    """The attempt that a crash cut off counts: at-most-once is StepFailed, and never run again."""
    world = await worlds(Job).start()
    id = await world.send(world.ref(Job, "j").reports, kind)
    await world.advance(1)
    allowed = 1 if kind == "once" else 2
    assert len(Outside.attempts["a"]) == allowed

    for _ in range(3):
        await world.restart()
        await world.advance(10)

    assert (await world.result(id))[0] == "StepFailed"
    assert "cut off by the end of the process" in (await world.result(id))[1]
    assert len(Outside.attempts["a"]) == allowed


async def test_the_attempt_of_a_paused_handler_counts_after_a_loss_of_power(worlds: Worlds) -> None:
    """What had started can't be told then, so it may have; also of one that nothing calls back to memory."""
    world = await worlds(Job).start()
    id = await world.send(world.ref(Job, "j").reports, "once")
    assert Outside.attempts["a"] == [1]
    await world.runtime.engine.operations.pause(id)

    await world.restart()
    await world.runtime.engine.operations.resume(id)

    assert (await world.result(id))[0] == "StepFailed"
    assert Outside.attempts["a"] == [1]


@pytest.mark.parametrize("paused", [False, True])
async def test_after_a_loss_of_power_and_a_kill_an_attempt_still_counts(tmp_path: Path, paused: bool) -> None:
    """Killed again before the step was looked at: its class was not served in between."""
    store, clock, lives = MemoryStore(), ManualClock(), [KeptJournal()]
    settings = Settings(checkpoint_records_max=1, checkpoint_changes_max=1, memory_bytes_max=1)

    async def start(boot_id: bytes, cls: type = Job) -> Engine:
        slots = Slots(tmp_path / f"{len(lives)}", lambda: boot_id)
        return await Engine.open(Registry([cls]), lives[-1], settings, clock, slots=slots, store=store)

    async def kill(engine: Engine) -> None:
        """The next life finds the slots as they are now."""
        shutil.copy(tmp_path / f"{len(lives)}", tmp_path / f"{len(lives) + 1}")
        lives.append(KeptJournal(lives[-1].records))
        await engine.close()

    engine = await start(b"before")
    id = engine.submit(Request(service="Job", key="j", handler="reports", arguments=b'{"kind":"once"}', send=True)).id
    await until(lambda: Outside.attempts["a"])
    if paused:
        await engine.operations.pause(id)
    await kill(engine)
    await kill(await start(b"after", Narrow))
    engine = await start(b"after")
    if paused:
        await engine.operations.resume(id)
    await until(lambda: (one := engine.kernel.find(id)) is not None and one.ended)

    assert Outside.attempts["a"] == [1]
    await engine.close()


async def test_an_attempt_counts_until_what_it_ended_with_is_synced(tmp_path: Path, held_journal: HeldJournal) -> None:
    """Killed when the step has ended but its result isn't on disk, and again when its StepFailed isn't."""
    clock, request = ManualClock(), Request(service="Job", key="j", handler="reports", arguments=b'{"kind":"once"}')
    engine = await Engine.open(Registry([Job]), held_journal, Settings(), clock, slots=Slots(tmp_path / "1"))
    asyncio.ensure_future(engine.submit(request).outcome()).add_done_callback(lambda done: done.exception())
    await until(lambda: Outside.attempts["a"])
    held_journal.held = True
    Outside.gate.set()
    await until(lambda: held_journal.unsynced_bytes)
    synced = [*held_journal.records]
    shutil.copy(tmp_path / "1", tmp_path / "2")
    second = type(held_journal)(synced, held=True)
    engine_2 = await Engine.open(Registry([Job]), second, Settings(), clock, slots=Slots(tmp_path / "2"))
    await until(lambda: second.unsynced_bytes)
    shutil.copy(tmp_path / "2", tmp_path / "3")
    third = KeptJournal(synced)

    engine_3 = await Engine.open(Registry([Job]), third, Settings(), clock, slots=Slots(tmp_path / "3"))
    async with asyncio.timeout(10):
        await engine_3.settled()

    (ended,) = [decode(data) for data in third.records[len(synced) :] if isinstance(decode(data), Notified)]
    assert "cut off by the end of the process" in str(ended)
    assert Outside.attempts["a"] == [1]
    for each in (engine, engine_2, engine_3):
        await each.close()


async def until(done: Callable[[], object]) -> None:
    async with asyncio.timeout(10):
        while not done():
            await asyncio.sleep(0)


async def test_an_unbounded_step_runs_again_after_a_crash_with_the_same_key(worlds: Worlds) -> None:
    """The key is what the outside API gets as its idempotency key; the attempt that was cut off isn't a failure."""
    world = await worlds(Job).start()
    id = await world.send(world.ref(Job, "j").run, "waits")

    for _ in range(3):
        await world.restart()
        await world.settle()
    Outside.gate.set()

    assert await world.result(id) == "a done"
    assert len(Outside.keys["a"]) == 4
    assert len(set(Outside.keys["a"])) == 1


async def test_a_restart_keeps_to_the_backoff_and_to_the_count(worlds: Worlds) -> None:
    world = await worlds(Job).start()
    Outside.failures["a"] = 2
    id = await world.send(world.ref(Job, "j").run, "bounded")
    assert Outside.attempts["a"] == [1]

    await world.restart()
    await world.settle()
    assert Outside.attempts["a"] == [1]
    await world.advance(1)
    await world.restart()
    await world.advance(2)

    assert await world.result(id) == "a done"
    assert Outside.attempts["a"] == [1, 2, 3]
    assert len(set(Outside.keys["a"])) == 1


async def test_each_step_has_a_key_of_its_own(worlds: Worlds) -> None:
    world = await worlds(Job).start()
    for name in ("a", "b"):
        await world.call(world.ref(Job, "j").run("stubborn", name))

    assert Outside.keys["a"] != Outside.keys["b"]
    assert len(Outside.keys["a"][0]) >= 32


# --- while it runs ----------------------------------------------------------------------------------------------------


async def test_a_step_starts_only_when_what_asked_for_it_is_synced(worlds: Worlds, held_journal: HeldJournal) -> None:
    """Or a crash would find an effect in the world of which the journal knows nothing."""
    world = await worlds(Job, journal=held_journal).start()
    held_journal.held = True
    answer = asyncio.ensure_future(world.ref(Job, "j").run("stubborn"))

    await world.settle()
    assert Outside.attempts["a"] == []

    held_journal.release()
    await world.settle()
    assert Outside.attempts["a"] == [1]
    assert not answer.done()

    for _ in range(3):
        held_journal.release()
        await world.settle()
    assert answer.result() == "a done"


async def test_a_heartbeat_is_visible_from_outside(worlds: Worlds) -> None:
    """The last one, under the number of its command, as long as the step runs."""
    world = await worlds(Job).start()
    id = await world.send(world.ref(Job, "j").counting)

    assert world.view(id).status == "running"
    assert world.view(id).progress == {1: {"done": 2}}
    Outside.gate.set()
    assert await world.result(id) == 3
    assert world.view(id).progress == {}


async def test_the_steps_log_is_bound_to_it(worlds: Worlds, logged: list[EventDict]) -> None:
    world = await worlds(Job).start()
    id = await world.send(world.ref(Job, "j").logging)

    (event,) = [event for event in logged if event["event"] == "charged"]
    assert event["text"] == "7 euro"
    assert event["invocation"] == id
    assert event["step"] == "logs"
    assert event["attempt"] == 1


async def test_current_step_outside_a_step_says_so() -> None:
    with pytest.raises(RuntimeError, match=r"current_step\(\) outside a step"):
        current_step()


async def test_a_backing_off_step_shows_its_failure_and_when_it_is_tried_again(worlds: Worlds) -> None:
    world = await worlds(Job).start()
    Outside.failures["a"] = 9
    id = await world.send(world.ref(Job, "j").run, "stubborn")

    view = world.view(id)

    assert view.status == "backing-off"
    assert view.retry_count == 1
    assert view.next_retry_at == world.started_us + 1_000_000
    assert view.last_failure is not None
    assert view.last_failure.message == "a is down"


@pytest.mark.parametrize("kind", ["waits", "waits_in_a_thread"])
async def test_a_step_whose_wait_was_cancelled_is_asked_to_stop(worlds: Worlds, kind: str) -> None:
    """Async ones get CancelledError, threads see `cancelled`; the handler goes on at once."""
    world = await worlds(Job).start()
    id = await world.send(world.ref(Job, "j").impatient, kind)
    await world.until(lambda: Outside.attempts["a"])

    await world.advance(5)
    await world.until(lambda: Outside.left)

    assert await world.result(id) == "timed out"
    assert len(Outside.cancelled) == 1
    assert Outside.left == ["a"]


@pytest.mark.parametrize("kind", ["waits", "waits_in_a_thread"])
async def test_a_killed_invocations_steps_are_asked_to_stop(worlds: Worlds, kind: str) -> None:
    world = await worlds(Job).start()
    id = await world.send(world.ref(Job, "j").run, kind)
    await world.until(lambda: Outside.attempts["a"])

    await world.runtime.engine.operations.kill(id)
    await world.until(lambda: Outside.left)

    assert len(Outside.cancelled) == 1


async def test_sync_steps_run_in_threads_side_by_side(worlds: Worlds) -> None:
    """Four that meet at a barrier."""
    world = await worlds(Job).start()

    answer = asyncio.ensure_future(world.ref(Job, "j").in_parallel())
    await world.until(answer.done)

    assert answer.result() == ["0", "1", "2", "3"]


async def test_a_plain_function_may_return_a_coroutine(worlds: Worlds) -> None:
    world = await worlds(Job).start()
    assert await world.call(world.ref(Job, "j").coroutine()) == "a done"


async def test_context_variables_of_handler_and_step_are_apart(worlds: Worlds) -> None:
    """What a step sets, the handler doesn't see."""
    world = await worlds(Job).start()
    flavour.set("the test's")

    tasted, after = await world.call(world.ref(Job, "j").tastes())

    assert after == "handler's"
    assert tasted in ("handler's", "none")


# --- the key ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["lingers", "lingers_in_a_thread"])
async def test_the_key_passes_on_when_the_cancelled_step_has_left(worlds: Worlds, kind: str) -> None:
    """It may still be talking to the world outside on the key's behalf."""
    world = await worlds(Job).start()
    id = await world.send(world.ref(Job, "j").run, kind)
    next_ = await world.send(world.ref(Job, "j").add, "next")

    await world.runtime.engine.operations.cancel(id)
    await world.advance(9)
    assert world.invocation(id).ended
    assert not world.invocation(next_).ended

    Outside.gate.set()
    Outside.thread_gate.set()
    await world.until(lambda: world.invocation(next_).ended)
    assert Outside.left == ["a"]


async def test_the_key_passes_on_when_the_grace_is_over(worlds: Worlds) -> None:
    world = await worlds(Job).start()
    id = await world.send(world.ref(Job, "j").run, "lingers")
    next_ = await world.send(world.ref(Job, "j").add, "next")

    await world.runtime.engine.operations.cancel(id)
    await world.advance(9.9)
    assert not world.invocation(next_).ended
    await world.advance(0.2)
    assert world.invocation(next_).ended

    Outside.gate.set()


async def test_a_kill_passes_the_key_on_at_once(worlds: Worlds) -> None:
    world = await worlds(Job).start()
    id = await world.send(world.ref(Job, "j").run, "lingers")
    next_ = await world.send(world.ref(Job, "j").add, "next")

    await world.runtime.engine.operations.kill(id)
    await world.settle()

    assert world.invocation(next_).ended
    Outside.gate.set()


# --- by value ---------------------------------------------------------------------------------------------------------


async def test_results_come_back_as_their_types(worlds: Worlds) -> None:
    world = await worlds(Job).start()

    first = await world.call(world.ref(Job, "j").values())

    assert first == [
        "lamp",
        "{'a': [Item(name='lamp', price=2.5)]}",
        "Pair(first=1, second=('x', 'y'))",
        "{'a': [1, 2.5, None, 'x']}",
    ]


@pytest.mark.parametrize(
    ("kind", "says"),
    [("unannotated", "annotate what it returns"), ("mistyped", "expected"), ("unencodable", "object")],
)
async def test_a_result_that_would_not_come_back_is_refused(worlds: Worlds, kind: str, says: str) -> None:
    """At once: it would be the same the next time."""
    world = await worlds(Job).start()

    said = await world.call(world.ref(Job, "j").says(kind))

    assert said.startswith(f"the step {kind} returned")
    assert says in said


async def test_a_result_too_large_for_the_journal_is_a_failed_step(worlds: Worlds) -> None:
    """The handler may go on; it is not tried again, since it would be as large."""
    world = await worlds(Job).start()
    id = await world.send(world.ref(Job, "j").gets_much, 17 * 1024 * 1024)
    await world.until(lambda: world.invocation(id).ended)

    assert await world.result(id) == -1
    assert "can't be recorded" in (await world.call(world.ref(Job, "j").add("x")))[0]


async def test_arguments_are_taken_when_the_step_is_asked_for_and_copied(worlds: Worlds) -> None:
    """Neither sees what the other does to them later."""
    world = await worlds(Job).start()

    words, returned, _ = await world.call(world.ref(Job, "j").by_value())

    assert words == ["mine", "handler's"]
    assert returned == ["mine", "step's"]


async def test_a_step_that_is_given_a_field_can_not_change_it(worlds: Worlds) -> None:
    world = await worlds(Job).start()
    assert await world.call(world.ref(Job, "j").own_state()) == ["mine"]


async def test_every_attempt_gets_its_own_arguments(worlds: Worlds) -> None:
    """What a failed attempt did to them, the next one doesn't see."""
    world = await worlds(Changing).start()
    id = await world.send(world.ref(Changing, "c").go)

    await world.advance(10)

    assert await world.result(id) == ["given", "changed"]


class Changing(VirtualObject):
    @handler
    async def go(self) -> list[str]:
        return await self.ctx.run(changes_and_fails, ["given"])


@step(retry=PLAIN)
def changes_and_fails(words: list[str]) -> list[str]:
    words.append("changed")
    if current_step().attempt == 1:
        raise ConnectionError("after changing")
    return words


async def test_a_finished_step_is_never_run_again(worlds: Worlds) -> None:
    """Not by a replay, not by a restart at any later record."""
    world = await worlds(Job).start()
    id = await world.send(world.ref(Job, "j").run, "stubborn")
    records = world.recorded()
    ended = next(n for n, record in enumerate(records) if isinstance(record, Notified))
    kept = [*world.journal.records]
    assert Outside.attempts["a"] == [1]

    for count in range(ended + 1, len(kept) + 1):
        await world.begin_with(kept[:count])
        assert await world.result(id) == "a done"

    assert Outside.attempts["a"] == [1]
    assert not any(isinstance(record, Attempted) for record in world.recorded())
