"""Schedules: handlers that are called because it is time, by a cron expression or at an interval.

What lives here: how a schedule is declared, and what is refused when its class is defined.
What this file does not know: when its ticks are (ticks.py), and what became of those that have been; the runtime
records that.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from hashlib import blake2b
from itertools import islice, pairwise
from typing import TYPE_CHECKING, Final, Literal, TypeAlias

from .durations import seconds_of
from .errors import DefinitionError
from .ids import InvalidKey, validate_key
from .ticks import EPOCH, CronTiming, IntervalTiming, Ticks, ticks_after

if TYPE_CHECKING:
    from .signatures import HandlerDefinition

Overlap: TypeAlias = Literal["skip", "allow", "cancel"]
CatchUp: TypeAlias = Literal["none", "one", "all"]

CATCH_UP_MAX: Final = 100
"""So many missed ticks are made up for, if nothing else is said."""

_CATCH_UP_LIMIT: Final = 10_000
_GAPS_LOOKED_AT: Final = 100
_SECOND: Final = 1_000_000


@dataclass(frozen=True, kw_only=True, slots=True)
class Schedule:
    """What `cron(…)` and `every(…)` make, for `@handler(schedules=[…])`.  Nothing of it is checked before its class is
    defined, so that a mistake is told with the handler's name."""

    timing: CronTiming | IntervalTiming
    key: str | None
    name: str | None
    args: tuple[object, ...]
    kwargs: Mapping[str, object]
    jitter: float | timedelta
    overlap: Overlap
    catch_up: CatchUp
    catch_up_max: int


def cron(
    expression: str,
    /,
    *,
    timezone: str = "UTC",
    key: str | None = None,
    name: str | None = None,
    args: tuple[object, ...] = (),
    kwargs: Mapping[str, object] | None = None,
    jitter: float | timedelta = 0,
    overlap: Overlap = "skip",
    catch_up: CatchUp = "one",
    catch_up_max: int = CATCH_UP_MAX,
) -> Schedule:
    """The handler is called when the five fields of `expression` (minute, hour, day, month, weekday) fit local time.

        @handler(schedules=[cron("0 9 * * MON-FRI", timezone="Europe/Berlin", key="daily", args=("morning",))])

    Summer time is treated as Debian's cron does.  At fixed times (neither minute nor hour begins with `*`), a time that
    does not exist in spring fires once, at the first moment after the gap, and one that comes twice in autumn fires the
    first time only.  With a `*` in front of either, real time counts: `*/30 * * * *` fires every half hour, also in the
    hour that comes twice, and there is nothing in the hour that does not exist.

    `key` is the object's (a Service has none), `args` and `kwargs` are what the handler is called with.
    `jitter` (seconds or timedelta) delays each tick by a part of it, always the same for the same tick.
    `overlap`, when the call of the tick before has not ended: "skip" this tick, "allow" both (an object's exclusive
    handler queues in its mailbox), or "cancel" the one before.
    `catch_up`, for what was missed while no process served it: "none" of it (a tick is missed when the next one is due,
    or after a minute), "one" call for the last, or "all", the last `catch_up_max` of them.
    `name` tells two schedules of one handler apart; it is the key if not given.
    """
    timing = CronTiming(expression, timezone)
    return _schedule(timing, key, name, args, kwargs, jitter, overlap, catch_up, catch_up_max)


def every(
    interval: float | timedelta,
    /,
    *,
    anchor: datetime = EPOCH,
    key: str | None = None,
    name: str | None = None,
    args: tuple[object, ...] = (),
    kwargs: Mapping[str, object] | None = None,
    jitter: float | timedelta = 0,
    overlap: Overlap = "skip",
    catch_up: CatchUp = "one",
    catch_up_max: int = CATCH_UP_MAX,
) -> Schedule:
    """The handler is called every `interval` (seconds or timedelta, at least a second), counted from `anchor`.

        @handler(schedules=[every(timedelta(hours=1), jitter=60)])

    `anchor` is any moment with an offset, past or future; without one it is the Unix epoch, so an hour begins on the
    hour in UTC, and a week on Thursday.  However long a call takes, the next tick is where it would have been.
    The rest is as for `cron`.
    """
    timing = IntervalTiming(interval, anchor)
    return _schedule(timing, key, name, args, kwargs, jitter, overlap, catch_up, catch_up_max)


def _schedule(
    timing: CronTiming | IntervalTiming,
    key: str | None,
    name: str | None,
    args: tuple[object, ...],
    kwargs: Mapping[str, object] | None,
    jitter: float | timedelta,
    overlap: Overlap,
    catch_up: CatchUp,
    catch_up_max: int,
) -> Schedule:
    return Schedule(
        timing=timing,
        key=key,
        name=name,
        args=args,
        kwargs={} if kwargs is None else kwargs,
        jitter=jitter,
        overlap=overlap,
        catch_up=catch_up,
        catch_up_max=catch_up_max,
    )


# --- a schedule of a class ----------------------------------------------------------------------------------------


class ScheduleDefinition:
    """A schedule as the runtime keeps it: `arguments` is JSON in the handler's wire form, `key` is "" for a Service.

    `id` is `Service/handler`, or `Service/handler/name`, and stays the same when the rest is changed.
    """

    __slots__ = (
        "arguments",
        "catch_up",
        "catch_up_max",
        "handler",
        "id",
        "jitter_us",
        "key",
        "overlap",
        "service",
        "text",
        "ticks",
    )

    def __init__(
        self, schedule: Schedule, id: str, service: str, handler: HandlerDefinition, ticks: Ticks, jitter_us: int
    ) -> None:
        self.id = id
        self.service = service
        self.handler = handler
        self.key = schedule.key or ""
        self.arguments = handler.encode_arguments(tuple(schedule.args), dict(schedule.kwargs))
        self.ticks = ticks
        self.text = str(schedule.timing)
        self.jitter_us = jitter_us
        self.overlap: Overlap = schedule.overlap
        self.catch_up: CatchUp = schedule.catch_up
        self.catch_up_max = schedule.catch_up_max if schedule.catch_up == "all" else 1

    def due(self, tick: int) -> int:
        """When this tick is to fire: later by a part of the jitter that is drawn from the id and the tick."""
        if not self.jitter_us:
            return tick
        drawn = int.from_bytes(blake2b(f"{self.id}\0{tick}".encode(), digest_size=8).digest())
        return tick + (drawn * self.jitter_us >> 64)

    def missed_until(self, after: int, now: int) -> int:
        """Where those behind `after` begin that are not due by `now`: some of those before `now`, with jitter."""
        ticks = ticks_after(self.ticks, max(after, now - self.jitter_us))
        first = next((tick for tick in ticks if self.due(tick) > now), now + 1)
        return max(after, min(now, first - 1))

    def __repr__(self) -> str:
        return f"<schedule {self.id}>"


def schedule_of(
    schedule: object,
    where: str,
    service: str,
    handler: HandlerDefinition,
    *,
    keyed: bool,
    is_name: Callable[[str], object],
) -> ScheduleDefinition:
    """Raises DefinitionError, one line with `where`, for what could not be fired."""
    if not isinstance(schedule, Schedule):
        raise DefinitionError(f"{where}: schedules= takes a list of cron(…) and every(…), got {schedule!r}")
    where = f"{where}: {schedule.timing}"
    if handler.stream:
        raise DefinitionError(f"{where}: a stream has nobody to read it; schedule a handler that is none")
    _check_policies(schedule, where)
    _check_key(schedule.key, where, keyed=keyed)
    name = schedule.key if schedule.name is None else schedule.name
    if schedule.name is not None and not (isinstance(schedule.name, str) and is_name(schedule.name)):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise DefinitionError(f"{where}: {schedule.name!r} cannot be a name in a path")
    try:
        ticks = schedule.timing.ticks()
        jitter_us = round(seconds_of(schedule.jitter, "jitter=") * _SECOND)
        _check_jitter(jitter_us, ticks)
        id = "/".join(part for part in (service, handler.name, name) if part)
        return ScheduleDefinition(schedule, id, service, handler, ticks, jitter_us)
    except (ValueError, TypeError) as error:
        raise DefinitionError(f"{where}: {error}") from None


def _check_policies(schedule: Schedule, where: str) -> None:
    count = schedule.catch_up_max
    for problem, holds in (
        (f"overlap={schedule.overlap!r}: give 'skip', 'allow' or 'cancel'", schedule.overlap in _OVERLAPS),
        (f"catch_up={schedule.catch_up!r}: give 'none', 'one' or 'all'", schedule.catch_up in _CATCH_UPS),
        (
            f"catch_up_max={count!r}: give a whole number from 1 to {_CATCH_UP_LIMIT}",
            type(count) is int and 1 <= count <= _CATCH_UP_LIMIT,
        ),
        (
            "catch_up='all' makes its calls at one moment, so it needs overlap='allow'",
            schedule.catch_up != "all" or schedule.overlap == "allow",
        ),
        (f"args={schedule.args!r}: give a tuple", isinstance(schedule.args, tuple | list)),  # pyright: ignore[reportUnnecessaryIsInstance]
        (f"kwargs={schedule.kwargs!r}: give a dict", isinstance(schedule.kwargs, Mapping)),  # pyright: ignore[reportUnnecessaryIsInstance]
    ):
        if not holds:
            raise DefinitionError(f"{where}: {problem}")


_OVERLAPS: Final = ("skip", "allow", "cancel")
_CATCH_UPS: Final = ("none", "one", "all")


def _check_key(key: object, where: str, *, keyed: bool) -> None:
    if not keyed:
        if key is not None:
            raise DefinitionError(f"{where}: a Service has no key; name= tells two schedules apart")
        return
    if key is None:
        raise DefinitionError(f"{where}: which object is called? Give its key=")
    try:
        validate_key(key)  # type: ignore[arg-type]  # which is what it finds out
    except InvalidKey as error:
        raise DefinitionError(f"{where}: {error}") from None


def _check_jitter(jitter_us: int, ticks: Ticks) -> None:
    """Longer than the time between two ticks, and the order of ticks would be anybody's guess."""
    if not jitter_us:
        return
    gap = min((later - tick for tick, later in pairwise(islice(ticks_after(ticks, 0), _GAPS_LOOKED_AT))), default=None)
    if gap is not None and jitter_us >= gap:
        raise ValueError(f"jitter= is {jitter_us / 1e6:g} s, and two ticks may be {gap / 1e6:g} s apart: give less")
