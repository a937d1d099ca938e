"""Cancel and kill, through a tree of three invocations, in each state one of them may be in.

`a` calls `b` calls `c`; each notes what happens to it in its state, and undoes a step when it ends for good.  One of
the three is `stuck` in a state; then one of them is cancelled or killed; the process may be restarted before or after.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from perdure.journal import MemoryJournal
from perdure.objects import RetryPolicy, TerminalError, VirtualObject, current_step, handler, shared
from perdure.runtime import ManualClock, RemoteHandle, Runtime, Settings
from perdure.runtime.operations import InvocationView

LEVELS = "abc"
STATES = ("scheduled", "pending", "running", "backing-off", "suspended", "paused")
HOUR = 3600.0


class Unmendable(Exception):
    """Not worth another attempt."""


class World:
    """What steps do and see: it outlives the process, as the world does."""

    def __init__(self) -> None:
        self.undone: list[str] = []
        self.working: set[str] = set()
        self.told_to_stop: list[str] = []
        self.thread_saw = threading.Event()


world = World()


async def undo(level: str) -> None:
    world.undone.append(level)


async def work_for_long(level: str) -> str:
    world.working.add(level)
    try:
        await asyncio.Event().wait()
    except asyncio.CancelledError:
        assert current_step().cancelled
        world.told_to_stop.append(level)
        raise
    finally:
        world.working.discard(level)
    return "worked"


class Level(VirtualObject):
    log: list[str]

    @handler(retry=RetryPolicy(first_delay=HOUR, max_delay=HOUR, jitter=0, never=(Unmendable,)))
    async def work(self, stuck: str, state: str) -> str:
        """`stuck` is the level that gets into `state`; those above wait for it, those below sleep."""
        self.log.append("began")
        try:
            async with self.ctx.saga() as saga:
                saga.undo(undo, self.key)
                if self.key < stuck:
                    await self.call_below(stuck, state)
                else:
                    await self.stay(stuck, state)
        except asyncio.CancelledError:
            self.log.append("cancelled")
            raise
        except TerminalError as error:
            self.log.append(f"told {error.status}")
            raise
        return "worked"

    async def call_below(self, stuck: str, state: str) -> None:
        below = chr(ord(self.key) + 1)
        if below == stuck and state == "scheduled":
            await self.ctx.ref(Level, below).work.send_after(HOUR, stuck, state).attach()
        else:
            await self.ctx.ref(Level, below).work(stuck, state)

    async def stay(self, stuck: str, state: str) -> None:
        if self.key == "c":
            await self.get_stuck(stuck, state)
            return
        called = asyncio.create_task(self.call_below(stuck, state))
        try:
            await self.get_stuck(stuck, state)
        finally:
            called.cancel()

    async def get_stuck(self, stuck: str, state: str) -> None:
        if self.key == stuck and state == "running":
            await self.ctx.run(work_for_long, self.key)
        elif self.key == stuck and state in ("backing-off", "paused"):
            await asyncio.sleep(1)
            raise ValueError("boom") if state == "backing-off" else Unmendable("broken")
        else:
            await asyncio.sleep(24 * HOUR)

    @handler
    async def hold(self) -> None:
        await self.ctx.signal("free", type(None))

    @handler
    async def in_a_thread(self) -> None:
        await self.ctx.run(wait_in_a_thread)

    @handler
    async def will_not_hear(self) -> str:
        while True:
            try:
                await self.ctx.signal("never", str)
            except asyncio.CancelledError:
                self.log.append("no")

    @handler
    async def cleans_up_slowly(self) -> None:
        try:
            await asyncio.sleep(24 * HOUR)
        finally:
            self.log.append("cleaning")
            await asyncio.sleep(HOUR)
            self.log.append("clean")

    @handler
    async def next(self) -> str:
        return "mine"

    @shared
    async def notes(self) -> list[str]:
        return self.log


def wait_in_a_thread() -> None:
    step = current_step()
    world.working.add("thread")
    pause = threading.Event()
    while not step.cancelled:
        pause.wait(0.001)
    world.thread_saw.set()


class Story:
    """A runtime on a clock that stands still, which can be ended and begun again on the same journal."""

    def __init__(self, **settings: Any) -> None:
        self.clock = ManualClock()
        self.settings = Settings(**settings)
        self.journal = MemoryJournal()
        self.runtime = self._made()

    def _made(self) -> Runtime:
        return Runtime([Level], data_dir=None, clock=self.clock, settings=self.settings, journal=self.journal)

    async def restart(self) -> None:
        await self.runtime.__aexit__(None, None, None)
        self.journal = MemoryJournal(self.journal.records)
        self.runtime = self._made()
        await self.runtime.__aenter__()

    async def begin(self, stuck: str, state: str) -> dict[str, str]:
        """Ids by level, once `stuck` is in `state`."""
        if state == "pending":
            await self.runtime.send(self.runtime.ref(Level, stuck).hold)
        first = self.runtime.ref(Level, "a").work
        if stuck == "a" and state == "scheduled":
            await self.runtime.send_after(HOUR, first, stuck, state)
        else:
            await self.runtime.send(first, stuck, state)
        await self.until(lambda: self.views().get(stuck, {}).get("status") != "ready")
        if state in ("backing-off", "paused"):
            await self.runtime.advance(2)
        await self.in_state(stuck, state)
        return {level: str(view["id"]) for level, view in self.views().items()}

    async def in_state(self, stuck: str, state: str) -> None:
        await self.until(lambda: state != "running" or stuck in world.working)
        assert self.views()[stuck]["status"] == state

    def views(self) -> dict[str, dict[str, Any]]:
        """What operators see of `work`, by level."""
        engine = self.runtime.engine
        views = [engine.operations.describe(id) for id in [*engine.kernel.invocations]]
        return {view.target[6]: plain(view) for view in views if view.target.endswith("work")}

    async def until(self, condition: Callable[[], bool]) -> None:
        """Rounds of the loop, as many as it takes; a step in flight is not waited for."""
        for _ in range(1000):
            await asyncio.sleep(0)
            if condition() and self.runtime.engine._driver.idle:  # pyright: ignore[reportPrivateUsage]
                return
        raise AssertionError(f"it does not happen: {self.views()}")

    async def rest(self) -> None:
        await self.runtime.engine.settled()


def plain(view: InvocationView) -> dict[str, Any]:
    return {name: getattr(view, name) for name in view.__struct_fields__}


@pytest.fixture(autouse=True)
def fresh_world() -> None:
    global world  # noqa: PLW0603
    world = World()


Begin = Callable[..., Any]


@pytest.fixture
async def stories() -> AsyncIterator[Begin]:
    made: list[Story] = []

    async def begin(**settings: Any) -> Story:
        made.append(Story(**settings))
        await made[-1].runtime.__aenter__()
        return made[-1]

    yield begin
    for story in made:
        await story.runtime.__aexit__(None, None, None)


def cases() -> list[tuple[str, str, str]]:
    """Who is stuck, in which state, and who is stopped: that one, or the first of its callers."""
    return [(stuck, state, target) for stuck in LEVELS for state in STATES for target in sorted({stuck, "a"})]


def expected(stuck: str, state: str, target: str, action: str) -> tuple[dict[str, list[str]], set[str]]:
    """What each level notes, and who is undone."""
    began = [level for level in LEVELS if level < stuck or (level >= stuck and state not in ("scheduled", "pending"))]
    detached = state == "scheduled" and target < stuck  # a message is not part of its sender's tree
    notes: dict[str, list[str]] = {level: [] for level in LEVELS}
    for level in began:
        notes[level] = ["began"]
        if level < target:
            notes[level].append("told 409")
        elif action == "cancel" and not (detached and level >= stuck):
            notes[level].append("cancelled")
    undone = {level for level in began if level < target or action == "cancel"}
    return notes, undone


@pytest.mark.parametrize("replay_always", [False, True], ids=["", "replayed"])
@pytest.mark.parametrize("restart", ["no restart", "restart before", "restart after"])
@pytest.mark.parametrize("action", ["cancel", "kill"])
@pytest.mark.parametrize(("stuck", "state", "target"), cases())
async def test_the_table(
    stories: Begin, stuck: str, state: str, target: str, action: str, restart: str, replay_always: bool
) -> None:
    """Those above are told, those below go with it; cancelled ones clean up, killed ones run no code any more."""
    story: Story = await stories(replay_always=replay_always)
    ids = await story.begin(stuck, state)
    if restart == "restart before":
        await story.restart()
        await story.in_state(stuck, state)

    operations = story.runtime.engine.operations
    await (operations.cancel(ids[target]) if action == "cancel" else operations.kill(ids[target]))
    if restart == "restart after":
        await story.restart()
    await story.rest()

    notes, undone = expected(stuck, state, target, action)
    assert {level: await story.runtime.ref(Level, level).notes() for level in LEVELS} == notes
    assert sorted(world.undone) == sorted(undone)
    assert world.working == set()
    if state == "running" and restart == "no restart":
        assert world.told_to_stop == [stuck]
    views = story.views()
    detached = {stuck} if state == "scheduled" and target < stuck else set[str]()
    assert {level for level, view in views.items() if view["status"] != "completed"} == detached
    for level in ids.keys() - detached:
        await told(story.runtime.handle(ids[level]), "Cancelled" if action == "cancel" else "Killed")
    await keys_are_free(story)


async def told(handle: RemoteHandle[Any], reason: str) -> None:
    """Who attaches, also later, gets the reason."""
    with pytest.raises(TerminalError) as caught:
        await handle.attach()
    assert caught.value.status == 409
    assert reason.lower() in str(caught.value)


async def keys_are_free(story: Story) -> None:
    for held in [one for one in story.runtime.engine.kernel.invocations.values() if one.handler == "hold"]:
        await story.runtime.handle(held.id).signal("free", None)
    for level in LEVELS:
        assert await story.runtime.ref(Level, level).next() == "mine"


async def test_a_step_in_a_thread_sees_that_nobody_waits_for_it(stories: Begin) -> None:
    story: Story = await stories()
    handle = await story.runtime.send(story.runtime.ref(Level, "a").in_a_thread)
    await story.until(lambda: bool(story.runtime.engine._driver.running_steps()))  # pyright: ignore[reportPrivateUsage]

    await handle.cancel()

    await told(handle, "cancelled")
    assert await asyncio.to_thread(world.thread_saw.wait, 10)


async def test_one_that_swallows_the_cancellation_goes_on_and_can_be_killed(stories: Begin) -> None:
    """As in asyncio: it was asked, not made.  It is asked once."""
    story: Story = await stories()
    handle = await story.runtime.send(story.runtime.ref(Level, "a").will_not_hear)

    await handle.cancel()
    await handle.cancel()
    await story.rest()
    assert await story.runtime.ref(Level, "a").notes() == ["no"]
    assert story.runtime.engine.operations.describe(handle.id).status == "suspended"

    await story.runtime.engine.operations.kill(handle.id)
    await told(handle, "killed")
    assert await story.runtime.ref(Level, "a").notes() == ["no"]
    await keys_are_free(story)


@pytest.mark.parametrize("restart", [False, True])
async def test_a_kill_in_the_middle_of_cleaning_up(stories: Begin, restart: bool) -> None:
    """What was cleaned up stays so; the rest is not done."""
    story: Story = await stories()
    handle = await story.runtime.send(story.runtime.ref(Level, "a").cleans_up_slowly)
    await handle.cancel()
    await story.rest()
    if restart:
        await story.restart()

    await story.runtime.engine.operations.kill(handle.id)
    await story.runtime.advance(2 * HOUR)

    assert await story.runtime.ref(Level, "a").notes() == ["cleaning"]
    await told(story.runtime.handle(handle.id), "killed")


async def test_cleaning_up_goes_on_after_a_restart(stories: Begin) -> None:
    story: Story = await stories()
    handle = await story.runtime.send(story.runtime.ref(Level, "a").cleans_up_slowly)
    await handle.cancel()
    await story.rest()

    await story.restart()
    await story.runtime.advance(2 * HOUR)

    assert await story.runtime.ref(Level, "a").notes() == ["cleaning", "clean"]
    await told(story.runtime.handle(handle.id), "cancelled")


async def test_one_that_has_its_key_but_has_not_begun_ends_at_once(stories: Begin) -> None:
    """Cancelled in the same breath as it was sent: nothing of it ever happened, so no code of it is run."""
    story: Story = await stories()
    sent = asyncio.create_task(story.runtime.send(story.runtime.ref(Level, "c").work, "c", "suspended"))
    await asyncio.sleep(0)
    (waiting,) = story.views().values()
    assert waiting["status"] == "ready"

    await story.runtime.engine.operations.cancel(str(waiting["id"]))

    await told(await sent, "cancelled")
    assert await story.runtime.ref(Level, "c").notes() == []
    assert world.undone == []
