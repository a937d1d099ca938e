"""Who is next, of those that wait for a place: by class in turn, within a class by weight, within a weight in order.

Plain data and arithmetic: no clock, no invocation.  Nothing of it is durable: who waits is read off the journal again
(it was accepted and has not ended), so a restart lines them up anew.

Weights, not ranks: of what waits in one class, `HIGH` gets four times the places of `NORMAL` and that four times those
of `LOW`, so the n-th that waits with a weight w gets its place after at most n * (sum of all weights) / w others of its
class, whatever arrives meanwhile.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from typing import Final, Generic, TypeVar

BEGUN: Final = 0
HIGH: Final = 1
NORMAL: Final = 2
LOW: Final = 3

WEIGHTS: Final = (64, 16, 4, 1)
"""What has begun goes first: it holds its key and its memory, and others wait for what it ends with."""

_STRIDES: Final = tuple(max(WEIGHTS) // weight for weight in WEIGHTS)

T = TypeVar("T")
Id = TypeVar("Id")


class Line(Generic[Id, T]):
    """What waits for one thing, each under its id (stride scheduling over a few levels)."""

    def __init__(self) -> None:
        self._levels: tuple[OrderedDict[Id, T], ...] = tuple(OrderedDict() for _ in WEIGHTS)
        self._level_of: dict[Id, int] = {}
        self._turns = [0] * len(WEIGHTS)  # of each level, when it is next, in a time that passes as places are given
        self._now = 0

    def __len__(self) -> int:
        return len(self._level_of)

    def __contains__(self, id: Id) -> bool:
        return id in self._level_of

    def __iter__(self) -> Iterator[Id]:
        return iter(self._level_of)

    def add(self, id: Id, level: int, item: T) -> None:
        if not self._levels[level]:  # while nobody waited there it saved nothing up
            self._turns[level] = max(self._turns[level], self._now + _STRIDES[level])
        self._levels[level][id] = item
        self._level_of[id] = level

    def remove(self, id: Id) -> T | None:
        level = self._level_of.pop(id, None)
        return None if level is None else self._levels[level].pop(id)

    def pop(self) -> tuple[Id, T]:
        """The next.  KeyError if nobody waits."""
        level = min((turn, level) for level, turn in enumerate(self._turns) if self._levels[level])[1]
        self._now = self._turns[level]
        self._turns[level] += _STRIDES[level]
        id, item = self._levels[level].popitem(last=False)
        del self._level_of[id]
        return id, item


class Places(Generic[Id, T]):
    """So many at once of each class, and of all of them together.

    `give` is called for whoever waited and has a place from then on.
    """

    def __init__(self, total: int | None, of_class: Mapping[str, int], give: Callable[[Id, T], None]) -> None:
        self.total = total
        self.of_class = of_class
        self._give = give
        self._holders: dict[Id, str] = {}
        self._held_of: dict[str, int] = {}
        self._lines: OrderedDict[str, Line[Id, T]] = OrderedDict()  # whoever got a place goes to the end
        self._line_of: dict[Id, str] = {}

    def __contains__(self, id: Id) -> bool:
        """Whether it has a place."""
        return id in self._holders

    def counts(self, service: str) -> bool:
        return self.total is not None or service in self.of_class

    def held(self, service: str | None = None) -> int:
        return len(self._holders) if service is None else self._held_of.get(service, 0)

    def waiting(self, service: str | None = None) -> int:
        if service is None:
            return len(self._line_of)
        line = self._lines.get(service)
        return 0 if line is None else len(line)

    def line_of(self, id: Id) -> str | None:
        """The class in whose line it waits."""
        return self._line_of.get(id)

    def in_line(self) -> Iterator[Id]:
        """Whoever waits, in no order."""
        return iter(self._line_of)

    def full(self, service: str) -> bool:
        """Of its class; False if it is only the total that has no place left."""
        cap = self.of_class.get(service)
        return cap is not None and self._held_of.get(service, 0) >= cap

    def enter(self, service: str, id: Id, level: int, item: T, *, over: bool = False) -> bool:
        """True: it has a place.  False: it waits, and is given one later.  `over`: it has one, free or not."""
        if id in self._holders:
            return True
        if id in self._line_of and not over:
            return False
        if over or not (self._none_left or self.full(service) or service in self._lines):
            self._forget_waiting(id)
            self._take(service, id)
            return True
        if service not in self._lines:
            self._lines[service] = Line()
        self._lines[service].add(id, level, item)
        self._line_of[id] = service
        return False

    def leave(self, id: Id) -> T | None:
        """It needs no place any more; returns the item if it was still waiting."""
        item = self._forget_waiting(id)
        service = self._holders.pop(id, None)
        if service is not None:
            self._held_of[service] -= 1
            if not self._held_of[service]:
                del self._held_of[service]
            self._give_what_is_free()
        return item

    @property
    def _none_left(self) -> bool:
        return self.total is not None and len(self._holders) >= self.total

    def _take(self, service: str, id: Id) -> None:
        self._holders[id] = service
        self._held_of[service] = self._held_of.get(service, 0) + 1

    def _forget_waiting(self, id: Id) -> T | None:
        service = self._line_of.pop(id, None)
        if service is None:
            return None
        line = self._lines[service]
        item = line.remove(id)
        if not line:
            del self._lines[service]
        return item

    def _give_what_is_free(self) -> None:
        while not self._none_left:
            service = next((service for service in self._lines if not self.full(service)), None)
            if service is None:
                return
            line = self._lines[service]
            id, item = line.pop()
            del self._line_of[id]
            if line:
                self._lines.move_to_end(service)
            else:
                del self._lines[service]
            self._take(service, id)
            self._give(id, item)
