"""A handler that kills its process is found by the slots, and paused before it does so for ever."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from perdure.objects import RetryPolicy, VirtualObject, handler, step
from perdure.runtime.invocations import Status
from perdure.runtime.records import Attempted, Failed, Success
from perdure.runtime.slots import NoSlots, Slots
from tests.runtime.kept_journal import KeptJournal

if TYPE_CHECKING:
    from tests.runtime.core.conftest import World
    from tests.runtime.held_journal import HeldJournal

    Worlds = Callable[..., World]


TURN_AT = 128


def driven_in(file: Path) -> str:
    """The invocation whose turn runs, read off the file as the next process would find it."""
    return file.read_bytes()[TURN_AT:].split(b"\0")[0].decode("ascii", "replace")


class Witness:
    """Looks at the file while a handler runs, as the next process would find it if this one died there."""

    file = Path()
    seen: list[str] = []  # noqa: RUF012  # emptied by the fixture

    @classmethod
    def look(cls) -> None:
        cls.seen.append(driven_in(cls.file))


class Bomb(VirtualObject):
    value: int = 0

    @handler
    async def go(self) -> int:
        Witness.look()
        self.value += 1
        return self.value

    @handler
    async def slowly(self) -> int:
        Witness.look()
        await asyncio.sleep(10)
        Witness.look()
        self.value += 1
        return self.value


class Twice(VirtualObject):
    @handler
    async def go(self) -> None:
        await self.ctx.run(at_most_twice)


starts: list[int] = []


@step(retry=RetryPolicy(first_delay=1, jitter=0, max_attempts=2))
async def at_most_twice() -> None:
    starts.append(len(starts))
    if len(starts) == 1:
        raise ConnectionError("the first one fails")
    await asyncio.Event().wait()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    Witness.file, Witness.seen = tmp_path / "slots", []
    Witness.file.write_bytes(b"\0")
    return Witness.file


def killed_while_driving(file: Path, id: str) -> Slots:
    """What the next process finds after a SIGKILL in a turn of `id`."""
    dead = Slots(file)
    dead.take_over()
    dead.driving(id)
    return Slots(file)


async def die(world: World, file: Path, id: str) -> None:
    """The process is killed in a turn of `id`, and started again."""
    await world.crash()
    world.slots = killed_while_driving(file, id)
    await world.start()


async def test_while_a_turn_runs_its_invocation_stands_in_the_file(worlds: Worlds, file: Path) -> None:
    """Before and after it nothing does."""
    world: World = worlds(Bomb)
    world.slots = Slots(file)
    await world.start()

    submission = world.submit("Bomb/a/slowly")
    await world.advance(5)
    between = driven_in(file)
    await world.advance(5)

    assert await world.outcome_of(submission) == Success(b"1")
    assert Witness.seen == [submission.id] * (3 if world.cold else 2)  # the first turn is replayed for the second
    assert between == ""
    assert driven_in(file) == ""


def test_the_file_outlives_its_process(tmp_path: Path) -> None:
    """A second mapping sees what the first wrote, without any sync; once."""
    slots = Slots(tmp_path / "slots")
    assert slots.take_over() == (None, None)

    slots.driving("inv_000aaaa")
    slots.driving("inv_1")
    slots.step_started(("inv_1", 3), 5_000_000)
    slots.step_started(("inv_1", 4), 6_000_000)
    slots.step_ended(("inv_1", 4))
    slots.alive(7_500_000)

    successor = Slots(tmp_path / "slots")
    assert successor.take_over() == ("inv_1", {("inv_1", 3): 2.5})
    assert Slots(tmp_path / "slots").take_over() == (None, {})


def test_after_a_reboot_nothing_in_the_file_is_believed(tmp_path: Path) -> None:
    """A machine that lost power kept of it what it liked."""
    before = Slots(tmp_path / "slots", boot_id=lambda: b"one")
    before.take_over()
    before.driving("inv_1")

    assert Slots(tmp_path / "slots", boot_id=lambda: b"two").take_over() == (None, None)
    assert Slots(tmp_path / "slots", boot_id=lambda: b"").take_over() == (None, None)


def test_with_more_steps_than_slots_all_may_have_started(tmp_path: Path) -> None:
    """Better one attempt counted that never was than a step that may run once run twice."""
    slots = Slots(tmp_path / "slots")
    slots.take_over()

    for command in range(3000):
        slots.step_started(("inv_1", command), 1)
    for command in range(3000):
        slots.step_ended(("inv_1", command))

    assert Slots(tmp_path / "slots").take_over().steps is None
    assert Slots(tmp_path / "slots").take_over().steps == {}


def test_a_file_full_of_rubbish_is_no_trouble(tmp_path: Path) -> None:
    """It is no journal: what can't be read as an id names nobody."""
    (tmp_path / "slots").write_bytes(b"\xff" * 10_000)

    assert Slots(tmp_path / "slots").take_over() == (None, None)


async def test_a_handler_that_kills_its_process_three_times_is_paused(worlds: Worlds, file: Path) -> None:
    """Twice it is tried again at once, since it may be innocent; the third death pauses it, and nobody else."""
    world = await worlds(Bomb).start()
    bomb = world.submit("Bomb/a/go", send=True, delay_us=1_000_000)
    await world.advance(1)
    await world.crash(keep=2)  # the acceptance and its Due: it never got further
    Witness.seen = []

    for death in (1, 2, 3):
        world.slots = killed_while_driving(file, bomb.id)
        await world.start()
        assert world.invocation(bomb).deaths == death
        await world.crash()

    world.slots = NoSlots()
    await world.start()
    await world.advance(3600)
    assert world.invocation(bomb).status is Status.PAUSED
    failure = world.invocation(bomb).last_failure
    assert failure is not None
    assert failure.type == "ProcessDied"
    assert Witness.seen == []
    assert await world.call("Bomb/b/go") == 1
    attempts = [record for record in world.recorded() if isinstance(record, Attempted)]
    assert [record.died for record in attempts] == [True] * 3
    assert [record.next_at is None for record in attempts] == [False, False, True]


async def test_a_turn_that_commits_makes_up_for_the_deaths_before(worlds: Worlds, file: Path) -> None:
    """Somebody else killed the process while it ran, twice; it went on, so it was innocent."""
    world = await worlds(Bomb).start()
    submission = world.submit("Bomb/a/slowly", idempotency_key="k")
    await world.settle()

    for _ in range(2):
        await die(world, file, submission.id)
        await world.settle()
    await world.advance(10)

    assert await world.outcome("Bomb/a/slowly", idempotency_key="k") == Success(b"1")


async def test_a_paused_bomb_can_be_resumed(worlds: Worlds, file: Path) -> None:
    """After the code was mended."""
    world = await worlds(Bomb).start()
    submission = world.submit("Bomb/a/slowly", idempotency_key="k")
    await world.settle()
    for _ in range(3):
        await die(world, file, submission.id)
    await world.advance(20)
    assert world.invocation(submission).status is Status.PAUSED

    await world.engine.operations.resume(submission.id)
    await world.advance(20)

    assert await world.outcome("Bomb/a/slowly", idempotency_key="k") == Success(b"1")


async def test_a_death_is_recorded_once(worlds: Worlds, file: Path) -> None:
    """The next quiet restart finds an empty slot."""
    world = await worlds(Bomb).start()
    submission = world.submit("Bomb/a/slowly")
    await world.settle()
    await die(world, file, submission.id)
    await world.settle()

    await world.crash()
    world.slots = Slots(file)
    await world.start()

    assert world.kinds().count("Attempted") == 1


@pytest.mark.parametrize("id", ["inv_000unknown", ""])
async def test_a_death_of_one_that_left_no_record_is_nothing(worlds: Worlds, file: Path, id: str) -> None:
    """A read, or one whose acceptance was not synced."""
    world = await worlds(Bomb).start()

    await die(world, file, id)
    await world.settle()

    assert world.kinds() == []
    assert await world.call("Bomb/a/go") == 1


async def test_a_death_counts_before_the_turn_is_tried_again(
    worlds: Worlds, held_journal: HeldJournal, file: Path
) -> None:
    """Or a handler that kills at once would kill each process before that process has written the death down."""
    world = await worlds(Bomb).start()
    submission = world.submit("Bomb/a/slowly")
    await world.settle()
    await world.crash()
    records = world.journal.records
    held_journal.records += records
    held_journal._recovered = len(records)  # pyright: ignore[reportPrivateUsage]
    world.journal = held_journal
    world.slots = killed_while_driving(file, submission.id)
    Witness.seen = []
    world.sleep_while_down(60)

    starting = asyncio.ensure_future(world.start())
    for _ in range(50):
        await asyncio.sleep(0)
    assert not starting.done()
    held_journal.release()
    await starting
    assert Witness.seen == []

    held_journal.held = False
    await world.advance(1)
    assert world.state("Bomb", "a") == {"value": 1}


RAN: list[str] = []


async def unbounded() -> int:
    RAN.append("unbounded")
    await asyncio.Event().wait()
    return 1


@step(retry=RetryPolicy(max_attempts=2))
async def bounded() -> int:
    RAN.append("bounded")
    await asyncio.Event().wait()
    return 1


class Stepper(VirtualObject):
    @handler
    async def go(self, which: str) -> int:
        return await self.ctx.run(unbounded if which == "unbounded" else bounded)


async def killed_in_a_step(worlds: Worlds, file: Path, which: str, ran_seconds: float, deaths: int) -> World:
    """The process is killed again and again, each time so long after the step began."""
    RAN.clear()
    world = worlds(Stepper)
    world.slots = Slots(file)
    await world.start()
    world.submit("Stepper/a/go", which, idempotency_key="k")
    for _ in range(deaths):
        await world.advance(0)
        world.slots.alive(world.clock.now_us() + round(ran_seconds * 1e6))
        left = file.read_bytes()
        await world.crash()
        file.write_bytes(left)
        world.slots = Slots(file)
        await world.start()
    await world.advance(0)
    return world


async def test_a_step_that_kills_its_process_three_times_is_paused(worlds: Worlds, file: Path) -> None:
    """Without limits of its own it would do so after every restart."""
    world = await killed_in_a_step(worlds, file, "unbounded", ran_seconds=0.5, deaths=3)

    (invocation,) = world.invocations("Stepper/a/go")
    assert invocation.status is Status.PAUSED
    assert RAN == ["unbounded"] * 3
    assert invocation.last_failure is not None
    assert "while step unbounded ran" in invocation.last_failure.message


async def test_a_long_step_that_happens_to_run_is_innocent(worlds: Worlds, file: Path) -> None:
    """Somebody killed the process again and again; it is simply run again."""
    world = await killed_in_a_step(worlds, file, "unbounded", ran_seconds=3600, deaths=5)

    (invocation,) = world.invocations("Stepper/a/go")
    assert invocation.status is Status.OPEN
    assert RAN == ["unbounded"] * 6
    assert "Attempted" not in world.kinds()


async def test_each_started_attempt_of_a_bounded_step_counts(worlds: Worlds, file: Path) -> None:
    """However long it had been running: never more than it was allowed."""
    world = await killed_in_a_step(worlds, file, "bounded", ran_seconds=3600, deaths=2)

    assert RAN == ["bounded"] * 2
    outcome = await world.outcome("Stepper/a/go", "bounded", idempotency_key="k")
    assert isinstance(outcome, Failed)
    assert outcome.failure.type == "StepFailed"


async def test_an_attempt_that_never_started_does_not_count(worlds: Worlds, file: Path) -> None:
    """The process died between the record and the step: the slots know."""
    RAN.clear()
    world = worlds(Stepper)
    world.slots = Slots(file)
    await world.start()
    world.submit("Stepper/a/go", "bounded")
    await world.settle()
    records = world.journal.records
    await world.crash()
    fresh = Slots(file)
    fresh.take_over()
    fresh.close()
    world.journal = type(world.journal)(records)
    world.slots = Slots(file)
    await world.start()
    await world.settle()

    assert RAN == ["bounded"] * 2
    assert "Attempted" not in world.kinds()


async def test_a_retry_that_a_power_loss_cut_off_counts(worlds: Worlds) -> None:
    """That it had started nobody knows any more: its invocation stands in the store, with the time it was due."""
    starts.clear()
    world = await worlds(Twice).start()
    submission = world.submit("Twice/t/go", idempotency_key="k")
    while not starts:
        await asyncio.sleep(0)
    for _ in range(100):  # its failure is recorded, and all of it written to the store
        await asyncio.sleep(0)
    store, records = deepcopy(world.store), [*world.journal.records]
    assert world.clock.advance_to_next(world.clock.now_us() + 1_000_000)
    while len(starts) < 2:
        await asyncio.sleep(0)

    await world.engine.close()
    world.store, world.journal = store, KeptJournal(records)
    await world.start()
    await world.advance(10)

    assert len(starts) == 2
    assert world.invocation(submission).status is Status.ENDED
