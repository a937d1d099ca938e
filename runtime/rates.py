"""How often a class may begin, in all and for each key.

Each bucket is one number (GCRA): when it would be empty if everything had come evenly spread.  What is not listed is as
a bucket that nobody used: so a key costs memory only until its bucket is full again.

Nothing of it is written down.  After a start over what an earlier process left, every bucket holds one, and fills up
from there as it would have: a process that is started again and again lets one more through each time, not a burst.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

from perdure.objects.limits import Rate

_SWEPT_AT_ONCE: Final = 2  # more than are added, so that what is full again goes sooner or later
KEYS_MAX: Final = 1_000_000
"""Buckets of one class, some 200 bytes each.  Beyond, the one that was used the longest time ago is forgotten."""


class Buckets:
    """The buckets of one rate, by key; "" for a class as a whole.

    `began_us`: when every bucket held one, from the past of the process; None if there was no past.
    """

    def __init__(self, rate: Rate, began_us: int | None) -> None:
        self.rate = rate
        self._interval_ns, self._slack_ns = rate.interval_ns, rate.slack_ns
        self._unused_ns = 0 if began_us is None else began_us * 1000 + self._slack_ns
        self._even: OrderedDict[int, int] = OrderedDict()  # by the key's hash: two in 2**64 may share one

    def __len__(self) -> int:
        return len(self._even)

    def free_at(self, key: str, ahead: int = 0) -> int:
        """When the next may begin, in microseconds, if `ahead` others are before it; it may lie in the past."""
        even_ns = self._even.get(hash(key), self._unused_ns) - self._slack_ns + ahead * self._interval_ns
        return -(-even_ns // 1000)

    def take(self, key: str, now_us: int) -> None:
        """One begins, whether it may or not: what is too much is made up for by those to come."""
        now_ns = now_us * 1000
        bucket = hash(key)
        self._even[bucket] = max(self._even.get(bucket, self._unused_ns), now_ns) + self._interval_ns
        self._even.move_to_end(bucket)
        self.sweep(now_us)

    def sweep(self, now_us: int) -> None:
        """Forgets some of what is as good as unused."""
        now_ns = now_us * 1000
        for _ in range(_SWEPT_AT_ONCE):
            bucket = next(iter(self._even))
            if len(self._even) <= KEYS_MAX and self._even[bucket] > max(now_ns, self._unused_ns):
                return
            del self._even[bucket]
            if not self._even:
                return
