"""How long what a class leaves behind is kept: the outcomes of its handlers, and its idle objects.

What this file does not know: what is kept where a class says nothing; that is a setting of the runtime.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from .durations import seconds_of
from .errors import DefinitionError

if TYPE_CHECKING:
    from datetime import timedelta


@dataclass(frozen=True, slots=True)
class Lifetimes:
    """What a class says of it; None: nothing.

    `retention_seconds` and `retained_max`: for how long, and how many of its outcomes are kept; of a workflow, its runs
    with their state. `time_to_live_seconds`: an idle object not written for so long is forgotten.
    """

    retention_seconds: float | None = None
    retained_max: int | None = None
    time_to_live_seconds: float | None = None

    def changed(
        self,
        where: str,
        retention: float | timedelta | None,
        retained_max: int | None,
        time_to_live: float | timedelta | None,
    ) -> Lifetimes:
        """As a subclass inherits it: what is given counts. Raises DefinitionError, which names `where`."""
        new = self
        if retention is not None:
            new = replace(new, retention_seconds=_some_seconds(retention, where, "retention"))
        if retained_max is not None:
            new = replace(new, retained_max=_some(retained_max, where))
        if time_to_live is not None:
            new = replace(new, time_to_live_seconds=_some_seconds(time_to_live, where, "time_to_live"))
        return new


def _some_seconds(length: object, where: str, keyword: str) -> float:
    """Of a length of 0 nobody could see anything: whoever waits for an outcome would find it gone."""
    try:
        seconds = seconds_of(length, f"{keyword}=")
    except (TypeError, ValueError) as error:
        raise DefinitionError(f"{where}: {error}") from None
    if not seconds:
        raise DefinitionError(f"{where}: {keyword}={length!r}: give more than 0 seconds")
    return seconds


def _some(count: object, where: str) -> int:
    if type(count) is not int or count < 1:
        raise DefinitionError(f"{where}: retained_max={count!r}: give a whole number, 1 or more")
    return count
