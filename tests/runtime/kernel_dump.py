"""All that a kernel remembers as plain data, wherever it is, so that two kernels can be compared."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any

import msgspec

from perdure.runtime import records
from perdure.runtime.invocations import Counts, Invocation, Status
from perdure.runtime.kernel import Kernel


def everything(kernel: Kernel) -> list[Invocation]:
    """All invocations; they are in memory afterwards, and all objects with them."""
    store = kernel.memory._store  # pyright: ignore[reportPrivateUsage]
    if store is not None:
        for row, _ in store.range(b"o", b"p", 10**6):
            kernel.entry(*row[1:].decode().split("\0"))
        for row, _ in store.range(b"i", b"j", 10**6):
            kernel.find(row[1:].decode())
    return [*kernel.invocations.values()]


def dump(kernel: Kernel) -> dict[str, Any]:
    """All a kernel remembers, wherever it is, as plain data that can be compared."""
    everything(kernel)
    assert told_by(kernel.counts) == counted(kernel)
    live = kernel.timers._live  # pyright: ignore[reportPrivateUsage]
    heap = kernel.timers._heap  # pyright: ignore[reportPrivateUsage]
    store = kernel.memory._store  # pyright: ignore[reportPrivateUsage]
    overlay = kernel.memory.rows
    stored = {} if store is None else dict(row for kind in _KINDS for row in store.range(kind, kind + b"\xff", 10**6))
    entries = kernel.memory.entries
    over = {**overlay.frozen, **overlay.changed, **entries.frozen, **entries.changed}
    rows = {row: value for row, value in {**stored, **over}.items() if row[:1] in _KINDS}
    counts = msgspec.structs.asdict(kernel.counts)
    return {
        "objects": {
            key: (entry.fields, entry.lengths, entry.holder, [*entry.mailbox], entry.expires)
            for key, entry in kernel.objects.items()
        },
        "invocations": {id: _of_invocation(one) for id, one in kernel.invocations.items()},
        "rows": {row: value for row, value in rows.items() if value is not None},
        "retention": {family: kernel.first_ended(family, 10**6) for family in counts["retained"]},
        "timers": sorted((due, id, command) for due, _, count, id, command in heap if live.get((id, command)) == count),
        "counts": {name: count for name, count in counts.items() if name not in _PASSING},
    }


def counted(kernel: Kernel) -> dict[str, Any]:
    """What the counts are kept for, counted one by one.  All of it has to be in memory."""
    open_now = [one for one in kernel.invocations.values() if not one.ended]
    mailboxes: dict[str, Counter[int]] = {}
    for (service, _), entry in kernel.objects.items():
        if entry.mailbox:
            mailboxes.setdefault(service, Counter())[len(entry.mailbox)] += 1
    return {
        "queued": sum(one.status in (Status.SCHEDULED, Status.PENDING) for one in open_now),
        "open_of": Counter((one.service, one.handler) for one in open_now),
        "scheduled_of": Counter(one.service for one in open_now if one.status is Status.SCHEDULED),
        "paused_of": Counter(one.service for one in open_now if one.status is Status.PAUSED),
        "mailboxes": mailboxes,
    }


def told_by(counts: Counts) -> dict[str, Any]:
    told = msgspec.structs.asdict(counts)
    open_of = {(service, name): n for service, of in counts.open_of.items() for name, n in of.items() if n}
    return {name: told[name] for name in ("queued", "scheduled_of", "paused_of", "mailboxes")} | {"open_of": open_of}


_KINDS = (b"c", b"k", b"s", b"w")
"""Of the small rows: entries of Lists and Maps, idempotency keys, schedules, awakeables.  The others
follow from the rest."""

_PASSING = ("in_ready_queue", "agenda", "frozen_at")
"""What doesn't outlive the moment."""


def _of_invocation(invocation: Invocation) -> dict[str, Any]:
    fields = {name: value for name, value in msgspec.structs.asdict(invocation).items() if name not in _PASSING}
    return {**fields, "deliveries": [*invocation.deliveries], "waiters": invocation.waiters or []}


def rebuilt(data: Iterable[bytes]) -> Kernel:
    """A kernel to which the records were applied, and nothing else was done."""
    kernel = Kernel()
    for each in data:
        kernel.apply(records.decode(each))
    kernel.ended.clear()
    return kernel
