"""Reading what a stream yields, from outside: each item once it is synced, in order, from any place on.

A handler never waits for its readers: what it yields is recorded, and each of them reads at its own pace.
"""

from __future__ import annotations

from .admission import Refused
from .ledger import Ledger
from .records import Outcome

_ITEMS_AT_ONCE = 256


class ItemReader:
    """One reader of one stream.  `position`: how many items it has read or skipped."""

    def __init__(self, ledger: Ledger, id: str, position: int) -> None:
        self._ledger = ledger
        self.id = id
        self.position = position

    @property
    def over(self) -> bool:
        """It has read the end too."""
        invocation = self._ledger.kernel.find(self.id)
        return invocation is not None and invocation.ended and self.position > invocation.items

    async def read(self) -> list[bytes] | Outcome:
        """The next items, as JSON, or how the stream has ended.

        Raises Refused(410) if it was purged, OutcomeUnknown.
        """
        ledger, kernel = self._ledger, self._ledger.kernel
        while (invocation := kernel.find(self.id)) is not None:
            until = min(invocation.items, self.position + _ITEMS_AT_ONCE)
            items = [kernel.item(self.id, number) or b"null" for number in range(self.position, until)]
            if items:
                await ledger.synced(ledger.last_lsn)
                self.position = until
                return items
            if invocation.outcome is not None:
                await ledger.synced(ledger.last_lsn)
                return invocation.outcome
            await ledger.more_of(self.id)
        raise Refused(410, f"{self.id} was purged: what it had yielded behind item {self.position} is gone")
