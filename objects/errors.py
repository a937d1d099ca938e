"""The errors of the programming model, each named by what its reader can do, and the one predicate of what is terminal.

What lives here: exceptions, and their three translations (terminal or not, exception to record, record to exception).
What this file does not know: who retries, who pauses, how a failure is answered over HTTP.
"""

from __future__ import annotations

import asyncio
from typing import Any, ClassVar, cast

import msgspec

from .ids import InvalidKey

MESSAGE_CHARACTERS_MAX = 16_384
"""A message is for people; a longer one would only fill the journal."""


class DefinitionError(TypeError):
    """A class, handler or step is written in a way that cannot be served. Raised when it is defined; one line."""


class InvalidArguments(ValueError):
    """Input that does not fit its annotation. Nothing was recorded; the message starts with the path in the value."""

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(f"{path}: {reason}")
        self.path = path
        self.reason = reason


class StateError(Exception):
    """State was read, written or changed where or as it may not be. The turn that did it fails."""


class UnreadableState(StateError):
    """What is stored does not fit the annotation any more. Nothing is overwritten: the invocation pauses."""


MEND_STATE = "nothing was overwritten: mend it in a migrate, or bring back the older code, then resume"
"""What to do about state of another type."""


class ReplayMismatch(Exception):
    """The code asked for something else than what its journal recorded. The invocation pauses, its journal intact."""


_DROPPED = (
    "this run of the handler was dropped, and nothing its code does has an effect any more; "
    "if a step touched its object or context: give it what it needs as arguments"
)


class HandlerDropped(BaseException):
    """This coroutine was left behind: nothing it does from here on has an effect.

    A BaseException, so that `except Exception` cannot swallow it. Never catch it.
    """

    def __init__(self, message: str = _DROPPED) -> None:
        super().__init__(message)


class TerminalError(Exception):
    """An outcome, not a failure: never retried, the turn that ends with it commits, the caller gets it as its class.

    `status` is the HTTP status (400 to 599): a class attribute of a subclass, or given to one instance.
    `metadata` travels with it; its values are text.
    """

    status: int = 500
    metadata: dict[str, str] | None = None
    _type: str | None = None  # the recorded class name, kept when no class of that name exists in this process

    def __init__(self, message: str = "", *, status: int | None = None, metadata: dict[str, str] | None = None) -> None:
        super().__init__(message)
        if status is not None:
            if not _is_error_status(status):
                raise ValueError(f"TerminalError(status={status!r}): a status is a whole number from 400 to 599")
            self.status = status
        if metadata is not None:
            self.metadata = metadata

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        if not _is_error_status(cls.status):
            raise DefinitionError(f"{cls.__qualname__}.status is {cls.status!r}: give a whole number from 400 to 599")
        _terminal_classes[cls.__name__] = cls  # the last definition wins: a module may be reloaded


_terminal_classes: dict[str, type[TerminalError]] = {"TerminalError": TerminalError}


def _is_error_status(status: object) -> bool:
    return type(status) is int and 400 <= status <= 599


class DeadlockError(TerminalError):
    """Waiting would never end: the message has the path of the cycle. The turn that ends with it is rolled back."""

    status = 409


class StepFailed(TerminalError):
    """A step has used up its attempts, or was cut off and may not run again."""


class Failure(msgspec.Struct, frozen=True, array_like=True):
    """A terminal outcome as it is recorded: `type` is the class's name, `status` the HTTP status."""

    type: str
    message: str
    status: int
    metadata: dict[str, str] | None = None

    CANCELLED: ClassVar[str] = "Cancelled"


def is_terminal(exc: BaseException) -> bool:
    """Whether `exc`, leaving a handler, is its outcome; anything else is a failure and is retried.

    The last attempt of a policy that ends in "fail" is terminal too; only the caller knows which attempt it is.
    """
    if isinstance(exc, TerminalError | asyncio.CancelledError):
        return True
    if isinstance(exc, BaseExceptionGroup):
        return all(map(is_terminal, _leaves(exc)))
    return isinstance(exc, InvalidKey) or _is_durable_timeout(exc)


def _is_durable_timeout(exc: BaseException) -> bool:
    # asyncio.timeout and wait_for raise exactly TimeoutError. A subclass, or one with an errno, comes from a socket.
    return type(exc) is TimeoutError and exc.errno is None


def failure_of(exc: BaseException) -> Failure:
    """`exc` as it is recorded; a group gives the class, status and metadata of its first leaf."""
    leaf = _first_leaf(exc)
    message = text_of(leaf) if leaf is exc else f"{text_of(exc)}: {text_of(leaf)}"
    if isinstance(leaf, TerminalError):
        status = leaf.status if _is_error_status(leaf.status) else TerminalError.status  # it may have been set since
        return Failure(leaf._type or type(leaf).__name__, message, status, _text_values(leaf.metadata))  # pyright: ignore[reportPrivateUsage]
    if isinstance(leaf, asyncio.CancelledError):
        return Failure(Failure.CANCELLED, message or "cancelled", 409)
    if _is_durable_timeout(leaf):
        return Failure("TimeoutError", message or "timed out", 504)
    return Failure(type(leaf).__name__, message, 400 if isinstance(leaf, InvalidKey) else 500)


def exception_of(failure: Failure) -> TerminalError:
    """The exception a caller gets: its own class if this process has one of that name, rebuilt without its __init__."""
    cls = _terminal_classes.get(failure.type, TerminalError)
    exc = cls.__new__(cls, failure.message)
    exc.args = (failure.message,)
    exc.status = failure.status
    exc.metadata = failure.metadata
    exc._type = failure.type  # pyright: ignore[reportPrivateUsage]
    return exc


def _first_leaf(exc: BaseException) -> BaseException:
    while isinstance(exc, BaseExceptionGroup):
        exc = _leaves(exc)[0]
    return exc


def _leaves(group: Any) -> tuple[BaseException, ...]:
    return cast("tuple[BaseException, ...]", group.exceptions)


def text_of(exc: BaseException) -> str:
    """What an exception says, fit to be recorded and shown; whatever its own __str__ does."""
    try:
        return _plain_text(str(exc))
    except BaseException:  # users' code: it may raise anything, SystemExit included
        return f"<{type(exc).__name__} that cannot be shown>"


def _plain_text(text: str) -> str:
    """Fit to be recorded: a lone surrogate (from a file name, say) would not encode."""
    return text[:MESSAGE_CHARACTERS_MAX].encode("utf-8", "replace").decode("utf-8")


def _text_values(metadata: dict[str, str] | None) -> dict[str, str] | None:
    if not isinstance(metadata, dict):  # it may have been set to anything since
        return None
    return {_plain_text(str(name)): _plain_text(str(value)) for name, value in metadata.items()}
