"""The `delay` of a message as clients write it: ISO 8601 (`PT10S`, `P1DT2H`) or friendly (`10s`, `1h 30m`, `60 sec`).

Both are what Restate's ingress takes (jiff's two formats, days as the largest calendar unit), so its clients work
unchanged.  The file knows nothing of HTTP.
"""

import math
import re
from decimal import Decimal, InvalidOperation

MICROSECONDS_MAX = 100 * 366 * 86_400 * 1_000_000
"""A hundred years. Beyond it a delay is a mistake, and its due time would no longer fit what calendars can show."""

_TEXT_MAX = 128
_SECOND = 1_000_000
_MINUTE, _HOUR, _DAY = 60 * _SECOND, 3_600 * _SECOND, 86_400 * _SECOND

_FRIENDLY_UNITS: dict[str, Decimal] = {
    name: Decimal(size)
    for names, size in (
        ("nanoseconds nanosecond nanos nano nsecs nsec ns", "0.001"),
        ("microseconds microsecond micros micro usecs usec us µs μs µsecs µsec μsecs μsec", 1),
        ("milliseconds millisecond millis milli msecs msec ms", 1_000),
        ("seconds second secs sec s", _SECOND),
        ("minutes minute mins min m", _MINUTE),
        ("hours hour hrs hr h", _HOUR),
        ("days day d", _DAY),
        ("weeks week wks wk w", 7 * _DAY),
    )
    for name in names.split()
}
_ISO_DATE_UNITS = {"W": 7 * _DAY, "D": _DAY}
_ISO_TIME_UNITS = {"H": _HOUR, "M": _MINUTE, "S": _SECOND}

_FRIENDLY_PART = re.compile(r"([0-9]+(?:\.[0-9]+)?) ?([a-zµμ]+)(?:,? |,|)", re.IGNORECASE | re.ASCII)
_ISO = re.compile(r"P([0-9.,WD]*)(?:T([0-9.,HMS]+))?", re.IGNORECASE | re.ASCII)
_ISO_PART = re.compile(r"([0-9]+(?:[.,][0-9]+)?)([WDHMS])", re.IGNORECASE | re.ASCII)


class InvalidDuration(ValueError):
    """The text is no duration; `str()` says what would be one."""

    def __init__(self, text: str, reason: str = "") -> None:
        shown = text if len(text) <= 40 else text[:40] + "…"
        super().__init__(
            f"{shown!r} is not a duration{reason}; write 10s, 5m, 1h 30m, 60ms, or ISO 8601: PT10S, P1DT2H"
        )


def parse_duration_us(text: str) -> int:
    """The duration in whole microseconds, rounded up: a delay never ends early.

    Raises InvalidDuration: malformed, negative, in months or years (of no fixed length), over a hundred years.
    """
    if len(text) > _TEXT_MAX:
        raise InvalidDuration(text)
    stripped = text.strip(" ")
    try:
        exact = _iso(stripped) if stripped[:1] in ("P", "p") else _friendly(stripped)
    except InvalidOperation:
        raise InvalidDuration(text) from None
    if exact is None:
        raise InvalidDuration(text, _hint(stripped))
    if exact > MICROSECONDS_MAX:
        raise InvalidDuration(text, ": it is over a hundred years")
    return math.ceil(exact)


def _friendly(text: str) -> Decimal | None:
    total, position = Decimal(0), 0
    while position < len(text):
        part = _FRIENDLY_PART.match(text, position)
        unit = _FRIENDLY_UNITS.get(part[2].lower()) if part else None
        if part is None or unit is None:
            return None
        total += Decimal(part[1]) * unit
        position = part.end()
    return total if position and text[-1].isalpha() else None


def _iso(text: str) -> Decimal | None:
    whole = _ISO.fullmatch(text)
    if whole is None or not (whole[1] or whole[2]):
        return None
    date = _iso_parts(whole[1], _ISO_DATE_UNITS)
    time = _iso_parts(whole[2] or "", _ISO_TIME_UNITS)
    return None if date is None or time is None else date + time


def _iso_parts(text: str, units: dict[str, int]) -> Decimal | None:
    """The sum of parts such as `2H30M`: each unit once, in the order of `units`."""
    total, position, left = Decimal(0), 0, list(units)
    while position < len(text):
        part = _ISO_PART.match(text, position)
        unit = part[2].upper() if part else ""
        if part is None or unit not in left:
            return None
        del left[: left.index(unit) + 1]
        total += Decimal(part[1].replace(",", ".")) * units[unit]
        position = part.end()
    return total


def _hint(text: str) -> str:
    if text.startswith("-"):
        return ": it is negative"
    if re.fullmatch(r"[0-9.]+", text):
        return ": it has no unit"
    if re.search(r"[0-9] ?(months?|mos?|years?|yrs?|y)\b", text, re.IGNORECASE) or re.match(r"P[^T]*[YM]", text):
        return ": months and years have no fixed length"
    return ""
