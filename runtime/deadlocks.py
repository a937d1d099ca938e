"""Waits that would never end.

An edge leads from an invocation to what it waits for: from one in a mailbox, or due there later, to the holder of its
key, from an open one to each invocation whose outcome it asked for.  Edges to a result count from the call on, awaited
or not yet: an invocation that isn't in memory can't be asked which of its calls it awaits.  A wait is refused if a path
leads from what it waits for back to the waiter.

Timers, steps and the outside world end such chains: what waits for them too may still go on.  The search stops after
`LOOKED_AT_MAX` invocations and then lets the wait begin.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from .invocations import Invocation, Status
from .kernel import Kernel

LOOKED_AT_MAX = 10_000


class Cycle(NamedTuple):
    """`path` leads from what the waiter wants to wait for back to the waiter.

    `queued`: the invocation that waits for the waiter's key, if the cycle is closed by the key and not by its result.
    """

    path: list[Invocation]
    queued: Invocation | None


def find_cycle(kernel: Kernel, waiter: Invocation, first: Invocation) -> Cycle | None:
    """A cycle that the waiter would close by waiting for `first`."""
    came_from: dict[str, Invocation | None] = {first.id: None}
    if first is waiter:
        return Cycle([waiter], None)
    to_look_at = [first]
    while to_look_at and len(came_from) <= LOOKED_AT_MAX:
        at = to_look_at.pop()
        for next in _waits_of(kernel, at):
            if next is waiter:
                return Cycle([*_path(came_from, at), waiter], at if at.status is Status.PENDING else None)
            if next.id not in came_from:
                came_from[next.id] = at
                to_look_at.append(next)
    return None


def _waits_of(kernel: Kernel, invocation: Invocation) -> Iterator[Invocation]:
    if invocation.exclusive and invocation.status in (Status.PENDING, Status.SCHEDULED):
        entry = kernel.entry(invocation.service, invocation.key)
        if entry is not None and entry.holder is not None and (holder := kernel.find(entry.holder)) is not None:
            yield holder
        return
    for id in invocation.waits_for():
        if (other := kernel.find(id)) is not None and not other.ended:
            yield other


def _path(came_from: dict[str, Invocation | None], last: Invocation) -> list[Invocation]:
    path: list[Invocation] = []
    step: Invocation | None = last
    while step is not None:
        path.append(step)
        step = came_from[step.id]
    return path[::-1]


def message_of(waiter: Invocation, wanted: str, cycle: Cycle) -> str:
    names = " -> ".join(step.target for step in cycle.path)
    return f"deadlock: {waiter.target} would wait for {wanted}, which waits for {names}"
