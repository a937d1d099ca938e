"""The engine: one partition at work, as the ingress, the admin API and `Runtime` see it.

It puts the parts together and takes what comes from outside; everything runs on the process's loop.

    admission   what is accepted
    kernel      what is, changed by `apply` alone
    ledger      records on their way to memory, disk, and those who wait
    driver      turns, in slices
    alarms      what time brings
    retention   what time takes away
    schedules   what is called because it is time
    operations  what operators do
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING

import structlog

from perdure.journal import Journal, JournalError, JournalFull, RecordTooLarge
from perdure.objects.definitions import HandlerDefinition, Kind, ServiceDefinition

from . import identity
from .admission import HEADROOM_BYTES, Admission, Refused, Request
from .alarms import Alarms
from .checkpoints import Checkpoints
from .clock import Clock
from .driver import Driver
from .gate import OutcomeUnknown
from .invocations import RUN_ONCE, Invocation, Status
from .item_reader import ItemReader
from .kernel import Kernel
from .ledger import Ledger, Unrecordable
from .limiter import Limiter
from .operations import Operations
from .records import Invoked, Outcome
from .recovery import recover
from .registry import Registry
from .retention import Retention
from .schedule_operations import ScheduleOperations
from .schedules import Schedules
from .settings import Settings
from .slots import ALIVE_EVERY_SECONDS, NoSlots, Slots
from .state_edits import StateEdits
from .store import Store, StoreError, StoreWriter
from .vitals import Vitals

if TYPE_CHECKING:
    from .traces import Tracer

log: structlog.stdlib.BoundLogger = structlog.get_logger("perdure")


class Submission:
    """A request that was accepted; not yet durably, until `accepted()` or `outcome()` says so.

    `previously`: its idempotency key had made it before.  `stream`: it yields, and is read by `Engine.items`.
    """

    __slots__ = ("_future", "_ledger", "_lsn", "id", "previously", "stream")

    def __init__(
        self, ledger: Ledger, invocation: Invocation, future: asyncio.Future[Outcome] | None, *, previously: bool
    ) -> None:
        self._ledger = ledger
        self._lsn = ledger.last_lsn
        self._future = future
        self.id = invocation.id
        self.stream = invocation.stream
        self.previously = previously

    def accepted(self) -> Awaitable[None]:
        """Done when the acceptance is synced.  Raises OutcomeUnknown."""
        return self._ledger.synced(self._lsn)

    def outcome(self) -> Awaitable[Outcome]:
        """Done when the outcome is there and synced.  Raises OutcomeUnknown.  Not for what was sent or yields."""
        if self._future is None:
            raise RuntimeError("nobody waits here for the outcome of what was sent or yields: use attach(id)")
        return self._future


class Engine:
    """Use `Engine.open`.  `failed` is done when the process must stop, with the reason."""

    def __init__(
        self,
        registry: Registry,
        journal: Journal,
        settings: Settings,
        clock: Clock,
        slots: Slots | NoSlots,
        entropy: Callable[[int], bytes],
        store: StoreWriter | None,
        tracer: Tracer | None,
    ) -> None:
        loop = asyncio.get_running_loop()
        self.registry = registry
        self.settings = settings
        self.kernel = Kernel(store)
        self.failed: asyncio.Future[BaseException] = loop.create_future()
        self._journal = journal
        self._clock = clock
        self._slots = slots
        self._entropy = entropy
        self._store = store
        self._tracer = tracer
        self._ledger = Ledger(self.kernel, journal, tracer)
        began_us = clock.steady_us() if self._ledger.last_lsn else None
        limiter = Limiter(self.kernel, registry, settings, clock, began_us)
        self.limiter = limiter if limiter.limits_anything else None
        jitter = Random(entropy(identity.SEED_BYTES))
        self._driver = Driver(self._ledger, registry, settings, clock, slots, loop.call_soon, jitter, self.limiter)
        self._alarms = Alarms(self._ledger, clock, self._driver.schedule)
        self._admission = Admission(registry, self.kernel, settings, self.limiter)
        self.operations = Operations(self._ledger, self._driver, clock, self._known)
        self.state = StateEdits(self.kernel, registry, clock, self.operations.commit)
        self._schedules = Schedules(self._ledger, clock, registry, self._admission, entropy, self._driver.schedule)
        self.schedules = ScheduleOperations(self._schedules, self._ledger, self._driver, clock)
        self._checkpoints: Checkpoints | None = None
        if store is not None:
            self._checkpoints = Checkpoints(self._ledger, journal, store, clock, settings, self._driver.may_leave)
        self._retention = Retention(
            self._ledger, clock, settings, registry, self._driver.schedule, self._store_is_behind
        )
        self.vitals = Vitals(self._ledger, journal, self._driver, self._checkpoints, registry, settings, self.limiter)
        self._ledger.on_failed = self._fail
        self._driver.after_slice = self._after_slice
        self._beat: asyncio.TimerHandle | None = None
        self._draining = False
        self._stopped = False

    # --- life -----------------------------------------------------------------------------------------------------

    @classmethod
    async def open(
        cls,
        registry: Registry,
        journal: Journal,
        settings: Settings,
        clock: Clock,
        *,
        slots: Slots | NoSlots | None = None,
        entropy: Callable[[int], bytes] | None = None,
        store: StoreWriter | None = None,
        tracer: Tracer | None = None,
    ) -> Engine:
        """Recovers what store and journal hold, and goes on with it.  Raises RecoveryFailed, StoreError.

        Without a store everything stays in memory, and the whole journal is replayed.
        """
        engine = cls(
            registry, journal, settings, clock, slots or NoSlots(), entropy or identity.Entropy(), store, tracer
        )
        recover(engine.kernel, journal, store, settings, clock.now_us())
        engine.kernel.memory.on_failed = engine._fail_unreadable
        engine._ledger.begin()
        engine.vitals.begin()
        await engine._driver.take_over()
        engine._mark_alive()
        engine._alarms.begin()
        engine._retention.begin()
        engine._schedules.begin()
        engine._driver.begin()
        return engine

    async def drain(self, grace_seconds: float) -> None:
        """Takes no new request, and waits for answers in flight and running steps, at most `grace_seconds` each."""
        self._draining = True
        self._schedules.stop()
        self._driver.schedule()
        waiting = self._ledger.watched()
        if waiting and not self._stopped:
            await asyncio.wait(waiting, timeout=grace_seconds)
        await self._driver.stop_steps(grace_seconds)

    async def close(self) -> None:
        """Drops what runs, writes what is open, seals the journal.  What was accepted goes on after the next start."""
        self._draining = True
        if not self._stopped:
            await self._driver.stop_steps(0)
        self._stop(OutcomeUnknown("the process stopped before the outcome was there: it goes on after the next start"))
        try:
            await asyncio.to_thread(self._journal.close)
        finally:
            if self._checkpoints is not None:
                synced = not self.failed.done() and self._journal.synced_lsn == self._ledger.last_lsn
                await asyncio.to_thread(self._checkpoints.close, last=synced)
        self._slots.close()

    async def settled(self) -> None:
        """Done when nothing is left to do before the next timer or message from outside, steps included."""
        while not self._stopped:
            if steps := self.running_steps():
                await asyncio.wait(steps, return_when=asyncio.FIRST_COMPLETED)
            elif self._driver.idle and self._ledger.quiet:
                return
            await asyncio.sleep(0)

    def running_steps(self) -> list[asyncio.Task[None]]:
        return self._driver.running_steps()

    def evict(self, id: str) -> None:
        """Drops a suspended handler's coroutine; it comes back by replay when it is needed."""
        self._driver.evict(id)

    def _after_slice(self) -> None:
        with suppress(OutcomeUnknown):  # the store can't be read, and the process stops
            self._alarms.set()
            self._retention.look()
        if self._checkpoints is not None:
            self._checkpoints.look()

    def _store_is_behind(self) -> bool:
        return self._checkpoints is not None and self._checkpoints.behind

    def _mark_alive(self) -> None:
        """By the machine's time, not the runtime's: it is the process that lives."""
        if not self._stopped:
            self._slots.alive(self._clock.now_us())
            self._beat = asyncio.get_running_loop().call_later(ALIVE_EVERY_SECONDS, self._mark_alive)

    def _stop(self, error: OutcomeUnknown) -> None:
        self._stopped = True
        if self._beat is not None:
            self._beat.cancel()
        self._alarms.stop()
        self._retention.stop()
        self._schedules.stop()
        self._driver.stop()
        if self._checkpoints is not None:
            self._checkpoints.stop()
        self._ledger.break_down(error)

    def _fail(self, error: BaseException) -> None:
        if self.failed.done():
            return
        log.critical(
            "stopping", reason=str(error), exc_info=None if isinstance(error, JournalError | StoreError) else error
        )
        if not self._stopped:
            self._stop(_outcome_unknown(error))
        self.failed.set_result(error)

    def _fail_unreadable(self, error: BaseException) -> None:
        """Whoever needed what can't be read is told what everybody is told."""
        self._fail(error)
        raise _outcome_unknown(error) from error

    # --- requests -------------------------------------------------------------------------------------------------

    def submit(self, request: Request, *, public_only: bool = True) -> Submission:
        """Accepts `request`, in memory at first.  Raises Refused."""
        self._refuse_when_stopping()
        service, handler, arguments = self._admission.check(request, public_only=public_only)
        existing = self._admission.made_before(request)
        if existing is not None:
            return self._submission(existing, request, previously=True)
        self._admission.refuse_when_full(request, handler)
        if self.limiter is not None:
            self._admission.refuse_when_too_fast(request)
        record = self._invoked(request, service, handler)
        if handler.exclusive or record.retained or record.due is not None:
            self._accept(record)
            invocation = self.kernel.invocations[record.id]  # it was made just now
        else:
            invocation = self._driver.run_unrecorded(record)
        self._driver.hand_over(invocation, arguments)
        self._driver.schedule()
        return self._submission(invocation, request, previously=False)

    def attach(self, id: str) -> Awaitable[Outcome]:
        """The outcome, when it is there and synced.  Raises Refused(404) at the call."""
        return self._ledger.watch(self._known(id))

    def output(self, id: str) -> Awaitable[Outcome | None]:
        """The outcome, or None if the invocation has not ended.  Raises Refused(404) at the call."""
        return self._ledger.peek(self._known(id).outcome)

    def items(self, id: str, after: int = 0) -> ItemReader | None:
        """What the stream `id` yields behind its first `after` items, its end counted in; None if it is no stream.

        Raises Refused: 404 unknown, 400 if it has not yielded so many.
        """
        invocation = self._known(id)
        if not invocation.stream:
            return None
        if after > invocation.items + invocation.ended:
            raise Refused(400, f"{id} has yielded {invocation.items} items so far, not {after}: read from the last")
        return ItemReader(self._ledger, id, after)

    def find(self, service: str, key: str, handler: str, idempotency_key: str | None) -> str:
        """The id of the invocation that an idempotency key names, or of a workflow's run.  Raises Refused(404)."""
        self._refuse_when_stopping()
        served = self.registry.services.get(service)
        if served is not None and served.kind is Kind.WORKFLOW:
            idempotency_key = RUN_ONCE
        existing = self.kernel.find_by_idempotency_key(service, key, handler, idempotency_key or "")
        if existing is None:
            raise Refused(404, "no invocation with that target and idempotency key: unknown, or no longer retained")
        return existing.id

    def caught_up(self) -> Awaitable[None]:
        """Done when all that is recorded now is synced: what was found out by looking may be told then."""
        return self._ledger.synced(self._ledger.last_lsn)

    async def checkpoint(self) -> Path:
        """Where the store is, once all that is recorded now is in it.  Raises Refused, OutcomeUnknown."""
        self._refuse_when_stopping()
        if self._checkpoints is None or not isinstance(self._store, Store):
            raise Refused(501, "everything is in memory here, without a store that could be asked: give it a data_dir")
        await self._checkpoints.now()
        return self._store.path

    def restart_as_new(self, id: str) -> Submission:
        """The same request again, as a new invocation without idempotency key.

        Raises Refused: 409 if it is open, 425 if it has not even begun, 422 for what runs once.
        """
        old = self._known(id)
        if old.status in (Status.SCHEDULED, Status.PENDING):
            raise Refused(425, f"{id} is {old.status.value}, it has not begun: cancel it first to begin anew")
        if not old.ended:
            raise Refused(409, f"{id} has not ended: cancel or kill it first")
        if old.idempotency_key == RUN_ONCE:
            raise Refused(422, f"{id} is the run of a workflow, which runs once: purge it, then call it again")
        request = Request(
            service=old.service,
            key=old.key,
            handler=old.handler,
            arguments=old.arguments,
            headers=old.headers,
            send=True,
        )
        return self.submit(request, public_only=False)

    def _refuse_when_stopping(self) -> None:
        if self._draining or self._stopped:
            raise Refused(503, "the process is stopping: nothing was recorded, ask again soon", retry_after_seconds=1)

    def _known(self, id: str) -> Invocation:
        self._refuse_when_stopping()
        invocation = self.kernel.find(id)
        if invocation is None:
            raise Refused(404, f"no invocation {id[:80]!r}: unknown, or its retention time is over")
        return invocation

    def _submission(self, invocation: Invocation, request: Request, *, previously: bool) -> Submission:
        future = None if request.send or invocation.stream else self._ledger.watch(invocation)
        return Submission(self._ledger, invocation, future, previously=previously)

    def _accept(self, record: Invoked) -> None:
        try:
            self._ledger.commit(record, HEADROOM_BYTES)
        except JournalFull:
            raise Refused(507, "the disk is full: nothing was recorded; what was accepted goes on", 5) from None
        except RecordTooLarge as error:
            raise Refused(413, str(error)) from None
        except Unrecordable as error:
            raise Refused(400, str(error)) from None

    def _invoked(self, request: Request, service: ServiceDefinition, handler: HandlerDefinition) -> Invoked:
        now = self._clock.now_us()
        unique = self._entropy(2 * identity.SEED_BYTES)
        id = identity.invocation_id(service.name, request.key, unique[: identity.SEED_BYTES])
        return Invoked(
            now,
            id,
            unique[identity.SEED_BYTES :],
            service.name,
            request.key,
            handler.name,
            handler.exclusive,
            request.arguments,
            request.send or handler.stream or request.idempotency_key is not None,
            request.headers or None,
            request.idempotency_key,
            now + request.delay_us if request.delay_us else None,
            handler.stream,
            None if self._tracer is None else self._tracer.begin(id, request),
        )


def _outcome_unknown(error: BaseException) -> OutcomeUnknown:
    what = "store" if isinstance(error, StoreError) else "journal"
    return OutcomeUnknown(f"outcome unknown: the {what} failed; ask again with the same idempotency key")
