"""Compensation: order, when, and what of refused undos."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from perdure.objects import TerminalError, VirtualObject, Workflow, handler
from perdure.objects.sagas import Saga

DONE: list[str] = []


@pytest.fixture(autouse=True)
def nothing_done() -> None:
    DONE.clear()


def undo_sync(*what: Any) -> None:
    DONE.append(f"undo {what}")


async def undo(what: str) -> None:
    await asyncio.sleep(0)
    DONE.append(f"undo {what}")


async def refuse(what: str) -> None:
    raise TerminalError(f"cannot undo {what}", status=410)


class Stock(VirtualObject):
    @handler
    async def release(self, order: str) -> None: ...


class Order(Workflow):
    @handler
    async def run(self) -> None: ...

    async def own(self, what: str) -> None:
        DONE.append(f"own {what}")

    def own_sync(self, what: str) -> None:
        DONE.append(f"own {what}")


async def ends(context: Any, error: BaseException | None, *undos: tuple[Any, ...]) -> None:
    """A saga whose block registers `undos`, each a function and its arguments, and then raises."""
    async with context.saga() as saga:
        for fn, *arguments in undos:
            saga.undo(fn, *arguments)
        if error is not None:
            raise error


@pytest.mark.parametrize(
    "error", [TerminalError("x"), TimeoutError(), ExceptionGroup("", [TerminalError("x")])], ids=repr
)
async def test_what_is_terminal_undoes_in_reverse(context: Any, error: Exception) -> None:
    with pytest.raises(type(error)) as caught:
        await ends(context, error, (undo, "1"), (undo_sync, "2", "b"), (undo, "3"))

    assert caught.value is error
    assert DONE == ["undo 3", "undo ('2', 'b')", "undo 1"]
    assert context.steps == ["undo", "undo_sync", "undo"]


async def test_an_error_that_will_be_retried_undoes_nothing(context: Any) -> None:
    """Its replay would find the work half undone."""
    with pytest.raises(ValueError, match="x"):
        await ends(context, ValueError("x"), (undo, "1"))

    assert DONE == []


async def test_a_block_that_ends_well_undoes_nothing(context: Any) -> None:
    await ends(context, None, (undo, "1"))

    assert DONE == []


async def test_the_last_attempt_of_a_policy_undoes_and_ends_terminally() -> None:
    """Raised as it is, it would look like a failure, and be run again on what is undone."""

    class LastAttempt:
        async def run(self, fn: Any, *args: Any) -> Any:
            return await fn(*args)

        def saga(self) -> Saga:
            return Saga(self, lambda exc: True, lambda: None)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]

    with pytest.raises(TerminalError, match="no") as caught:
        await ends(LastAttempt(), ValueError("no"), (undo, "1"))

    assert isinstance(caught.value.__cause__, ValueError)
    assert DONE == ["undo 1"]


async def test_cancellation_undoes_as_if_nobody_had_cancelled(context: Any) -> None:
    """`uncancel()` first: TaskGroup and timeout inside an undo would take the count for their own business."""
    counts: list[int] = []

    def count() -> None:
        task = asyncio.current_task()
        assert task is not None
        counts.append(task.cancelling())

    async def handler_body() -> None:
        async with context.saga() as saga:
            saga.undo(count)
            await asyncio.Event().wait()

    task = asyncio.create_task(handler_body())
    await asyncio.sleep(0)
    task.cancel()

    with pytest.raises(asyncio.CancelledError):
        await task
    assert counts == [0]


async def test_a_references_handler_is_called_with_the_arguments_of_the_moment(context: Any) -> None:
    stock = context.ref(Stock, "sku")
    careful = stock.release.options(idempotency_key="k")
    with pytest.raises(TerminalError):
        await ends(context, TerminalError("x"), (stock.release, "order-1"), (careful, "order-2"))

    asked = [(kind, target.arguments, target.idempotency_key) for kind, target in context.outbox.asked]
    assert asked == [("call", b'"order-2"', "k"), ("call", b'"order-1"', None)]


async def test_own_methods_are_themselves(live: Any) -> None:
    order = live(Order)
    with pytest.raises(TerminalError):
        await ends(order.context, TerminalError("x"), (order.object.own, "1"), (order.object.own_sync, "2"))

    assert DONE == ["own 2", "own 1"]
    assert order.context.steps == []


async def test_arguments_are_taken_at_once(context: Any) -> None:
    items = ["a"]

    async def block() -> None:
        async with context.saga() as saga:
            saga.undo(undo_sync, items)
            items.append("b")
            raise TerminalError("x")

    with pytest.raises(TerminalError):
        await block()
    assert DONE == ["undo (['a'],)"]


async def test_a_refused_undo_does_not_stop_the_others_and_is_told(context: Any) -> None:
    with pytest.raises(TerminalError) as caught:
        await ends(context, TerminalError("full", status=422), (undo, "1"), (refuse, "2"), (undo, "3"))

    assert DONE == ["undo 3", "undo 1"]
    assert str(caught.value) == "full; 1 of its undos refused, first: cannot undo 2"
    assert caught.value.status == 422


async def test_an_undo_that_fails_for_now_fails_the_attempt(context: Any) -> None:
    """It is retried: the replay comes to the same undo again."""

    async def flaky() -> None:
        raise OSError("for now")

    with pytest.raises(OSError, match="for now"):
        await ends(context, TerminalError("x"), (undo, "1"), (flaky,))

    assert DONE == []


async def test_outside_its_block_and_with_a_value_it_is_refused(context: Any) -> None:
    saga = context.saga()
    with pytest.raises(RuntimeError, match=r"saga\.undo\(\) outside its block"):
        saga.undo(undo, "1")

    async with saga:
        coro = undo("1")
        with pytest.raises(TypeError, match="takes the function, not what it returns"):
            saga.undo(coro)
        coro.close()

    with pytest.raises(RuntimeError, match="outside its block"):
        saga.undo(undo, "1")
