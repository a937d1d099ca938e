"""What the document can't say, for the program that sends what it describes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, cast

import schemathesis


@schemathesis.hook  # pyright: ignore[reportUnknownMemberType]  # its signature has an unknown part
def map_body(context: object, body: Any) -> Any:
    """JSON Schema takes 2.0 for a whole number, msgspec does not: an amount that was a float is suspicious."""
    return _whole(body)


def _whole(value: Any) -> Any:
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, dict):
        return {name: _whole(part) for name, part in cast("Mapping[str, Any]", value).items()}
    if isinstance(value, list):
        return [_whole(part) for part in cast("Iterable[Any]", value)]
    return value
