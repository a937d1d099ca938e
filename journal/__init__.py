"""An ordered, durable log of opaque records. It knows nothing of objects.

The log:       `Log` on a disk with `LogOptions`; `MemoryJournal`, its twin; `Journal`, what both are
Offline:       `verify`, `dump`, `read_offline` and `copy_log`, also beside a live writer
Its errors:    `JournalError` and what may be done about each, by name and exit code
"""

from .copy_log import copy_log
from .dump import Describe, describe_bytes, dump
from .errors import (
    Damaged,
    DirectoryInUse,
    JournalError,
    JournalFull,
    NewerFormat,
    NotAJournal,
    NotWritable,
    RecordTooLarge,
    SyncFailed,
    WriterFailed,
)
from .journal import RECORD_BYTES_MAX, Journal, OnFailed, OnStalled, OnSynced
from .log import Log
from .memory import MemoryJournal
from .offline import OnProgress, read_offline
from .options import LogOptions
from .verify import Verified, verify

__all__ = [
    "RECORD_BYTES_MAX",
    "Damaged",
    "Describe",
    "DirectoryInUse",
    "Journal",
    "JournalError",
    "JournalFull",
    "Log",
    "LogOptions",
    "MemoryJournal",
    "NewerFormat",
    "NotAJournal",
    "NotWritable",
    "OnFailed",
    "OnProgress",
    "OnStalled",
    "OnSynced",
    "RecordTooLarge",
    "SyncFailed",
    "Verified",
    "WriterFailed",
    "copy_log",
    "describe_bytes",
    "dump",
    "read_offline",
    "verify",
]
