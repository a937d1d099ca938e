"""From the disk back to memory: the store as it was last written, then `apply` in a loop over the journal's tail.

What is idle or waits stays in the store until it is needed, so the time depends on the tail and on what is runnable,
not on how much there is.
"""

from __future__ import annotations

from perdure.journal import Journal, OnProgress

from . import records, rows
from .exits import InternalError
from .invocations import Invocation
from .kernel import Kernel
from .settings import Settings
from .store import StoreError, StoreWriter

_TIDY_EVERY = 4096
_ENCODED_AT_ONCE = 4096


class RecoveryFailed(InternalError):
    """A record of the journal can't be applied; the line names its LSN."""


def recover(
    kernel: Kernel,
    journal: Journal,
    store: StoreWriter | None,
    settings: Settings,
    now: int,
    on_progress: OnProgress | None = None,
) -> None:
    """Afterwards `ready` has what a committed turn has not used up, or has a step to run.

    `on_progress(LSN, last LSN)` is called now and then.  Raises RecoveryFailed, StoreError.
    """
    begin = 1
    if store is not None:
        begin = store.lsn + 1
        if store.summary:
            kernel.counts = rows.unpack_counts(store.summary)
    if journal.first_lsn > begin:
        raise RecoveryFailed(
            f"the journal begins with record {journal.first_lsn}: its oldest segments are missing and nothing else "
            "holds what was in them; nothing was started or changed, put them back from a backup"
        )
    changes_max = 4 * settings.checkpoint_changes_max
    for lsn, data in journal.read(begin):
        try:
            kernel.apply(records.decode(data))
        except StoreError:
            raise
        except Exception as error:
            raise RecoveryFailed(
                f"record {lsn} of the journal can't be applied ({error!r}): nothing was started or changed; "
                "`perdure journal dump` shows it"
            ) from error
        if lsn % _TIDY_EVERY == 0:
            if on_progress is not None:
                on_progress(lsn, journal.next_lsn - 1)
            _keep_what_is_ready(kernel)
            if store is not None and kernel.memory.changed > changes_max:
                bring_up_to(kernel, store, lsn, now)
                kernel.memory.evict(settings.memory_bytes_max, _may_leave)
    _keep_what_is_ready(kernel)
    for *_, id in kernel.memory.due((0, 0, ""), 1):
        kernel.find(id)
    for invocation in [*kernel.invocations.values()]:
        if invocation.runnable:
            kernel.wake(invocation)


def bring_up_to(kernel: Kernel, store: StoreWriter, lsn: int, now: int) -> None:
    """A checkpoint when nobody waits: all of it at once.  Raises StoreError."""
    summary = kernel.freeze(now)
    while kernel.memory.encode(_ENCODED_AT_ONCE):
        pass
    store.commit(kernel.memory.frozen_rows(), lsn, summary)
    while kernel.memory.thaw(_ENCODED_AT_ONCE):
        pass


def _keep_what_is_ready(kernel: Kernel) -> None:
    """A handler that is only suspended is not driven by a restart, and what has ended need not stay in memory."""
    kernel.ended.clear()
    kernel.yielded.clear()
    kernel.rewound.clear()
    ready = [*kernel.ready]
    kernel.ready.clear()
    for invocation in ready:
        invocation.in_ready_queue = False
        if not invocation.ended and len(invocation.deliveries) > invocation.consumed:
            kernel.wake(invocation)


def _may_leave(invocation: Invocation) -> bool:
    return not invocation.in_ready_queue
