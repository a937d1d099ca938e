"""The hot paths of objects/: one int field read and written in a turn, a call made on a reference, one entry of many.

    python tests/benchmarks/objects_bench.py

Prints nanoseconds, the best of several rounds: other processes only ever add to a figure.
"""

from __future__ import annotations

import sys
import timeit
from collections.abc import AsyncIterator, Callable, Coroutine
from datetime import timedelta
from typing import Any

from perdure.objects import Context, Handle, List, Map, VirtualObject, handler
from perdure.objects.definitions import definition_of, new_instance
from perdure.objects.references import Target, reference
from perdure.objects.state import State

ROUNDS, TIMES = 300, 1_000  # short rounds: some fall between what other processes do


class Account(VirtualObject):
    balance: int = 0
    seen: list[str]

    @handler
    async def deposit(self, amount: int) -> int:
        self.balance += amount
        return self.balance

    @handler
    async def transfer(self, to: str, amount: int) -> int:
        return self.balance


class Room(VirtualObject):
    said: List[str]
    votes: Map[str, int]

    @handler
    async def say(self, text: str) -> None: ...


class Million:
    """An EntrySource that has any entry, and keeps none."""

    def length(self, field: str) -> int:
        return 1_000_000

    def get(self, field: str, entry: bytes) -> bytes | None:
        return b"5"

    def range(self, field: str, after: bytes | None, limit: int) -> list[tuple[bytes, bytes]]:
        return []


class Nowhere:
    """An Outbound that keeps nothing."""

    def call(self, target: Target) -> Coroutine[object, None, Any]:
        return None  # type: ignore[return-value]

    def stream(self, target: Target) -> AsyncIterator[Any]:
        raise NotImplementedError

    def send(self, target: Target, delay: float | timedelta | None) -> Handle[Any]:
        raise NotImplementedError


DEFINITION = definition_of(Account)
CONTEXT = Context()
STORED = {"balance": b"41", "seen": b'["a","b","c"]'}
BOB: Any = reference(Account, "bob", Nowhere())


def guard() -> None: ...


ALICE: Any = new_instance(DEFINITION, "alice", CONTEXT, State(DEFINITION, STORED.get, guard, writable=True))


def one_field() -> dict[str, bytes]:
    """What a turn costs that reads and writes one int field: State, get, set, collect."""
    state = State(DEFINITION, STORED.get, guard, writable=True)
    instance: Any = new_instance(DEFINITION, "alice", CONTEXT, state)
    instance.balance += 1
    return state.collect_writes()


def state_only() -> dict[str, bytes]:
    state = State(DEFINITION, STORED.get, guard, writable=True)
    state.values["balance"] = state.fetch("balance") + 1
    state.changed["balance"] = None
    return state.collect_writes()


def one_list() -> dict[str, bytes]:
    state = State(DEFINITION, STORED.get, guard, writable=True)
    instance: Any = new_instance(DEFINITION, "alice", CONTEXT, state)
    instance.seen.append("d")
    return state.collect_writes()


def one_entry_appended() -> object:
    state, room = entered()
    room.said.append("hello")
    return state.collect_entries()


def one_entry_counted() -> object:
    state, room = entered()
    room.votes["bob"] += 1
    return state.collect_entries()


def entered() -> tuple[State, Any]:
    definition = definition_of(Room)
    state = State(definition, STORED.get, guard, writable=True, entries=Million())
    return state, new_instance(definition, "lobby", CONTEXT, state)


MEASURES: tuple[tuple[str, Callable[[], object]], ...] = (
    ("State + get + set + collect_writes, one int", state_only),
    ("the same through an instance, made too", one_field),
    ("an instance whose handler appends to a list", one_list),
    ("an instance whose handler appends to a List", one_entry_appended),
    ("an instance whose handler counts in a Map", one_entry_counted),
    ("self.deposit(5), up to the coroutine", lambda: ALICE.deposit(5).close()),
    ("ref.deposit(5), up to the Target", lambda: BOB.deposit(5)),
    ("ref.transfer(to, 5), up to the Target", lambda: BOB.transfer("alice", 5)),
    ("reference(Account, key)", lambda: reference(Account, "bob", Nowhere)),  # type: ignore[arg-type]
    ("decode_arguments, one int", lambda: DEFINITION.handlers["deposit"].decode_arguments(b"5")),
    (
        "decode_arguments, two by name",
        lambda: DEFINITION.handlers["transfer"].decode_arguments(b'{"to":"a","amount":5}'),
    ),
    ("encode_result, one int", lambda: DEFINITION.handlers["deposit"].encode_result(46)),
)


def main() -> None:
    print(f"Python {sys.version.split()[0]}, best of {ROUNDS} x {TIMES}")
    for what, measure in MEASURES:
        best = min(timeit.repeat(measure, number=TIMES, repeat=ROUNDS)) / TIMES
        print(f"{best * 1e9:8.0f} ns  {what}")


if __name__ == "__main__":
    main()
