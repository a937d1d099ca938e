"""Steps that yield: each item is recorded as it comes, and a crash loses none and repeats none."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import TYPE_CHECKING, ClassVar

import pytest

from perdure.objects import RetryPolicy, StepFailed, TerminalError, VirtualObject, current_step, handler, step
from perdure.runtime import step_calls
from perdure.runtime.records import Notified

if TYPE_CHECKING:
    from tests.runtime.durable.conftest import World
    from tests.runtime.held_journal import HeldJournal

    Worlds = Callable[..., World]


class Model:
    yielded: ClassVar[list[str]]
    recorded: ClassVar[list[list[str]]]
    closed: ClassVar[list[str]]
    gate: ClassVar[asyncio.Event]
    failures: ClassVar[int]


@pytest.fixture(autouse=True)
def model() -> type[Model]:
    Model.yielded, Model.recorded, Model.closed = [], [], []
    Model.gate = asyncio.Event()
    Model.failures = 0
    return Model


async def tokens(text: str, stop_after: int = 99) -> AsyncIterator[str]:
    """Waits, after `stop_after` items, for the gate."""
    Model.recorded.append([*current_step().recorded])
    words = text.split()[len(current_step().recorded) :]
    try:
        for count, word in enumerate(words):
            if count == stop_after:
                await Model.gate.wait()
            Model.yielded.append(word)
            yield word
    finally:
        Model.closed.append(text)


@step(retry=RetryPolicy(first_delay=1, jitter=0, max_attempts=3))
async def breaking(text: str) -> AsyncIterator[str]:
    Model.recorded.append([*current_step().recorded])
    for word in text.split()[len(current_step().recorded) :]:
        Model.yielded.append(word)
        yield word
        if Model.failures:
            Model.failures -= 1
            raise ConnectionError("in the middle")


async def refused(text: str) -> AsyncIterator[str]:
    yield text
    raise TerminalError("not that", status=422)


async def mistyped() -> AsyncIterator[int]:
    yield 1
    yield "two"  # type: ignore[misc]  # a lie that no checker saw


class Chat(VirtualObject):
    said: list[str]

    @handler
    async def say(self, text: str, stop_after: int = 99) -> list[str]:
        async for word in self.ctx.stream(tokens, text, stop_after):
            self.said.append(word)
        return self.said

    @handler
    async def say_breaking(self, text: str) -> list[str]:
        try:
            async for word in self.ctx.stream(breaking, text):
                self.said.append(word)
        except StepFailed as error:
            self.said.append(str(error))
        return self.said

    @handler
    async def say_refused(self, text: str) -> list[str]:
        try:
            async for word in self.ctx.stream(refused, text):
                self.said.append(word)
        except TerminalError as error:
            self.said.append(f"{error} {error.status}")
        return self.said

    @handler
    async def say_mistyped(self) -> list[str]:
        numbers: list[int] = []
        try:
            async for number in self.ctx.stream(mistyped):
                numbers.append(number)
        except StepFailed as error:
            self.said.append(str(error))
        return [*map(str, numbers), *self.said]

    @handler
    async def say_first(self, text: str) -> str:
        first = ""
        async for word in self.ctx.stream(tokens, text, 1):
            first = word
            break
        await self.ctx.sleep(5)
        return first

    @handler
    async def say_for_a_while(self, text: str) -> list[str]:
        try:
            async with asyncio.timeout(5):
                async for word in self.ctx.stream(tokens, text, 2):
                    self.said.append(word)
        except TimeoutError:
            self.said.append("…")
        await self.ctx.sleep(5)
        return self.said

    @handler
    async def say_on_after_a_timeout(self, text: str) -> list[str]:
        stream = self.ctx.stream(tokens, text, 2)
        try:
            async with asyncio.timeout(5):
                async for word in stream:
                    self.said.append(word)
        except TimeoutError:
            self.said.append("…")
        try:
            async for word in stream:
                self.said.append(word)
        except TerminalError as error:
            self.said.append(f"{error.status} {error}")
        return self.said

    @handler
    async def shared_by_two(self, text: str) -> list[str]:
        stream = self.ctx.stream(tokens, text, 1)

        async def read() -> str:
            try:
                return "".join([word async for word in stream])
            except RuntimeError as error:
                return str(error)

        return [*await asyncio.gather(read(), read())]

    @handler
    async def say_two(self, one: str, two: str) -> list[str]:
        async def all_of(text: str) -> str:
            return "".join([word async for word in self.ctx.stream(tokens, text)])

        return [*await asyncio.gather(all_of(one), all_of(two))]


def items(world: World) -> list[object]:
    return [record for record in world.recorded() if isinstance(record, Notified) and record.more]


async def test_items_are_recorded_and_seen_in_order(worlds: Worlds) -> None:
    world = await worlds(Chat).start()

    assert await world.call(world.ref(Chat, "c").say("a b c d")) == ["a", "b", "c", "d"]

    assert len(items(world)) == 4
    assert Model.recorded == [[]]


async def test_items_are_seen_as_they_come(worlds: Worlds) -> None:
    """Not at the end: the handler's state has them while the step goes on."""
    world = await worlds(Chat).start()
    await world.send(world.ref(Chat, "c").say, "a b c d", 2)

    assert world.fields("Chat", "c")["said"] == b'["a","b"]'
    Model.gate.set()


async def test_after_a_crash_it_is_told_what_was_recorded_and_goes_on(worlds: Worlds) -> None:
    """Each item once, whatever the number of crashes."""
    world = await worlds(Chat).start()
    id = await world.send(world.ref(Chat, "c").say, "a b c d e", 2)
    for _ in range(2):
        await world.restart()
        await world.settle()
    Model.gate.set()

    assert await world.result(id) == ["a", "b", "c", "d", "e"]
    assert Model.recorded == [[], ["a", "b"], ["a", "b", "c", "d"]]
    assert Model.yielded == ["a", "b", "c", "d", "e"]


async def test_a_crash_after_any_record_loses_and_repeats_no_item(worlds: Worlds) -> None:
    world = await worlds(Chat).start()
    id = await world.send(world.ref(Chat, "c").say, "a b c d e")
    kept = [*world.journal.records]

    for count in range(1, len(kept) + 1):
        await world.begin_with(kept[:count])
        assert await world.result(id) == ["a", "b", "c", "d", "e"], count


async def test_an_eviction_leaves_the_step_running(worlds: Worlds) -> None:
    """It belongs to its invocation: the replayed handler finds it, and no item is lost."""
    world = await worlds(Chat).start()
    id = await world.send(world.ref(Chat, "c").say, "a b c d e", 2)

    world.evict()
    Model.gate.set()

    assert await world.result(id) == ["a", "b", "c", "d", "e"]
    assert Model.recorded == [[]]


async def test_an_error_in_the_middle_is_retried_from_there(worlds: Worlds) -> None:
    """An attempt that made progress starts the counting anew: here each of five attempts yields one item."""
    world = await worlds(Chat).start()
    Model.failures = 4
    id = await world.send(world.ref(Chat, "c").say_breaking, "a b c d e")

    await world.advance(60)

    assert await world.result(id) == ["a", "b", "c", "d", "e"]
    assert Model.yielded == ["a", "b", "c", "d", "e"]
    assert Model.recorded == [[], ["a"], ["a", "b"], ["a", "b", "c"], ["a", "b", "c", "d"]]


async def test_a_terminal_error_in_the_middle_comes_after_the_items(worlds: Worlds) -> None:
    world = await worlds(Chat).start()
    assert await world.call(world.ref(Chat, "c").say_refused("a")) == ["a", "not that 422"]


async def test_an_item_of_another_type_is_a_failed_step(worlds: Worlds) -> None:
    world = await worlds(Chat, step_retry=RetryPolicy(max_attempts=1)).start()

    first, message = await world.call(world.ref(Chat, "c").say_mistyped())

    assert first == "1"
    assert "mistyped" in message


async def test_the_stream_of_a_timeout_is_cancelled(worlds: Worlds) -> None:
    """Its step is asked to stop, and what it still yields is not heard."""
    world = await worlds(Chat).start()
    id = await world.send(world.ref(Chat, "c").say_for_a_while, "a b c d e")

    await world.advance(5)
    assert Model.closed == ["a b c d e"]
    await world.restart()
    await world.advance(5)

    assert await world.result(id) == ["a", "b", "…"]
    assert Model.yielded == ["a", "b"]


async def test_a_stream_left_early_ends_with_its_handler(worlds: Worlds) -> None:
    """`break` gives no sign; at the latest at the handler's end its step is stopped."""
    world = await worlds(Chat).start()
    id = await world.send(world.ref(Chat, "c").say_first, "a b c")

    await world.advance(5)

    assert await world.result(id) == "a"
    await world.settle()
    assert Model.closed == ["a b c"]


async def test_a_stream_whose_wait_was_cancelled_says_so_when_it_is_read_again(worlds: Worlds) -> None:
    """Its step was cancelled with the wait: nothing would ever come."""
    world = await worlds(Chat).start()
    id = await world.send(world.ref(Chat, "c").say_on_after_a_timeout, "a b c d e")
    await world.advance(5)
    assert await world.result(id) == ["a", "b", "…", "409 the stream was cancelled, with a wait for its next item"]


async def test_a_stream_is_read_by_one_task(worlds: Worlds) -> None:
    """A second one is told so; it would take the first one's items."""
    world = await worlds(Chat).start()
    id = await world.send(world.ref(Chat, "c").shared_by_two, "a b c")
    Model.gate.set()
    assert await world.result(id) == [
        "abc",
        "a stream is read by one task at a time: another one waits for its next item",
    ]


async def test_recorded_items_that_the_code_cannot_read_any_more_pause_it(worlds: Worlds) -> None:
    """After a deploy that yields another type: said where it is, and the process goes on."""
    world = await worlds(Chat).start()
    id = await world.send(world.ref(Chat, "c").say, "a b c d e", 2)
    plain = tokens.__annotations__["return"]
    tokens.__annotations__["return"] = AsyncIterator[int]
    clear_caches()
    try:
        await world.restart()
        await world.settle()
        assert not world.runtime.engine.failed.done()
        assert world.view(id).status in ("paused", "backing-off")
    finally:
        tokens.__annotations__["return"] = plain
        clear_caches()


def clear_caches() -> None:
    for name in dir(step_calls):
        clear = getattr(getattr(step_calls, name), "cache_clear", None)
        if clear is not None:
            clear()


async def test_two_streams_at_once(worlds: Worlds) -> None:
    world = await worlds(Chat).start()
    assert await world.call(world.ref(Chat, "c").say_two("a b c", "x y z")) == ["abc", "xyz"]


async def test_an_item_is_seen_when_it_is_recorded_and_the_next_one_may_be_on_its_way(
    worlds: Worlds, held_journal: HeldJournal
) -> None:
    """The step doesn't wait for the disk; the answer to the client does."""
    world = await worlds(Chat, journal=held_journal).start()
    answer = asyncio.ensure_future(world.ref(Chat, "c").say("a b c"))
    await world.until(lambda: Model.yielded)
    held_journal.held = True
    await world.settle()
    held_journal.release()
    await world.settle()
    assert Model.yielded == ["a", "b", "c"]

    held_journal.held = False
    world.journal.flush()
    await world.settle()
    assert answer.done()
