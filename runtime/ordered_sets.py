"""Sets that keep their order, for the parts of asyncio that iterate over sets of tasks.

`asyncio.wait`, `as_completed`, `TaskGroup` and `all_tasks` put tasks in sets and iterate over them, so that the order
in which callbacks run depends on addresses. Tasks and futures of a turn loop hash by number (see `turn_tasks`), which
makes the order of any set of them repeatable; the sets that asyncio makes itself, inside a turn, also keep the order in
which they were filled, coroutines and all, so that it is the order of the text.

Decision: names are put into the namespaces of asyncio's modules (`asyncio.tasks.set` and a few more), each a function
that does the ordinary thing unless the running loop is a turn loop.
For: user code stays ordinary asyncio; other users of asyncio in the process get the builtins, as before.
Against: it leans on asyncio looking these names up as globals; the reference program in the tests fails, on each
Python, when that changes.

This file does not know what a turn is: `install` is told which type of loop wants order, and how to ask it.
"""

from __future__ import annotations

import asyncio.futures
import asyncio.runners
import asyncio.taskgroups
import asyncio.tasks
import builtins
from asyncio import events
from collections.abc import Callable, Iterable, Iterator
from collections.abc import Set as AbstractSet
from types import ModuleType
from typing import Any, Protocol, Self, TypeVar, cast

T = TypeVar("T")


class OrderedSet(set[T]):
    """A set that iterates and pops in the order of insertion.

    Operators that make a new set (`|`, `&`, …) make a builtin one.
    """

    __slots__ = ("_order",)

    def __init__(self, items: Iterable[T] = (), /) -> None:
        self._order = dict.fromkeys(items)
        super().__init__(self._order)

    def __iter__(self) -> Iterator[T]:
        return iter(self._order)

    def __reversed__(self) -> Iterator[T]:
        return reversed(self._order)

    def add(self, item: T, /) -> None:
        self._order[item] = None
        super().add(item)

    def discard(self, item: object, /) -> None:
        self._order.pop(cast("T", item), None)
        super().discard(item)

    def remove(self, item: T, /) -> None:
        super().remove(item)
        del self._order[item]

    def pop(self) -> T:
        for item in self._order:
            self.remove(item)
            return item
        raise KeyError("pop from an empty set")

    def clear(self) -> None:
        self._order.clear()
        super().clear()

    def copy(self) -> OrderedSet[T]:
        return OrderedSet(self)

    def update(self, *others: Iterable[T]) -> None:
        for other in others:
            self._order.update(dict.fromkeys(other))
        super().update(self._order)

    # Whatever shrinks the set in place: let the builtin decide what stays, then drop the rest from the order.
    def _follow(self) -> None:
        self._order = {item: None for item in self._order if item in self}

    def difference_update(self, *others: Iterable[Any]) -> None:
        super().difference_update(*others)
        self._follow()

    def intersection_update(self, *others: Iterable[Any]) -> None:
        super().intersection_update(*others)
        self._follow()

    def symmetric_difference_update(self, other: Iterable[T], /) -> None:
        for item in dict.fromkeys(other):
            if item in self:
                self.remove(item)
            else:
                self.add(item)

    def __ior__(self, other: AbstractSet[Any], /) -> Self:  # type: ignore[override, misc]  # builtin: a new type variable
        return self._in_place(self.update, other)

    def __isub__(self, other: AbstractSet[Any], /) -> Self:  # type: ignore[misc]
        return self._in_place(self.difference_update, other)

    def __iand__(self, other: AbstractSet[Any], /) -> Self:  # type: ignore[misc]
        return self._in_place(self.intersection_update, other)

    def __ixor__(self, other: AbstractSet[Any], /) -> Self:  # type: ignore[override, misc]
        return self._in_place(self.symmetric_difference_update, other)

    def _in_place(self, change: Callable[[Any], None], other: object) -> Self:
        if not isinstance(other, AbstractSet):
            return cast("Self", NotImplemented)
        change(other)
        return self


class OrderKeeper(Protocol):
    """What a loop must offer whose turns want order."""

    def next_hash(self) -> int: ...

    def tasks_in_order(self) -> list[Any]: ...


_GatheringFuture: Any = vars(asyncio.tasks)["_GatheringFuture"]


class _NumberedGatheringFuture(_GatheringFuture):  # type: ignore[misc]  # asyncio's own has no public type
    """What `gather` returns, hashing like every other future of a turn loop."""

    __slots__ = ("turn_hash",)

    def __init__(self, children: list[Any], *, loop: OrderKeeper) -> None:
        self.turn_hash = loop.next_hash()
        super().__init__(children, loop=loop)  # pyright: ignore[reportUnknownMemberType]

    def __hash__(self) -> int:
        return self.turn_hash


_installed_for: builtins.list[type] = []


def install(keeper: type[OrderKeeper], refuse: Callable[[str], Exception]) -> None:
    """Give asyncio ordered sets while a loop of the type `keeper` is running in the thread. Once per process.

    `refuse` makes the error for what must not be used in a turn at all.
    """
    if _installed_for:
        return
    _installed_for.append(keeper)
    running = cast("Callable[[], object]", events._get_running_loop)
    all_tasks = _weak_set_of_all_tasks()
    chain_future: Callable[[object, object], None] = vars(asyncio.futures)["_chain_future"]

    def ordered_set(items: Iterable[Any] = ()) -> builtins.set[Any]:
        return OrderedSet(items) if type(running()) is keeper else builtins.set(items)

    def list_of_tasks(items: Iterable[Any] = ()) -> builtins.list[Any]:
        # all_tasks() copies a WeakSet of the whole process, whose order depends on everybody else's tasks.
        loop = running()
        if items is all_tasks and type(loop) is keeper:
            return loop.tasks_in_order()
        return builtins.list(items)

    def new_gathering_future(children: builtins.list[Any], *, loop: Any) -> Any:
        return (_NumberedGatheringFuture if type(loop) is keeper else _GatheringFuture)(children, loop=loop)

    def chain_futures(source: Any, destination: Any) -> None:
        # Without this, `await asyncio.wrap_future(...)` waits for ever: the other thread's answer is refused there.
        if type(running()) is keeper:
            raise refuse("waiting for a future of another thread or loop")
        chain_future(source, destination)

    def error_of_runner(message: str) -> Exception:
        return refuse("asyncio.run()") if type(running()) is keeper else builtins.RuntimeError(message)

    _put(asyncio.tasks, set=ordered_set, list=list_of_tasks, _GatheringFuture=new_gathering_future)
    _put(asyncio.taskgroups, set=ordered_set)
    _put(asyncio.futures, _chain_future=chain_futures)
    _put(asyncio.runners, RuntimeError=error_of_runner)


def _weak_set_of_all_tasks() -> object:
    # Renamed in 3.12.
    return vars(asyncio.tasks)["_scheduled_tasks" if hasattr(asyncio.tasks, "_scheduled_tasks") else "_all_tasks"]


def _put(module: ModuleType, **names: object) -> None:
    vars(module).update(names)
