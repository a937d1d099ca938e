"""A store in memory, for tests and simulation: the twin of `Store`, under the same contract tests."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterable, Sequence

from .protocol import Put


class MemoryStore:
    """Knows no disk: never damaged, never full. What it holds is gone with it."""

    blocking = False

    def __init__(self, uuid: bytes = bytes(16)) -> None:
        self.uuid = uuid
        self.lsn = 0
        self.summary = b""
        self._rows: dict[bytes, tuple[bytes, bytes]] = {}
        """(group, value) by key."""
        self._keys: list[bytes] = []

    def get(self, key: bytes, group: bytes | None = None) -> bytes | None:
        row = self._rows.get(key)
        if row is None:
            return None
        if row[0] != (key if group is None else group):
            raise ValueError(f"key {key!r} belongs to another group")
        return row[1]

    def range(self, begin: bytes, end: bytes, limit: int, groups: Iterable[bytes] = ()) -> list[tuple[bytes, bytes]]:
        first, last = bisect_left(self._keys, begin), bisect_left(self._keys, end)
        return [(key, self._rows[key][1]) for key in self._keys[first : min(last, first + limit)]]

    def commit(self, puts: Sequence[Put], lsn: int, summary: bytes) -> None:
        if lsn < self.lsn:
            raise ValueError(f"the store stands for record {self.lsn} and can't go back to {lsn}")
        groups: dict[bytes, bytes] = {}
        for key, value, group in puts:
            own = key if group is None else group
            before = groups.get(key) or self._rows.get(key, (own, b""))[0]
            if value is not None and before != own:
                raise ValueError(f"key {key!r} belongs to another group")
            groups[key] = own
        for key, value, _ in puts:
            if value is not None:
                if key not in self._rows:
                    insort(self._keys, key)
                self._rows[key] = (groups[key], value)
            elif self._rows.pop(key, None) is not None:
                del self._keys[bisect_left(self._keys, key)]
        self.lsn, self.summary = lsn, summary

    def close(self) -> None:
        pass
