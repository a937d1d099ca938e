"""An ordered, verified key-value file, written in transactions that each stand for a record of a journal.

The store:     `Store` on a disk; `MemoryStore`, its twin; `StoreReader` and `StoreWriter`, what both are; `Put`, a row
Offline:       `verify` and its `Report`, also beside a live process
Its errors:    `StoreError` and what may be done about each, by name and exit code
"""

from .errors import (
    StoreDamaged,
    StoreError,
    StoreExists,
    StoreFailed,
    StoreForeign,
    StoreFull,
    StoreInUse,
    StoreMissing,
    StoreNewer,
    StoreNotWritable,
)
from .memory import MemoryStore
from .protocol import Put, StoreReader, StoreWriter
from .snapshot import copy_store, uuid_of
from .store import Store
from .verify import OnProgress, Report, verify

__all__ = [
    "MemoryStore",
    "OnProgress",
    "Put",
    "Report",
    "Store",
    "StoreDamaged",
    "StoreError",
    "StoreExists",
    "StoreFailed",
    "StoreForeign",
    "StoreFull",
    "StoreInUse",
    "StoreMissing",
    "StoreNewer",
    "StoreNotWritable",
    "StoreReader",
    "StoreWriter",
    "copy_store",
    "uuid_of",
    "verify",
]
