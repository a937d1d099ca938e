"""Builders: an instance as the runtime makes it, and an Outbound that keeps what it is given."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Coroutine
from datetime import timedelta
from typing import Any, Protocol

import pytest

from perdure.objects import Handle, Promise, WorkflowContext
from perdure.objects.definitions import definition_of, new_instance
from perdure.objects.references import Target
from perdure.objects.state import State


class KeptHandle(Handle[Any]):
    def __init__(self, target: Target) -> None:
        self.target = target


class Outbox:
    """An Outbound: what was asked for stands in `asked`, in the order of the text."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, Target]] = []
        self.delays: list[float | timedelta | None] = []
        self.answers: list[Any] = []

    def call(self, target: Target) -> Coroutine[object, None, Any]:
        self.asked.append(("call", target))
        return self._answer()

    async def _answer(self) -> Any:
        answer = self.answers.pop(0) if self.answers else None
        if isinstance(answer, BaseException):
            raise answer
        return answer

    async def stream(self, target: Target) -> AsyncIterator[Any]:
        self.asked.append(("stream", target))
        for answer in self.answers:
            yield answer

    def send(self, target: Target, delay: float | timedelta | None) -> Handle[Any]:
        self.asked.append(("send", target))
        self.delays.append(delay)
        return KeptHandle(target)


class KeptPromise(Promise[Any]):
    def __init__(self, name: str, type_: Any) -> None:
        self.name = name
        self.type = type_


class PlainContext(WorkflowContext):
    """A context whose steps run at once, and whose calls go to an Outbox."""

    def __init__(self) -> None:
        self.outbox = Outbox()
        self._outbound = self.outbox
        self.steps: list[str] = []

    def run(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Coroutine[object, None, Any]:
        return self._run(fn, args, kwargs)

    async def _run(self, fn: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        self.steps.append(fn.__name__)
        result: Any = fn(*args, **kwargs)
        return (await result) if hasattr(result, "__await__") else result

    def promise(self, name: str, type: Any, /) -> Promise[Any]:
        return KeptPromise(name, type)


Written = tuple[list[tuple[str, bytes, bytes | None]], dict[str, int]]


class KeptEntries:
    """An EntrySource: the entries of each field in a dict, with a note of what was asked for."""

    def __init__(self, fields: dict[str, dict[bytes, bytes]] | None = None) -> None:
        self.fields = fields or {}
        self.gets: list[tuple[str, bytes]] = []
        self.ranges: list[tuple[str, bytes | None, int]] = []

    def length(self, field: str) -> int:
        return len(self.fields.get(field, {}))

    def get(self, field: str, entry: bytes) -> bytes | None:
        self.gets.append((field, entry))
        return self.fields.get(field, {}).get(entry)

    def range(self, field: str, after: bytes | None, limit: int) -> list[tuple[bytes, bytes]]:
        self.ranges.append((field, after, limit))
        entries = self.fields.get(field, {})
        return sorted(row for row in entries.items() if after is None or row[0] > after)[:limit]

    def copy(self) -> KeptEntries:
        return KeptEntries({name: dict(entries) for name, entries in self.fields.items()})

    def apply(self, written: Written) -> None:
        """Commit, and hold the lengths against the entries that are there."""
        changes, lengths = written
        before = {name: self.length(name) for name, _, _ in changes}
        for name, entry, data in changes:
            if data is None:
                del self.fields[name][entry]
            else:
                self.fields.setdefault(name, {})[entry] = data
        after = {name: self.length(name) for name in before}
        assert lengths == {name: length for name, length in after.items() if length != before[name]}


class Live:
    """An instance with its state; `stored` and `kept` are what was committed, `collect()` and `collect_entries()` end a
    turn and commit. A writer sees the entries as they were when it was made, a reader as they are.
    """

    def __init__(
        self, cls: Any, key: str, stored: dict[str, bytes], kept: KeptEntries | None = None, *, writable: bool
    ) -> None:
        self.stored = dict(stored)
        self.kept = kept or KeptEntries()
        self.source = self.kept.copy() if writable else self.kept
        self.loads: list[str] = []
        self.guarded = 0
        self.refuse: BaseException | None = None
        self.context = PlainContext()
        self.outbox = self.context.outbox
        self.definition = definition_of(cls)
        self.state = State(self.definition, self._load, self._guard, writable=writable, entries=self.source)
        self.object: Any = new_instance(self.definition, key, self.context, self.state)

    def _load(self, name: str) -> bytes | None:
        self.loads.append(name)
        return self.stored.get(name)

    def _guard(self) -> None:
        self.guarded += 1
        if self.refuse is not None:
            raise self.refuse

    def collect(self) -> dict[str, bytes]:
        writes = self.state.collect_writes()
        self.stored.update(writes)
        return writes

    def collect_entries(self) -> Written:
        written = self.state.collect_entries()
        self.kept.apply(written)
        return written


class MakeLive(Protocol):
    def __call__(
        self,
        cls: Any,
        key: str = "k",
        stored: dict[str, bytes] | None = None,
        *,
        kept: KeptEntries | None = None,
        writable: bool = True,
    ) -> Live: ...


@pytest.fixture
def live() -> MakeLive:
    def make(
        cls: Any,
        key: str = "k",
        stored: dict[str, bytes] | None = None,
        *,
        kept: KeptEntries | None = None,
        writable: bool = True,
    ) -> Live:
        return Live(cls, key, stored or {}, kept, writable=writable)

    return make


@pytest.fixture
def outbox() -> Outbox:
    return Outbox()


@pytest.fixture
def context() -> PlainContext:
    return PlainContext()
