"""When an invocation begins or goes on, and when a step starts: caps and rates, each kept here alone.

All of it is about *when*.  Nothing of it is recorded, and a replay gives the same whatever the limits are now: what
waits was accepted, stands in the journal, and is lined up again by the next start.

A handler takes a place while it is ready to be driven, in a turn, or has a step at work; it gives it back when it waits
for a call, a timer, a signal or its next attempt, and asks for one again to go on.  So whoever has a place will give it
back without help of anybody who waits for one, and handlers that call each other deeper than the cap go on all the
same.  What was cancelled goes on at once, over the cap: it is about to end.

A message or call of a handler, what was delayed and what a schedule calls pay their rate when they begin, and wait for
it; any other request from outside pays when it is accepted, or it is not accepted (admission.py).  Those that wait go
before requests that come later.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import chain, islice
from typing import Final, NamedTuple

from perdure.objects.definitions import Kind, ServiceDefinition
from perdure.objects.limits import PRIORITY_HEADER

from .clock import Alarm, Clock, SteadyTime
from .fair_queue import BEGUN, HIGH, LOW, NORMAL, Line, Places
from .invocations import SCHEDULE_HEADER, Invocation
from .kernel import Kernel
from .limit_views import LimitKind, LimitView
from .rates import Buckets
from .registry import Registry
from .settings import Settings
from .slots import StepId

_LATE_US: Final = 100_000

LEVELS = {"high": HIGH, "normal": NORMAL, "low": LOW}


class _Lane:
    """What is kept of one class: who waits for its rates, and how many were refused."""

    def __init__(self, service: ServiceDefinition, began_us: int | None) -> None:
        limits = service.limits
        self.service = service
        self.all = None if limits.rate is None else Buckets(limits.rate, began_us)
        self.by_key = None if limits.rate_per_key is None else Buckets(limits.rate_per_key, began_us)
        self.rated = self.all is not None or self.by_key is not None
        self.line: Line[str, Invocation] = Line()
        self.alarm: Alarm | None = None
        self.refused = 0
        self.refused_by_key = 0

    def views(self, clock: Clock, waiting_for_keys: int) -> Iterator[LimitView]:
        service = self.service.name
        if self.all is not None:
            rate = self.all.rate
            wait_us = self.all.free_at("", ahead=len(self.line)) - clock.steady_us()
            yield LimitView(
                service=service,
                kind="rate",
                capacity=rate.count,
                per_seconds=rate.per_seconds,
                burst=rate.at_once,
                waiting=len(self.line),
                refused=self.refused,
                next_free_at=clock.now_us() + wait_us if wait_us > 0 else None,
            )
        if self.by_key is not None:
            rate = self.by_key.rate
            yield LimitView(
                service=service,
                kind="rate_per_key",
                capacity=rate.count,
                per_seconds=rate.per_seconds,
                burst=rate.at_once,
                waiting=waiting_for_keys,
                refused=self.refused_by_key,
                keys=len(self.by_key),
            )


class TooFast(NamedTuple):
    """Why a request is too many: the rate, whether it is the key's, and in how many whole seconds it would not be."""

    rate: str
    of_key: bool
    wait_seconds: int


class Limiter:
    """`began_us`: when, in steady time, it began to go on with what another left; None if there was nothing."""

    def __init__(
        self,
        kernel: Kernel,
        registry: Registry,
        settings: Settings,
        clock: Clock,
        began_us: int | None,
    ) -> None:
        self._kernel = kernel
        self.on_free: Callable[[], None] = _nothing
        self._clock = clock
        self._steady = SteadyTime(clock)  # of the rates: none waits until a clock is where it was when it was ahead
        services = registry.services
        running = {name: cap for name, one in services.items() if (cap := one.limits.running) is not None}
        steps = {name: cap for name, one in services.items() if (cap := one.limits.steps) is not None}
        self.handlers: Places[str, Invocation] = Places(settings.running_handlers_max, running, self._go_on)
        self.steps: Places[StepId, Callable[[], None]] = Places(settings.running_steps_max, steps, self._start)
        self._lanes = {name: lane for name, one in services.items() if self._is_limited(lane := _Lane(one, began_us))}
        self._rated = [lane for lane in self._lanes.values() if lane.all is not None]
        self._paid: set[str] = set()  # and have not begun
        self._wait_for_key: dict[str, Invocation] = {}
        self._closed = False

    @property
    def limits_anything(self) -> bool:
        return bool(self._lanes)

    def _is_limited(self, lane: _Lane) -> bool:
        name = lane.service.name
        return lane.rated or self.handlers.counts(name) or self.steps.counts(name)

    def stop(self) -> None:
        """What waits is left to the next start."""
        self._closed = True
        for lane in self._lanes.values():
            if lane.alarm is not None:
                lane.alarm.cancel()

    # --- handlers ---------------------------------------------------------------------------------------------------

    def may_run(self, invocation: Invocation) -> bool:
        """False: it waits, and is woken when it may."""
        id = invocation.id
        if id in self.handlers:
            return True
        lane = self._lanes.get(invocation.service)
        if lane is None:
            return True
        if lane.rated and not self._has_paid(lane, invocation):
            return False
        if not self._takes_place(lane, invocation):
            return True
        level = BEGUN if invocation.last_turn else level_of(invocation)
        return self.handlers.enter(invocation.service, id, level, invocation, over=invocation.cancel_requested)

    def is_late(self, invocation: Invocation) -> bool:
        """It begins so much later than it could have that its timeouts would notice."""
        if invocation.last_turn or invocation.attempts or invocation.service not in self._lanes:
            return False
        return self._clock.now_us() - invocation.deliveries[0].at > _LATE_US

    def settle(self, invocation: Invocation, *, busy: bool) -> None:
        """After each turn, and whenever a step of it has ended.  `busy`: one of its steps is at work."""
        if self._paid and (invocation.last_turn or invocation.attempts):
            self._paid.discard(invocation.id)
        if not busy and not invocation.in_ready_queue and invocation.id in self.handlers:
            self.handlers.leave(invocation.id)

    def ended(self, invocation: Invocation) -> None:
        id = invocation.id
        self._paid.discard(id)
        self._wait_for_key.pop(id, None)
        self.handlers.leave(id)
        lane = self._lanes.get(invocation.service)
        if lane is not None:
            lane.line.remove(id)

    def waits(self, id: str) -> bool:
        return self.why_it_waits(id) is not None

    def why_it_waits(self, id: str) -> LimitKind | None:
        """The limit that holds the invocation back; of its steps nothing is said here."""
        if self.handlers.line_of(id) is not None:
            return "running"
        if id in self._wait_for_key:
            return "rate_per_key"
        return "rate" if any(id in lane.line for lane in self._rated) else None

    def held_back(self, at_most: int) -> dict[str, LimitKind]:
        """By which limit, of up to so many invocations: those that wait themselves, or a step of theirs."""
        kinds: list[tuple[LimitKind, Iterable[str]]] = [
            ("running", self.handlers.in_line()),
            ("rate_per_key", self._wait_for_key),
            ("rate", chain.from_iterable(lane.line for lane in self._rated)),
            ("steps", (id for id, _ in self.steps.in_line())),
        ]
        return dict(islice(((id, kind) for kind, ids in kinds for id in ids), at_most))

    def views(self) -> list[LimitView]:
        """Those of the process first, then each class's."""
        views = [
            LimitView(service=None, kind=kind, capacity=places.total, in_use=places.held(), waiting=places.waiting())
            for kind, places in self._places
            if places.total is not None
        ]
        for name, lane in self._lanes.items():
            for kind, places in self._places:
                if (cap := places.of_class.get(name)) is not None:
                    held, waiting = places.held(name), places.waiting(name)
                    views.append(LimitView(service=name, kind=kind, capacity=cap, in_use=held, waiting=waiting))
            views += lane.views(self._clock, sum(one.service == name for one in self._wait_for_key.values()))
        return views

    @property
    def _places(self) -> list[tuple[LimitKind, Places[str, Invocation] | Places[StepId, Callable[[], None]]]]:
        return [("running", self.handlers), ("steps", self.steps)]

    @property
    def waiting(self) -> int:
        """Invocations, of all classes."""
        return self.handlers.waiting() + len(self._wait_for_key) + sum(len(lane.line) for lane in self._rated)

    def _takes_place(self, lane: _Lane, invocation: Invocation) -> bool:
        """A shared handler of an object doesn't: any number of them may look at it, also beside what works on it."""
        if not invocation.exclusive and lane.service.kind is not Kind.SERVICE:
            return False
        return self.handlers.counts(invocation.service)

    def _go_on(self, _id: str, invocation: Invocation) -> None:
        if not self._closed:
            self._kernel.wake(invocation)
            self.on_free()

    # --- rates ------------------------------------------------------------------------------------------------------

    def too_fast(self, service: str, key: str) -> TooFast | None:
        """Whether one more request from outside would be too many now."""
        lane = self._lanes.get(service)
        if lane is None or not lane.rated:
            return None
        now = self._steady.now_us()
        if lane.by_key is not None and (free_at := lane.by_key.free_at(key)) > now:
            lane.refused_by_key += 1
            return TooFast(str(lane.by_key.rate), True, _whole_seconds(free_at - now))
        if lane.all is not None and (free_at := lane.all.free_at("", ahead=len(lane.line))) > now:
            lane.refused += 1
            return TooFast(str(lane.all.rate), False, _whole_seconds(free_at - now))
        return None

    def take(self, service: str, key: str) -> None:
        """One from outside is accepted."""
        lane = self._lanes.get(service)
        if lane is not None:
            now = self._steady.now_us()
            if lane.by_key is not None:
                lane.by_key.take(key, now)
            if lane.all is not None:
                lane.all.take("", now)

    def _has_paid(self, lane: _Lane, invocation: Invocation) -> bool:
        """False if it has to wait: for its key's rate first, in order, each at a time of its own; then the class's."""
        id, now = invocation.id, self._steady.now_us()
        if id in self._paid or not _pays_when_it_begins(invocation):
            return True
        if id in self._wait_for_key or id in lane.line:
            return False
        if lane.by_key is not None:
            free_at = lane.by_key.free_at(invocation.key)
            lane.by_key.take(invocation.key, now)
            if free_at > now:
                self._wait_for_key[id] = invocation
                self._steady.call_at(free_at, lambda: self._key_is_free(lane, id, free_at))
                return False
        return self._pays_class(lane, invocation)

    def _key_is_free(self, lane: _Lane, id: str, at: int) -> None:
        invocation = self._wait_for_key.get(id)
        if invocation is None or self._closed:
            return
        if self._steady.now_us() < at:  # a clock naps no longer than a minute
            self._steady.call_at(at, lambda: self._key_is_free(lane, id, at))
            return
        del self._wait_for_key[id]
        if self._pays_class(lane, invocation):
            self._go_on(id, invocation)

    def _pays_class(self, lane: _Lane, invocation: Invocation) -> bool:
        now = self._steady.now_us()
        if lane.all is None or (not lane.line and lane.all.free_at("") <= now):
            if lane.all is not None:
                lane.all.take("", now)
            self._paid.add(invocation.id)
            return True
        lane.line.add(invocation.id, level_of(invocation), invocation)
        self._ring(lane)
        return False

    def _ring(self, lane: _Lane) -> None:
        """Whoever may begin by now does, and the next is looked at when it may."""
        assert lane.all is not None
        if lane.alarm is not None:
            lane.alarm.cancel()
            lane.alarm = None
        if self._closed:
            return
        while lane.line:
            now, free_at = self._steady.now_us(), lane.all.free_at("")
            if free_at > now:
                lane.alarm = self._steady.call_at(free_at, lambda: self._ring(lane))
                return
            id, invocation = lane.line.pop()
            lane.all.take("", now)
            self._paid.add(id)
            self._go_on(id, invocation)

    # --- steps ------------------------------------------------------------------------------------------------------

    def step_may_start(self, invocation: Invocation, id: StepId, start: Callable[[], None]) -> bool:
        """False: it waits, and `start` is called when it may."""
        if not self.steps.counts(invocation.service):
            return True
        return self.steps.enter(invocation.service, id, level_of(invocation), start)

    def step_over(self, id: StepId) -> None:
        """It is at work no more."""
        self.steps.leave(id)

    def step_unwanted(self, id: StepId) -> None:
        """Before it started; one at work has its place until it has left."""
        if id not in self.steps:
            self.steps.leave(id)

    def _start(self, _id: StepId, start: Callable[[], None]) -> None:
        if not self._closed:
            start()


def _whole_seconds(us: int) -> int:
    return -(-us // 1_000_000)


def level_of(invocation: Invocation) -> int:
    headers = invocation.headers
    return NORMAL if headers is None else LEVELS.get(headers.get(PRIORITY_HEADER, ""), NORMAL)


def _pays_when_it_begins(invocation: Invocation) -> bool:
    """Not what goes on or is tried again, and not what somebody outside asked for, to begin at once: that has paid."""
    if invocation.last_turn or invocation.attempts or invocation.put_behind:
        return False
    if invocation.parent is not None or invocation.due is not None:
        return True
    return invocation.headers is not None and SCHEDULE_HEADER in invocation.headers


def _nothing() -> None: ...
