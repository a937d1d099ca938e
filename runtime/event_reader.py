"""Server-sent events from the bytes of an answer, as they come; no I/O."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple


class Event(NamedTuple):
    """One event; `kind` is `message` unless it says another."""

    kind: str
    id: str
    data: bytes


class EventReader:
    """Takes pieces of any size, in order."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._searched = 0

    def feed(self, piece: bytes) -> Iterator[Event]:
        """The events that are complete with it; read them all before the next piece."""
        buffer = self._buffer
        buffer += piece
        while (end := buffer.find(b"\n\n", self._searched)) >= 0:
            event = _event_of(bytes(buffer[:end]))
            del buffer[: end + 2]
            self._searched = 0
            if event is not None:
                yield event
        self._searched = max(0, len(buffer) - 1)


def _event_of(block: bytes) -> Event | None:
    fields: dict[bytes, bytes] = {}
    for line in block.split(b"\n"):
        name, colon, value = line.partition(b":")
        if name and colon:
            fields[name] = value.removeprefix(b" ")
    if b"data" not in fields:  # a comment
        return None
    kind, id = (fields.get(name, b"").decode("utf-8", "replace") for name in (b"event", b"id"))
    return Event(kind or "message", id, fields[b"data"])
