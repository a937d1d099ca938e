"""`perdure backup` and `perdure restore`: what was made, in a line."""

import asyncio
from pathlib import Path

from . import backup
from .backup import Manifest


def back_up(directory: Path, target: Path) -> int:
    """Print what was made.  Raises BackupFailed, JournalError, StoreError."""
    manifest = asyncio.run(backup.back_up(directory, target))
    print(f"{target}: {_content(manifest)}")
    return 0


def restore(source: Path, directory: Path) -> int:
    """Print what is there now.  Raises BackupFailed."""
    manifest = asyncio.run(backup.restore(source, directory))
    print(f"{directory}: {_content(manifest)}, as of {manifest.created_at}")
    return 0


def _content(manifest: Manifest) -> str:
    below = "" if manifest.store_lsn is None else f"a store up to record {manifest.store_lsn} and "
    journal = f"records {manifest.first_lsn} to {manifest.last_lsn}"
    if manifest.last_lsn < manifest.first_lsn:
        journal = "a journal with no record behind it" if below else "a journal with no record yet"
    return f"{below}{journal}, {manifest.bytes} bytes in {len(manifest.files)} files; log {manifest.log}"
