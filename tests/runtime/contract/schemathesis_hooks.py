"""What the document can't say, for the program that sends what it describes."""

from __future__ import annotations

from typing import Any

import schemathesis


@schemathesis.hook
def map_body(context: object, body: Any) -> Any:
    """JSON Schema takes 2.0 for a whole number, msgspec does not: an amount that was a float is suspicious."""
    return _whole(body)


def _whole(value: Any) -> Any:
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, dict):
        return {name: _whole(part) for name, part in value.items()}
    if isinstance(value, list):
        return [_whole(part) for part in value]
    return value
