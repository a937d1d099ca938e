"""A slip of the pen in a handler fails its turn; it neither stops the process nor spoils the journal."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

import pytest

from perdure.objects import TerminalError, VirtualObject, handler, step
from perdure.runtime.records import Failed

if TYPE_CHECKING:
    from tests.runtime.core.conftest import World

    Worlds = Callable[..., World]


class Unprintable(Exception):
    def __str__(self) -> str:
        raise SystemExit(1)

    __repr__ = __str__


def callback_that_raises() -> None:
    raise Unprintable


async def fetch() -> int:
    return 1


async def terminal_with_odd_status(self: Odd) -> None:
    error = TerminalError("x")
    error.status = "404"  # type: ignore[assignment]  # the slip
    error.metadata = 5  # type: ignore[assignment]  # another
    raise error


async def unprintable(self: Odd) -> None:
    raise Unprintable


async def undecodable_name(self: Odd) -> None:
    raise FileNotFoundError("no such file: \ud800")


async def unprintable_callback(self: Odd) -> None:
    import asyncio  # noqa: PLC0415

    asyncio.get_running_loop().call_soon(callback_that_raises)
    await self.ctx.sleep(1)


# Any: each is a slip that a type checker would have seen.
SLIPS: dict[str, Callable[[Any], Awaitable[object]]] = {
    "an id that is a number": lambda self: self.ctx.handle(5).attach(),
    "a header that is a number": lambda self: self.ctx.ref(Odd, "b").noop.options(headers={"a": 5})(),
    "a header with half a character": lambda self: self.ctx.ref(Odd, "b").noop.options(headers={"a": "\ud800"})(),
    "a patch that is a number": lambda self: self.ctx.patched(5),
    "a signal without a name": lambda self: self.ctx.signal(None, int),
    "a step with a number for a name": lambda self: self.ctx.run(step(fetch, name=5)),  # type: ignore[call-overload]
    "half a character as a reason": lambda self: self.ctx.reject_awakeable("awk_1", "\ud800"),
    "an error that can't be shown": unprintable,
    "an error that names an undecodable file": undecodable_name,
    "a callback whose error can't be shown": unprintable_callback,
    "a terminal error with odd attributes": terminal_with_odd_status,
}


class Odd(VirtualObject):
    value: int = 0

    @handler
    async def slip(self, name: str) -> None:
        self.value += 1
        await SLIPS[name](self)

    @handler
    async def noop(self) -> int:
        return 1


@pytest.mark.parametrize("name", SLIPS)
async def test_a_slip_fails_its_turn_and_nothing_else(worlds: Worlds, name: str) -> None:
    """Others are served, and the next start reads all that was written."""
    world = await worlds(Odd).start()

    submission = world.submit("Odd/a/slip", name, idempotency_key="k")
    await world.advance(1)

    assert not world.engine.failed.done()
    assert await world.call("Odd/other/noop") == 1
    await world.restart()
    await world.advance(3600)
    assert await world.call("Odd/other/noop") == 1
    invocation = world.invocation(submission)
    assert isinstance(invocation.outcome, Failed) or invocation.last_failure is not None
