"""Conversations with a model that calls tools.  One writer at a time for each of them, as many readers as you like.

    perdure serve examples/chat.py
    curl localhost:8080/Chat/ann/say --json '"Do I need an umbrella in Oslo?"'
    curl localhost:8080/Chat/ann/say -H 'idempotency-key: m2' --json '"And how late is it there?"'
    curl localhost:8080/Chat/ann/say -H 'idempotency-key: m2' --json '"And how late is it there?"'
    curl localhost:8080/Chat/ann/look
    curl localhost:8080/Chat/ann/stream -H 'idempotency-key: m3' --json '"And an umbrella?"'
    curl localhost:8080/Chat/ann/stream -H 'idempotency-key: m3' -H 'last-event-id: 2' --json '"And an umbrella?"'

The third line is the second one sent again: the same answer, and the model wasn't asked again.
The last two stream the answer, token by token; the last one goes on behind the second token, as a client does that was
cut off.
The model here is a stub in this file: it has latency (MODEL_LATENCY says how many seconds), it is overloaded now and
then, and breaks off in the middle.
"""

import asyncio
import os
from collections.abc import AsyncIterator
from typing import Literal

from msgspec import Struct

from perdure.objects import RetryPolicy, StepFailed, TerminalError, VirtualObject, current_step, handler, shared, step

CONTEXT_MESSAGES_MAX = 40  # what a step is given is recorded each time: the whole history would grow with its square
ROUNDS_MAX = 5


class ToolCall(Struct, frozen=True):
    tool: str
    about: str


class Message(Struct, frozen=True):
    role: Literal["user", "assistant", "tool"]
    text: str


class View(Struct, frozen=True):
    messages: list[Message]
    draft: str


class Chat(VirtualObject):
    """One conversation."""

    messages: list[Message]
    draft: str = ""

    @handler
    async def say(self, text: str) -> str:
        """The agent loop.  What the model and the tools answered is recorded: a crash repeats none of it."""
        async for _ in self._answer(text):
            pass
        return self.messages[-1].text

    @handler
    async def stream(self, text: str) -> AsyncIterator[str]:
        """The same as server-sent events: each token is recorded, then sent."""
        async for token in self._answer(text):
            yield token

    async def _answer(self, text: str) -> AsyncIterator[str]:
        self.messages.append(Message("user", text))
        self.draft = ""
        await self._use_tools()
        # Each token that comes is a turn, so `look` shows the answer as it grows, and a crash in the middle goes on
        # behind the last token that was recorded.
        async for token in self.ctx.stream(write_answer, self.messages[-CONTEXT_MESSAGES_MAX:]):
            self.draft += token
            yield token
        answer, self.draft = self.draft, ""
        self.messages.append(Message("assistant", answer))

    async def _use_tools(self) -> None:
        for _ in range(ROUNDS_MAX):
            calls = await self.ctx.run(plan, self.messages[-CONTEXT_MESSAGES_MAX:])
            if not calls:
                return
            results = await asyncio.gather(*(self._use(call) for call in calls))
            self.messages.extend(Message("tool", result) for result in results)
        raise TerminalError(f"the model wanted tools {ROUNDS_MAX} times and never answered")

    async def _use(self, call: ToolCall) -> str:
        """A tool that fails for good is no reason to fail: the model is told, and has to do without."""
        try:
            return await self.ctx.run(use_tool, call.tool, call.about)
        except StepFailed as error:
            return f"{call.tool} failed: {error}"

    @shared
    async def look(self) -> View:
        """At any time, also while `say` is at work."""
        return View(self.messages, self.draft)


# --- what is done outside ---------------------------------------------------------------------------------------------


class Overloaded(Exception):
    """The model, or the way to it.  No TerminalError, so it is tried again."""


@step(retry=RetryPolicy(first_delay=0.1, max_attempts=8), timeout=60)
async def plan(messages: list[Message]) -> list[ToolCall]:
    """Which tools the model wants before it answers."""
    return await MODEL.tools_for(messages)


@step(retry=RetryPolicy(first_delay=0.1, max_attempts=8), timeout=60)
async def write_answer(messages: list[Message]) -> AsyncIterator[str]:
    """Called again after it broke off, it goes on behind the tokens that are recorded already."""
    recorded = len(current_step().recorded)
    async for token in MODEL.answer(messages, skip=recorded):
        yield token


@step(retry=RetryPolicy(first_delay=0.1, max_attempts=3), timeout=10)
async def use_tool(tool: str, about: str) -> str:
    await asyncio.sleep(MODEL.latency_seconds)
    if tool not in TOOLS:
        raise LookupError(f"there is no tool {tool!r}")
    return f"{tool} in {about}: {TOOLS[tool]}"


# --- the model: a stub ------------------------------------------------------------------------------------------------

TOOLS = {"weather": "rain", "clock": "half past nine"}
WORDS = {"umbrella": "weather", "late": "clock", "stocks": "ticker"}


class Model:
    """Asks for the tools whose words it reads, then says what they said."""

    def __init__(self) -> None:
        self.latency_seconds = float(os.environ.get("MODEL_LATENCY", "0.02"))
        self.fails_every = 4
        self.calls = 0

    async def tools_for(self, messages: list[Message]) -> list[ToolCall]:
        await self._arrive()
        if messages[-1].role != "user":
            return []
        return [ToolCall(tool, "Oslo") for word, tool in WORDS.items() if word in messages[-1].text]

    async def answer(self, messages: list[Message], skip: int) -> AsyncIterator[str]:
        asked = max(number for number, message in enumerate(messages) if message.role == "user")
        told = [message.text for message in messages[asked + 1 :]]
        answer = "; ".join(told) if told else f"You said: {messages[asked].text}"
        for number, word in enumerate(answer.split()):
            if number >= skip:
                await self._arrive()
                yield word if number == 0 else f" {word}"

    async def _arrive(self) -> None:
        self.calls += 1
        await asyncio.sleep(self.latency_seconds)
        if self.fails_every and self.calls % self.fails_every == 0:
            raise Overloaded(f"call {self.calls}: come back later")


MODEL = Model()
