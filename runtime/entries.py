"""The entries of a handler's Lists and Maps: what is committed, as its run has to see it.

An exclusive handler sees them as they were when its invocation began, with the before-images of what it has changed
since: a replay begins there.  A shared one sees the last committed turn, and what it read is recorded, since somebody
else may change it.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from perdure.objects.entries import overlaid

from .invocations import Invocation
from .kernel import Kernel
from .working_set import ObjectKey

_portion = msgspec.json.Decoder(list[tuple[str, msgspec.Raw]])
_encode = msgspec.json.Encoder().encode

Read = Callable[[str, Callable[[], bytes | None]], bytes | None]
"""What was read under a name, from the record in a replay, else by the function."""


class CommittedEntries:
    """As they are by now."""

    __slots__ = ("_kernel", "_key")

    def __init__(self, kernel: Kernel, key: ObjectKey) -> None:
        self._kernel = kernel
        self._key = key

    def length(self, field: str) -> int:
        entry = self._kernel.entry(*self._key)
        return 0 if entry is None else entry.lengths.get(field, 0)

    def get(self, field: str, entry: bytes) -> bytes | None:
        return self._kernel.entry_of(*self._key, field, entry)

    def range(self, field: str, after: bytes | None, limit: int) -> list[tuple[bytes, bytes]]:
        return self._kernel.entries_of(*self._key, field, after, limit)


class OwnEntries(CommittedEntries):
    """As the invocation first saw them."""

    __slots__ = ("_invocation", "_ordered")

    def __init__(self, kernel: Kernel, invocation: Invocation) -> None:
        super().__init__(kernel, (invocation.service, invocation.key))
        self._invocation = invocation
        self._ordered: dict[str, list[bytes]] = {}

    def length(self, field: str) -> int:
        history = self._invocation.history
        before = None if history is None else history.before_lengths.get(field)
        return super().length(field) if before is None else before

    def get(self, field: str, entry: bytes) -> bytes | None:
        before = self._before(field)
        return before[entry] if entry in before else super().get(field, entry)

    def range(self, field: str, after: bytes | None, limit: int) -> list[tuple[bytes, bytes]]:
        before = self._before(field)
        if not before:
            return super().range(field, after, limit)
        return overlaid(
            CommittedEntries(self._kernel, self._key), field, after, limit, before, self._changed(field, before)
        )

    def _before(self, field: str) -> dict[bytes, bytes | None]:
        history = self._invocation.history
        return {} if history is None else history.before_entries.get(field, {})

    def _changed(self, field: str, before: dict[bytes, bytes | None]) -> list[bytes]:
        """The keys of what it has changed, in their order."""
        ordered = self._ordered.get(field, [])
        if len(ordered) != len(before):  # keys only ever join
            ordered = self._ordered[field] = sorted(before)
        return ordered


class ReadEntries:
    """As a reader sees them: what is read gets into its turn's record, under a name that no field has.

    `votes#` is the length of `votes`, `votes#73626f62` the entry of that key (in hexadecimal), `votes#73626f62..128`
    the first 128 behind it: pairs of a key and a value.  All of it is JSON, as what is read of fields is.
    """

    __slots__ = ("_committed", "_read")

    def __init__(self, kernel: Kernel, key: ObjectKey, read: Read) -> None:
        self._committed = CommittedEntries(kernel, key)
        self._read = read

    def length(self, field: str) -> int:
        return int(self._read(f"{field}#", lambda: str(self._committed.length(field)).encode()) or b"0")

    def get(self, field: str, entry: bytes) -> bytes | None:
        return self._read(f"{field}#{entry.hex()}", lambda: self._committed.get(field, entry))

    def range(self, field: str, after: bytes | None, limit: int) -> list[tuple[bytes, bytes]]:
        name = f"{field}#{'' if after is None else after.hex()}..{limit}"
        read = self._read(name, lambda: _packed(self._committed.range(field, after, limit)))
        return [] if read is None else [(bytes.fromhex(entry), bytes(value)) for entry, value in _portion.decode(read)]


def _packed(portion: list[tuple[bytes, bytes]]) -> bytes:
    return _encode([(entry.hex(), msgspec.Raw(value)) for entry, value in portion])
