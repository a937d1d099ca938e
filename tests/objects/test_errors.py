"""What is terminal, how it is recorded, and how it comes back."""

from __future__ import annotations

import asyncio
import socket

import msgspec
import pytest

from perdure.objects import DeadlockError, DefinitionError, HandlerDropped, InvalidKey, StepFailed, TerminalError
from perdure.objects.errors import MESSAGE_CHARACTERS_MAX, Failure, exception_of, failure_of, is_terminal


class TooLittleLeft(TerminalError):
    status = 409

    def __init__(self, need: int, have: int) -> None:
        super().__init__(f"needs {need}, has {have}", metadata={"need": str(need)})
        self.need = need


class Forgetful(TerminalError):
    """A subclass that does not call the base's __init__."""

    status = 418

    def __init__(self, text: str) -> None:
        self.text = text


def group(*errors: Exception) -> ExceptionGroup[Exception]:
    return ExceptionGroup("several", errors)


@pytest.mark.parametrize(
    "exc",
    [
        TerminalError("x"),
        TooLittleLeft(2, 1),
        DeadlockError("x"),
        StepFailed("x"),
        asyncio.CancelledError(),
        TimeoutError(),
        TimeoutError("slow"),
        InvalidKey("x"),
        group(TerminalError("x"), TimeoutError()),
        group(group(DeadlockError("x"))),
        BaseExceptionGroup("", [asyncio.CancelledError(), TerminalError("x")]),
    ],
    ids=repr,
)
def test_outcomes_are_terminal(exc: BaseException) -> None:
    assert is_terminal(exc)


@pytest.mark.parametrize(
    "exc",
    [
        ValueError("x"),
        KeyboardInterrupt(),
        SystemExit(),
        HandlerDropped(),
        TimeoutError(110, "Connection timed out"),
        OSError(110, "Connection timed out"),
        type("LibraryTimeout", (TimeoutError,), {})(),
        group(TerminalError("x"), ValueError("x")),
        group(TerminalError("x"), group(ValueError("x"))),
    ],
    ids=repr,
)
def test_failures_are_retried(exc: BaseException) -> None:
    """A socket's timeout is one of them: only asyncio's own, exactly TimeoutError, is a durable one."""
    assert not is_terminal(exc)


def test_socket_timeouts_are_the_builtin_and_so_look_durable_without_errno() -> None:
    """Why handlers do no I/O: in a handler there is no socket that could raise it."""
    assert socket.timeout is TimeoutError


def test_status_is_a_class_attribute_or_given_to_one() -> None:
    assert (TerminalError("x").status, TooLittleLeft(2, 1).status, DeadlockError("x").status) == (500, 409, 409)
    assert TerminalError("x", status=423).status == 423
    assert TerminalError.status == 500


@pytest.mark.parametrize("status", [200, 0, 600, "409", 409.0, True])
def test_a_status_that_is_no_error_is_refused(status: int) -> None:
    with pytest.raises(ValueError, match="400 to 599"):
        TerminalError("x", status=status)
    with pytest.raises(DefinitionError, match=r"Odd\.status is"):
        type("Odd", (TerminalError,), {"status": status})


def test_a_terminal_error_is_recorded_with_its_class() -> None:
    failure = failure_of(TooLittleLeft(2, 1))

    assert failure == Failure("TooLittleLeft", "needs 2, has 1", 409, {"need": "2"})
    assert msgspec.json.encode(failure) == b'["TooLittleLeft","needs 2, has 1",409,{"need":"2"}]'


def test_it_comes_back_as_its_class_without_its_constructor() -> None:
    exc = exception_of(Failure("TooLittleLeft", "needs 2, has 1", 410, {"need": "2"}))

    assert type(exc) is TooLittleLeft
    assert (str(exc), exc.status, exc.metadata) == ("needs 2, has 1", 410, {"need": "2"})
    assert not hasattr(exc, "need")


def test_a_class_that_this_process_does_not_have_keeps_its_name() -> None:
    """Passed on by a process in the middle, it reaches one that has it."""
    failure = Failure("OfAnotherService", "x", 451)

    exc = exception_of(failure)

    assert type(exc) is TerminalError
    assert failure_of(exc) == failure


def test_a_class_that_is_no_terminal_error_is_never_made_by_name() -> None:
    assert type(exception_of(Failure("SystemExit", "x", 500))) is TerminalError


def test_other_outcomes_have_their_status() -> None:
    assert failure_of(TimeoutError()) == Failure("TimeoutError", "timed out", 504)
    assert failure_of(asyncio.CancelledError("why")) == Failure("Cancelled", "why", 409)
    assert failure_of(ValueError("x")) == Failure("ValueError", "x", 500)


def test_a_cancelled_callee_reaches_its_caller_as_a_terminal_error() -> None:
    """CancelledError means "you were cancelled" and nothing else."""
    exc = exception_of(failure_of(asyncio.CancelledError()))

    assert type(exc) is TerminalError
    assert exc.status == 409


def test_a_group_gives_its_first_leaf() -> None:
    failure = failure_of(group(group(TooLittleLeft(2, 1)), TimeoutError()))

    assert (failure.type, failure.status) == ("TooLittleLeft", 409)
    assert "needs 2, has 1" in failure.message


def test_what_would_not_encode_is_made_to() -> None:
    exc = TerminalError("\ud800" + "x" * 100_000, metadata={"n": 5})  # type: ignore[dict-item]  # pyright: ignore[reportArgumentType]

    failure = failure_of(exc)

    assert msgspec.json.decode(msgspec.json.encode(failure), type=Failure) == failure
    assert len(failure.message) == MESSAGE_CHARACTERS_MAX
    assert failure.metadata == {"n": "5"}


def test_a_subclass_that_forgets_its_base_is_still_recorded() -> None:
    assert failure_of(Forgetful("tea")) == Failure("Forgetful", "tea", 418)


def test_a_dropped_handler_is_not_swallowed_by_except_exception() -> None:
    assert not issubclass(HandlerDropped, Exception)


def test_a_drop_says_what_may_have_caused_it() -> None:
    """It is seen where the code of a step touches its object: an empty text would help nobody."""
    assert "a step" in str(HandlerDropped())
    assert "as arguments" in str(HandlerDropped())
    assert str(HandlerDropped("a reason")) == "a reason"
