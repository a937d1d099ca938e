"""What the parts of an engine say of themselves at the moment somebody asks.

Everything here is a few additions over counts that are kept anyway; nothing walks through what is in memory.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from perdure.journal import Journal

from .checkpoints import Checkpoints
from .driver import Driver
from .invocations import RUNS
from .ledger import Ledger
from .limiter import Limiter
from .meter import HandlerMeter
from .registry import Registry
from .settings import Settings

Target = tuple[str, str]
"""Service and handler."""

STATUSES = ("scheduled", "pending", "begun", "paused")


class Vitals:
    """`checkpoints` is None without a store."""

    def __init__(
        self,
        ledger: Ledger,
        journal: Journal,
        driver: Driver,
        checkpoints: Checkpoints | None,
        registry: Registry,
        settings: Settings,
        limiter: Limiter | None = None,
    ) -> None:
        self.kernel = ledger.kernel
        self.meter = ledger.meter
        self.ledger = ledger
        self.journal = journal
        self.driver = driver
        self.checkpoints = checkpoints
        self.registry = registry
        self.settings = settings
        self.limiter = limiter
        self.lsn_at_start = 0
        self._open_at_start: Counter[Target] = Counter()

    def begin(self) -> None:
        """After the recovery: what there is now was accepted by an earlier process."""
        self.lsn_at_start = self.ledger.last_lsn
        self._open_at_start = self._open()

    def served(self) -> list[Target]:
        return [(service.name, name) for service in self.registry.services.values() for name in service.handlers]

    def metered(self) -> dict[Target, HandlerMeter]:
        """The handlers that something was counted of."""
        handlers = self.meter.handlers
        return {(service, name): meter for service, of in handlers.items() for name, meter in of.items()}

    def accepted(self) -> Counter[Target]:
        """How many since the start: what has ended, and what is open and wasn't open then.

        So nothing has to be counted when one is accepted, by a request or in a turn of another.
        """
        accepted = Counter({target: meter.ended for target, meter in self.metered().items()})
        accepted.update(self._open())
        accepted.subtract(self._open_at_start)
        return accepted

    def open_by_status(self) -> dict[tuple[str, str], int]:
        """Invocations that have not ended, in memory or not, by service and status."""
        counts = self.kernel.counts
        waiting = {"scheduled": counts.scheduled_of, "pending": self.mailed(), "paused": counts.paused_of}
        all_open: Counter[str] = Counter(dict.fromkeys(self.registry.services, 0))
        for (service, _), count in self._open().items():
            all_open[service] += count
        found: dict[tuple[str, str], int] = {}
        for service, count in all_open.items():
            of = {status: by_service.get(service, 0) for status, by_service in waiting.items()}
            of["begun"] = count - sum(of.values())
            found.update({(service, status): of[status] for status in STATUSES})
        return found

    def _open(self) -> Counter[Target]:
        open_of = self.kernel.counts.open_of
        found = Counter({(service, name): count for service, of in open_of.items() for name, count in of.items()})
        found.update(self.driver.unrecorded())
        return found

    def mailed(self) -> dict[str, int]:
        """How many wait in mailboxes, by service."""
        return {
            service: sum(length * count for length, count in mailboxes.items())
            for service, mailboxes in self.kernel.counts.mailboxes.items()
        }

    def longest_mailbox(self) -> dict[str, int]:
        """The most that wait for one key, by service."""
        return {service: max(mailboxes) for service, mailboxes in self.kernel.counts.mailboxes.items()}

    def retained(self) -> Mapping[str, int]:
        """Outcomes that are kept for a while, by service."""
        retained: Counter[str] = Counter(dict.fromkeys(self.registry.services, 0))
        for family, count in self.kernel.counts.retained.items():
            retained[family.removesuffix(RUNS)] += count
        return retained
