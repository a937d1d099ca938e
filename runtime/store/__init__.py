"""An ordered, verified key-value file, written in transactions that each stand for a record of a journal.

The store:     `Store` on a disk; `MemoryStore`, its twin; `StoreReader` and `StoreWriter`, what both are; `Put`, a row
Offline:       `verify` and its `Report`, `head_of` and `Meta`, `copy_store`, also beside a live process
               `Moment`, what another process may read of it
               `check_uuid`, whether it is this log's; `put_in_place`, a store made elsewhere gets its name
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
from .layout import Meta
from .memory import MemoryStore
from .moment import Moment
from .protocol import Put, StoreReader, StoreWriter
from .snapshot import copy_store, head_of, put_in_place, uuid_of
from .sqlite_file import check_uuid
from .store import Store
from .verify import OnProgress, Report, verify

__all__ = [
    "MemoryStore",
    "Meta",
    "Moment",
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
    "check_uuid",
    "copy_store",
    "head_of",
    "put_in_place",
    "uuid_of",
    "verify",
]
