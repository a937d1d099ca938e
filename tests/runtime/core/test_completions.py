"""Values from outside that don't fit, where that is found out only in the handler, or can't be found out at all."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest

from perdure.objects import Service, TerminalError, VirtualObject, handler
from perdure.runtime.admission import Refused
from perdure.runtime.invocations import Status
from perdure.runtime.records import Success

if TYPE_CHECKING:
    from tests.runtime.core.conftest import World

    Worlds = Callable[..., World]


def board(*, changed: bool = False) -> type[VirtualObject]:
    """The class, and as somebody changed it while invocations were open."""

    class Board(VirtualObject):
        asked: str = ""

        @handler
        async def approve(self) -> str:
            if changed:
                self.ctx.ref(Board, "other").approve.send()
            approval = self.ctx.awakeable(int)
            self.asked = approval.id
            try:
                return f"got {await approval}"
            except TerminalError as error:
                return f"{error.status}: {error}"

        @handler
        async def listen(self) -> int:
            return await self.ctx.signal("go", int)

        @handler
        async def tell(self, id: str, value: int | str) -> str:
            try:
                self.ctx.handle(id).signal("go", value)
            except TerminalError as error:
                return f"{error.status}"
            return "told"

    return Board


class Bell(Service):
    @handler
    async def rings_itself(self) -> int:
        """In its first turn, of which nobody else knows yet."""
        self.ctx.handle(self.ctx.invocation.id).signal("go", 3)
        return await self.ctx.signal("go", int)


async def test_a_handler_whose_code_has_changed_names_the_change_after_a_completion(worlds: Worlds) -> None:
    """To look at the type its code is replayed; that this fails must not hide where, nor be the end of it."""
    world = await worlds(board()).start()
    submission = world.submit("Board/a/approve", send=True)
    await world.settle()
    await world.restart(classes=[board(changed=True)])

    await world.engine.operations.resolve_awakeable(world.state("Board", "a")["asked"], b'"text"')
    await world.settle()

    paused = world.invocation(submission)
    assert paused.status is Status.PAUSED
    assert paused.last_failure is not None
    assert "the journal has Awakeable" in paused.last_failure.message

    await world.restart(classes=[board()])
    await world.engine.operations.resume(submission.id)
    await world.settle()
    outcome = world.invocation(submission).outcome
    assert isinstance(outcome, Success)
    assert b"400: awakeable" in outcome.value


async def test_a_signal_of_another_type_is_refused_if_it_is_waited_for(worlds: Worlds) -> None:
    """It goes on waiting; also if it has left memory meanwhile."""
    world = await worlds(board()).start()
    submission = world.submit("Board/a/listen", send=True)
    await world.settle()
    world.evict()

    assert await world.call("Board/b/tell", {"id": submission.id, "value": "text"}) == "400"
    with pytest.raises(Refused) as caught:
        world.engine.operations.resolve_signal(submission.id, "go", b'"text"')
    assert caught.value.status == 400
    assert await world.call("Board/b/tell", {"id": submission.id, "value": 5}) == "told"

    assert world.invocation(submission).outcome == Success(b"5")


async def test_a_handler_may_signal_itself(worlds: Worlds) -> None:
    world = await worlds(Bell).start()

    assert await world.call("Bell/rings_itself") == 3
