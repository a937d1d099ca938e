"""Invocations' ids as Restate writes them, for its tools, which refuse any other form.

Restate's are `inv_1`, eleven digits of 64 bits and twenty-two of 128, to the base 62; ours have 12 bits and 128 in
hexadecimal.  So each of ours is one of theirs, and nothing has to be remembered.
"""

from __future__ import annotations

import re
import string
from typing import Final

OURS: Final = re.compile(r"inv_([0-9a-f]{3})([0-9a-f]{32})")
THEIRS: Final = re.compile(r"inv_1([0-9a-zA-Z]{11})([0-9a-zA-Z]{22})")

_DIGITS: Final = string.digits + string.ascii_lowercase + string.ascii_uppercase
_VALUES: Final = {digit: value for value, digit in enumerate(_DIGITS)}


def theirs(id: str) -> str:
    """What is no id of ours stays as it is."""
    found = OURS.fullmatch(id)
    return id if found is None else f"inv_1{_written(int(found[1], 16), 11)}{_written(int(found[2], 16), 22)}"


def ours(id: str) -> str:
    """What can't be one of ours stays as it is: nothing has that id."""
    found = THEIRS.fullmatch(id)
    if found is None:
        return id
    partition, unique = _read(found[1]), _read(found[2])
    return id if partition >> 12 or unique >> 128 else f"inv_{partition:03x}{unique:032x}"


def _written(number: int, width: int) -> str:
    digits: list[str] = []
    for _ in range(width):
        number, digit = divmod(number, len(_DIGITS))
        digits.append(_DIGITS[digit])
    return "".join(reversed(digits))


def _read(digits: str) -> int:
    number = 0
    for digit in digits:
        number = number * len(_DIGITS) + _VALUES[digit]
    return number
