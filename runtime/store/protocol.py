"""What the runtime needs of any store: ordered keys and values, verified, written in transactions.

Keys and values are bytes, and mean nothing here. A store stands for a prefix of a journal: `lsn` is the last record
of it. `get` and `range` belong to one thread, `commit` to one thread at a time, which may be another.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple, Protocol


class Put(NamedTuple):
    """One row of a transaction. Of two for one key the later holds."""

    key: bytes
    value: bytes | None
    """None: the row is deleted; deleting what isn't there is nothing."""
    group: bytes | None = None
    """None: the key is its own group. A key keeps its group for good; rows of one group are verified together."""


class StoreReader(Protocol):
    """What was committed last, at any time."""

    @property
    def uuid(self) -> bytes:
        """The log's, 16 bytes."""
        ...

    @property
    def lsn(self) -> int:
        """What is here stands for all records up to and with this one; 0: nothing."""
        ...

    @property
    def summary(self) -> bytes:
        """What the last commit gave with its LSN."""
        ...

    def get(self, key: bytes, group: bytes | None = None) -> bytes | None:
        """The value, None if there is no such row. Raises StoreDamaged, ValueError if it was put in another group."""
        ...

    def range(self, begin: bytes, end: bytes, limit: int, groups: Iterable[bytes] = ()) -> list[tuple[bytes, bytes]]:
        """The first `limit` rows with begin <= key < end, in key order.

        That none is missing is known for rows of the `groups` named; of all others only that they are as written.
        Raises StoreDamaged.
        """
        ...


class StoreWriter(StoreReader, Protocol):
    """A store as its owner sees it."""

    def commit(self, puts: Sequence[Put], lsn: int, summary: bytes) -> None:
        """All of it or nothing, together with `lsn` and `summary`; on the disk when this returns.

        Raises StoreFull, StoreInUse, StoreDamaged, ValueError for an `lsn` below the last or a key put in another
        group than before; nothing has changed then.
        """
        ...

    def close(self) -> None:
        """Calling it again is nothing; any other call afterwards is an error."""
        ...
