"""chat.py: the model and the tools are asked once for each answer that counts, however often they fail."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from perdure.objects import StepFailed, TerminalError
from perdure.runtime import ManualClock, Runtime

QUESTION = "Do I need an umbrella in Oslo?"
RAIN = "weather in Oslo: rain"
TOKENS = ["weather", " in", " Oslo:", " rain"]


@pytest.fixture
def chat(load: Callable[[str], Any]) -> Any:
    """With a model that is quick and never fails."""
    chat = load("chat")
    chat.MODEL.latency_seconds = 0
    chat.MODEL.fails_every = 0
    return chat


def texts(view: Any) -> list[tuple[str, str]]:
    return [(message.role, message.text) for message in view.messages]


async def test_the_curl_lines(story: Callable[[str], Any]) -> None:
    """As the docstring says, with a model that fails now and then; the line sent again is answered, not asked."""
    lines = story("chat")
    await lines.start()

    assert await lines.next() == (200, RAIN)
    assert await lines.next() == (200, "clock in Oslo: half past nine")
    assert await lines.next() == (200, "clock in Oslo: half past nine")
    status, view = await lines.next()
    assert (status, view["draft"]) == (200, "")
    assert [message["role"] for message in view["messages"]] == ["user", "tool", "assistant"] * 2
    tokens = [f'id: {number}\ndata: "{token}"\n\n' for number, token in enumerate(TOKENS, 1)]
    end = f"id: {len(TOKENS) + 1}\nevent: end\ndata: null\n\n"
    assert await lines.next() == (200, "".join(tokens) + end)
    assert await lines.next() == (200, "".join(tokens[2:]) + end)


async def test_an_answer_without_tools(chat: Any) -> None:
    """The history has both sides."""
    async with Runtime([chat.Chat], data_dir=None, clock=ManualClock()) as runtime:
        assert await runtime.ref(chat.Chat, "ann").say("hello there") == "You said: hello there"
        view = await runtime.ref(chat.Chat, "ann").look()
        assert texts(view) == [("user", "hello there"), ("assistant", "You said: hello there")]


async def test_a_streamed_answer(chat: Any) -> None:
    """Token by token, and in the history as one."""
    async with Runtime([chat.Chat], data_dir=None, clock=ManualClock()) as runtime:
        ann = runtime.ref(chat.Chat, "ann")
        assert [token async for token in ann.stream(QUESTION)] == TOKENS
        assert texts(await ann.look())[-1] == ("assistant", RAIN)


async def test_tools_are_used_at_once_and_one_that_fails_is_told_to_the_model(chat: Any) -> None:
    """Two tools, of which one does not exist: it is tried three times, and then the model does without."""
    async with Runtime([chat.Chat], data_dir=None, clock=ManualClock()) as runtime:
        saying = asyncio.ensure_future(runtime.ref(chat.Chat, "ann").say("umbrella? stocks?"))
        await runtime.advance(10)

        answer = await saying
        assert answer.startswith(f"{RAIN}; ticker failed: step use_tool failed for good after 3 attempts: LookupError")
        assert [role for role, _ in texts(await runtime.ref(chat.Chat, "ann").look())] == [
            "user",
            "tool",
            "tool",
            "assistant",
        ]


async def test_a_model_that_breaks_off_goes_on_behind_what_it_had_said(chat: Any) -> None:
    """Every other call fails: the same answer, no word twice, and no word asked for that was recorded."""
    chat.MODEL.fails_every = 2
    async with Runtime([chat.Chat], data_dir=None, clock=ManualClock()) as runtime:
        saying = asyncio.ensure_future(runtime.ref(chat.Chat, "ann").say(QUESTION))
        await runtime.advance(600)
        assert await saying == RAIN
    assert chat.MODEL.calls == 2 * (2 + 4) - 1  # two plans and four words, each but the first after a failure


async def test_a_model_that_is_gone_is_given_up_and_the_conversation_goes_on(chat: Any) -> None:
    """Eight attempts, then the question fails; the next one is answered."""
    chat.MODEL.fails_every = 1
    async with Runtime([chat.Chat], data_dir=None, clock=ManualClock()) as runtime:
        saying = asyncio.ensure_future(runtime.ref(chat.Chat, "ann").say(QUESTION))
        await runtime.advance(600)
        with pytest.raises(StepFailed, match="Overloaded"):
            await saying
        assert chat.MODEL.calls == 8

        chat.MODEL.fails_every = 0
        assert await runtime.ref(chat.Chat, "ann").say("hello") == "You said: hello"


async def test_a_model_that_wants_tools_for_ever_is_stopped(chat: Any) -> None:
    """After five rounds."""

    async def tools_for(messages: list[Any]) -> list[Any]:
        return [chat.ToolCall("clock", "Oslo")]

    chat.MODEL.tools_for = tools_for
    async with Runtime([chat.Chat], data_dir=None, clock=ManualClock()) as runtime:
        with pytest.raises(TerminalError, match="never answered"):
            await runtime.ref(chat.Chat, "ann").say("loop")


async def test_readers_see_the_answer_grow_while_it_is_written(chat: Any) -> None:
    """One writer, shared readers: they don't wait for it, and the second question does."""
    said = asyncio.Semaphore(0)

    async def answer(messages: list[Any], skip: int) -> AsyncIterator[str]:
        for word in ["one", " two"]:
            await said.acquire()
            yield word

    chat.MODEL.answer = answer
    async with Runtime([chat.Chat], data_dir=None, clock=ManualClock()) as runtime, asyncio.timeout(10):
        ann = runtime.ref(chat.Chat, "ann")
        first = asyncio.ensure_future(ann.say("first"))
        second = asyncio.ensure_future(ann.say("second"))
        for draft in ["", "one"]:
            while (view := await ann.look()).draft != draft or not view.messages:
                pass
            assert texts(view) == [("user", "first")]
            said.release()
        assert await first == "one two"
        said.release()
        said.release()
        assert await second == "one two"


async def test_a_question_that_is_cancelled_frees_the_conversation(chat: Any) -> None:
    """While the model thinks; what it had said is dropped with the next question."""

    async def answer(messages: list[Any], skip: int) -> AsyncIterator[str]:
        yield "hm"
        await asyncio.Event().wait()

    well, chat.MODEL.answer = chat.MODEL.answer, answer
    async with Runtime([chat.Chat], data_dir=None, clock=ManualClock()) as runtime, asyncio.timeout(10):
        ann = runtime.ref(chat.Chat, "ann")
        question = await runtime.send(ann.say, "first")
        while (await ann.look()).draft != "hm":
            pass
        await question.cancel()
        with pytest.raises(TerminalError):
            await question.attach()
        chat.MODEL.answer = well
        assert await ann.say("hello") == "You said: hello"


async def test_it_ends_the_same_wherever_the_power_is_cut(chat: Any, machine: Callable[..., Any]) -> None:
    """After each record: one question, one answer, and no token twice."""

    async def story(runtime: Runtime) -> None:
        await runtime.send(runtime.ref(chat.Chat, "ann").say.options(idempotency_key="m1"), QUESTION)
        await runtime.advance(60)

    async def check(runtime: Runtime) -> None:
        assert await runtime.ref(chat.Chat, "ann").say.options(idempotency_key="m1")(QUESTION) == RAIN
        view = await runtime.ref(chat.Chat, "ann").look()
        assert texts(view) == [("user", QUESTION), ("tool", RAIN), ("assistant", RAIN)]
        assert view.draft == ""

    assert await machine(chat.Chat).with_power_cuts(lambda: None, story, check) > 10
