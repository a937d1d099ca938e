"""What is due, and when: timers of handlers, delayed invocations, retries.

A heap with lazy removal.  Entries due together come out in the order that was given with them, and then in which they
were set, which for one turn is the order of its commands.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from typing import NamedTuple

RETRY = -1
JOIN_MAILBOX = -2
WAKE = -3
EXPIRY = -4


class Timer(NamedTuple):
    """In the order in which they fire. `number`: in which they were set."""

    due: int
    order: int
    number: int
    id: str
    command: int


class Timers:
    """`(invocation id, command)` by due time; RETRY and JOIN_MAILBOX stand for what is no command.

    WAKE: something of an invocation that isn't in memory; what it is, is known once it is.
    EXPIRY: of an object, by its `rows.object_id`.
    """

    __slots__ = ("_count", "_heap", "_live")

    def __init__(self) -> None:
        self._heap: list[Timer] = []
        self._live: dict[tuple[str, int], int] = {}
        self._count = 0

    def __len__(self) -> int:
        return len(self._live)

    def set(self, due: int, id: str, command: int, order: int = 0) -> None:
        self._count += 1
        self._live[id, command] = self._count
        heapq.heappush(self._heap, Timer(due, order, self._count, id, command))

    def clear(self, id: str, command: int) -> None:
        self._live.pop((id, command), None)
        if len(self._heap) > 64 and len(self._heap) > 2 * len(self._live):
            self._compact()

    def next_due(self) -> int | None:
        self._skip_cleared()
        return self._heap[0].due if self._heap else None

    def next_id(self) -> str:
        """Whose it is that `next_due` told of."""
        return self._heap[0].id

    def put_back(self, timer: Timer) -> None:
        """One that `due` gave: it has its place again."""
        self._live[timer.id, timer.command] = timer.number
        heapq.heappush(self._heap, timer)

    def due(self, now: int) -> Iterator[Timer]:
        """Takes out what is due at `now`, one by one; the caller may set and clear meanwhile."""
        while (due := self.next_due()) is not None and due <= now:
            timer = heapq.heappop(self._heap)
            del self._live[timer.id, timer.command]
            yield timer

    def _skip_cleared(self) -> None:
        heap = self._heap
        while heap and self._live.get((heap[0].id, heap[0].command)) != heap[0].number:
            heapq.heappop(heap)

    def _compact(self) -> None:
        """Timeouts that were cancelled, mostly: they must not stay in memory until they would have been due."""
        self._heap = [entry for entry in self._heap if self._live.get((entry.id, entry.command)) == entry.number]
        heapq.heapify(self._heap)
