"""From the journal back to memory: `apply` in a loop."""

from __future__ import annotations

from perdure.journal import Journal

from . import records
from .kernel import Kernel

_TIDY_EVERY = 4096


class InternalError(Exception):
    """A bug of ours: the process stops, what was acknowledged is safe.  `str()` is the one line for people."""

    exit_code = 15


class RecoveryFailed(InternalError):
    """A record of the journal can't be applied; the line names its LSN."""


def recover(kernel: Kernel, journal: Journal) -> None:
    """Afterwards `ready` has what a committed turn has not used up, or has a step to run.  Raises RecoveryFailed."""
    if journal.first_lsn != 1:
        raise RecoveryFailed(
            f"the journal begins with record {journal.first_lsn}: its oldest segments are missing and nothing else "
            "holds what was in them; nothing was started or changed, put them back from a backup"
        )
    for lsn, data in journal.read():
        try:
            kernel.apply(records.decode(data))
        except Exception as error:
            raise RecoveryFailed(
                f"record {lsn} of the journal can't be applied ({error!r}): nothing was started or changed; "
                "`perdure journal dump` shows it"
            ) from error
        if lsn % _TIDY_EVERY == 0:
            _keep_what_is_ready(kernel)
    _keep_what_is_ready(kernel)
    for invocation in kernel.invocations.values():
        if not invocation.ended and invocation.has_steps_to_run:
            kernel.wake(invocation)


def _keep_what_is_ready(kernel: Kernel) -> None:
    """A handler that is only suspended is not driven by a restart, and what has ended need not stay in memory."""
    kernel.ended.clear()
    kernel.rewound.clear()
    ready = [*kernel.ready]
    kernel.ready.clear()
    for invocation in ready:
        invocation.in_ready_queue = False
        if not invocation.ended and len(invocation.deliveries) > invocation.consumed:
            kernel.wake(invocation)
