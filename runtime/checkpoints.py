"""Checkpoints: the store is brought up to the journal, and the journal trimmed.

    freeze at an LSN ──▶ rows, some at a time ──▶ that LSN is synced ──▶ one transaction ──▶ trim, evict
    (the loop, at once)  (the loop, between turns)                       (a thread)          (the loop)

The store never holds what the journal might lose, and the journal keeps what the store does not hold.  One is made
when enough has changed or the tail that a start would replay is long enough, never because time has passed.
A disk that is full holds up the trimming, nothing else: the same rows are written again until there is room.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Final

import structlog

from perdure.journal import Journal

from .admission import Refused
from .clock import Clock
from .invocations import Invocation
from .ledger import Ledger
from .recovery import bring_up_to
from .settings import Settings
from .store import Put, StoreFull, StoreWriter

log: structlog.stdlib.BoundLogger = structlog.get_logger("perdure")

_ENCODED_AT_ONCE: Final = 100
"""Rows made between two slices of turns: some 0.3 ms."""

_THAWED_AT_ONCE: Final = 400
"""Likewise."""

_EVICTED_AT_ONCE: Final = 64
"""A suspended handler's run is closed when it leaves, some 50 µs each."""

_FULL_RETRY_US: Final = 1_000_000


class Checkpoints:
    """`may_leave` says of an invocation whether nothing holds it in memory."""

    def __init__(
        self,
        ledger: Ledger,
        journal: Journal,
        store: StoreWriter,
        clock: Clock,
        settings: Settings,
        may_leave: Callable[[Invocation], bool],
    ) -> None:
        self._ledger = ledger
        self._kernel = ledger.kernel
        self._journal = journal
        self._store = store
        self._clock = clock
        self._settings = settings
        self._may_leave = may_leave
        self._loop = asyncio.get_running_loop()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="perdure-store")
        self._lsn = store.lsn
        self._summary = b""
        self._making = False
        self._evicting = False
        self._to_come = 0  # of: all is rows, all is synced
        self._stopped = False
        self._waiting: list[tuple[int, asyncio.Future[None]]] = []
        self._written_at = clock.now_us()
        self.full = False
        self.made = 0

    async def now(self) -> None:
        """Until the store has all that is recorded by now.  Those who wait share one.  Raises Refused."""
        lsn = self._ledger.last_lsn
        if self._making or lsn > self._lsn:
            waiting = self._loop.create_future()
            self._waiting.append((lsn, waiting))
            self.look()
            await waiting

    @property
    def lag_records(self) -> int:
        """How many the store does not hold yet: what a start would replay."""
        return self._ledger.last_lsn - self._store.lsn

    @property
    def age_seconds(self) -> float:
        """Since the last was made, or since the start."""
        return max(0, self._clock.now_us() - self._written_at) / 1e6

    @property
    def behind(self) -> bool:
        """One is being made, and it is time for the next already."""
        return self._making and self._is_time()

    def look(self) -> None:
        """Begins one if it is time; lets go of what needn't be in memory."""
        if self._kernel.memory.clean_bytes > self._settings.memory_bytes_max and not self._evicting:
            self._evict()
        if not self._making and not self._stopped and (self._waiting or self._is_time()):
            self._begin()

    def _evict(self) -> None:
        memory, settings = self._kernel.memory, self._settings
        self._evicting = not self._stopped and memory.evict(
            settings.memory_bytes_max, self._may_leave, _EVICTED_AT_ONCE
        )
        if self._evicting:
            self._loop.call_soon(self._evict)

    def stop(self) -> None:
        """What is not written by now is written after the next start."""
        self._stopped = True
        self._tell_waiting(Refused(503, "the process is stopping", retry_after_seconds=1))

    def close(self, *, last: bool) -> None:
        """To be called in a thread, when the journal is closed.  `last`: all of it is synced, so one more is made."""
        self._thread.shutdown()
        memory = self._kernel.memory
        if last and not self._making and memory.changed:
            with suppress(StoreFull):
                bring_up_to(self._kernel, self._store, self._ledger.last_lsn, self._clock.now_us())
        self._store.close()

    def _is_time(self) -> bool:
        settings = self._settings
        tail = self._ledger.last_lsn - self._lsn
        return tail >= settings.checkpoint_records_max or (
            tail > 0 and self._kernel.memory.changed >= settings.checkpoint_changes_max
        )

    def _begin(self) -> None:
        self._making = True
        self._lsn = self._ledger.last_lsn
        self._summary = self._kernel.freeze(self._clock.now_us())
        self._to_come = 2
        self._ledger.when_synced(self._one_came)
        self._encode()

    def _encode(self) -> None:
        if self._stopped:
            return
        if self._kernel.memory.encode(_ENCODED_AT_ONCE):
            self._loop.call_soon(self._encode)
        else:
            self._one_came()

    def _one_came(self) -> None:
        self._to_come -= 1
        if not self._to_come:
            self._write()

    def _write(self) -> None:
        if self._stopped:
            return
        rows = self._kernel.memory.frozen_rows()
        if self._store.blocking:
            written = self._thread.submit(self._commit, rows)
            written.add_done_callback(lambda future: self._loop.call_soon_threadsafe(self._written, future.result()))
        else:
            self._written(self._commit(rows))

    def _commit(self, rows: list[Put]) -> Exception | None:
        try:
            self._store.commit(rows, self._lsn, self._summary)
        except Exception as error:
            return error
        return None

    def _written(self, error: Exception | None) -> None:
        if self._stopped:
            return
        if isinstance(error, StoreFull):
            self._say_full(error)
            self._tell_waiting(Refused(507, "there is no room for a checkpoint, so the store is not up to date", 5))
            self._clock.call_at(self._clock.now_us() + _FULL_RETRY_US, self._write)
        elif error is not None:
            self._ledger.on_failed(error)
        else:
            if self.full:
                self.full = False
                log.info("there is room again: the store is up to the journal")
            self.made += 1
            self._written_at = self._clock.now_us()
            self._journal.trim(self._lsn + 1)
            self._tell_waiting()
            self._thaw()

    def _thaw(self) -> None:
        if self._stopped:
            return
        if self._kernel.memory.thaw(_THAWED_AT_ONCE):
            self._loop.call_soon(self._thaw)
        else:
            self._making = False
            self.look()

    def _tell_waiting(self, refused: Refused | None = None) -> None:
        """Those whom this checkpoint is enough for; if there is none, all of them."""
        waiting, self._waiting = self._waiting, []
        for lsn, future in waiting:
            if future.done():
                continue
            if refused is not None:
                future.set_exception(refused)
            elif lsn <= self._lsn:
                future.set_result(None)
            else:
                self._waiting.append((lsn, future))

    def _say_full(self, error: StoreFull) -> None:
        """Once, until there is room."""
        if not self.full:
            self.full = True
            log.error("no room for a checkpoint: the journal grows until there is, nothing is lost", why=str(error))
