"""`perdure store verify` and `rebuild`: whether the store can be trusted, and a new one made from the journal.

`verify` reads without locks and writes nothing, so it may run beside a live process, which changes both files
meanwhile.  `rebuild` takes the journal's lock.  It needs no class: what was recorded is applied, no handler runs.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Final

from perdure import journal
from perdure.journal import Journal, Verified

from . import store
from .clock import SystemClock
from .data_dir import (
    STORE_FILE,
    StoreLost,
    open_journal,
    put_aside,
    refuse_without_journal,
    why_too_new,
    why_too_old,
)
from .kernel import Kernel
from .logs import printable
from .progress import progress_bar
from .recovery import bring_up_to, recover
from .settings import Settings
from .store import Report, Store, StoreDamaged, check_uuid, head_of, put_in_place

_PROBLEMS_SHOWN: Final = 10
_REBUILDING: Final = f"{STORE_FILE}-rebuilding"


# --- verify -----------------------------------------------------------------------------------------------------------


def verify(directory: Path) -> int:
    """Print what was found.  Raises JournalError, StoreError, StoreLost."""
    refuse_without_journal(directory)
    path = directory / STORE_FILE
    if not path.exists():
        found = _read_journal(directory)
        if not path.exists():  # a process may have made it meanwhile
            _say_there_is_none(path, found)
            return 0
    # In this order beside a live process: the journal is read after the rows, so it has all they stand for, and the
    # head once more after that, since the journal was trimmed only below it.
    report = _read_store(path)
    _say_what_was_found(report)
    found = _read_journal(directory)
    if report.meta is None or not report.whole:
        raise StoreLost(_what_to_do(path, report, found))
    check_uuid(path, report.meta, found.uuid)
    last_lsn = found.next_lsn - 1
    problem = why_too_new(path, report.meta.lsn, last_lsn) or why_too_old(path, head_of(path).lsn, found.first_lsn)
    if problem is not None:
        raise StoreLost(problem)
    print(f"it fits the journal beside it: {_span(found)}; {path} takes {path.stat().st_size} bytes")
    return 0


def _read_store(path: Path) -> Report:
    with progress_bar("verifying the store") as (on_progress, _):
        return store.verify(path, on_progress)


def _read_journal(directory: Path) -> Verified:
    with progress_bar("reading the journal", counts_bytes=True) as (on_progress, _):
        return asyncio.run(journal.verify(directory, on_progress=on_progress))


def _say_there_is_none(path: Path, found: Verified) -> None:
    if found.first_lsn > 1:
        raise StoreLost(
            f"{path} is missing, and the journal begins with record {found.first_lsn}: what came before is nowhere; "
            "put the store back or restore a backup"
        )
    print(f"no store yet, and none is needed: {_span(found)}, so it is made at the next start")


def _say_what_was_found(report: Report) -> None:
    if report.meta is not None:
        print(report)
    for problem in report.problems[:_PROBLEMS_SHOWN]:
        print(f"  {printable(problem)}")
    if len(report.problems) > _PROBLEMS_SHOWN:
        print(f"  and {len(report.problems) - _PROBLEMS_SHOWN} more")


def _what_to_do(path: Path, report: Report, found: Verified) -> str:
    if found.first_lsn > 1:
        advice = f"the journal begins with record {found.first_lsn}, so it can't be made anew: restore a backup"
    else:
        advice = (
            f"nothing is lost, the journal has {_records(found)}: `perdure store rebuild {path.parent}` makes it anew"
        )
    return f"store damaged: {path}: {report.problems[0]}; nothing was changed; {advice}"


def _span(found: Verified) -> str:
    return f"the journal has {_records(found)}"


def _records(found: Verified) -> str:
    return f"records {found.first_lsn} to {found.next_lsn - 1}" if found.records else "no record yet"


# --- rebuild ----------------------------------------------------------------------------------------------------------


def rebuild(directory: Path) -> int:
    """Print what was made.  Raises JournalError, StoreError, StoreLost, RecoveryFailed; the old store is as it was."""
    refuse_without_journal(directory)
    path = directory / STORE_FILE
    log = open_journal(directory)
    try:
        _refuse_unless_whole(path, log)
        new = directory / _REBUILDING
        report = _build(new, log)
        # A kill between the two leaves no store, and the journal has it all: a start, or this again, makes one.
        there = path.exists()
        aside = put_aside(path)
        put_in_place(new, path)
    finally:
        log.close()
    print(report)
    print(f"{path} was made anew from the journal{f'; the old one is kept as {aside}' if there else ''}")
    return 0


def _refuse_unless_whole(path: Path, log: Journal) -> None:
    if log.first_lsn > 1:
        raise StoreLost(
            f"{path} can't be made anew: the journal begins with record {log.first_lsn}, records 1 to "
            f"{log.first_lsn - 1} are in the store alone; nothing was changed, keep the store if "
            "`perdure store verify` finds it whole, else restore a backup"
        )
    if not path.exists():
        return
    try:
        head = head_of(path)
    except StoreDamaged:
        return
    if head.uuid == log.uuid and (problem := why_too_new(path, head.lsn, log.next_lsn - 1)) is not None:
        raise StoreLost(problem)


def _build(new: Path, log: Journal) -> Report:
    """A whole store at `new`, closed and on the disk, and read once more."""
    _remove(new)
    try:
        made = Store.open(new, log.uuid)
        try:
            _apply_all(made, log)
            with progress_bar("verifying the store") as (on_progress, _):
                report = store.verify(new, on_progress)
        finally:
            made.close()
        if not report.whole:
            raise StoreDamaged(new, report.problems[0])
    except BaseException:
        _remove(new)
        raise
    return report


def _apply_all(made: Store, log: Journal) -> None:
    kernel, now = Kernel(made), SystemClock().now_us()
    with progress_bar("applying records") as (on_progress, _):
        recover(kernel, log, made, Settings(), now, on_progress)
    last_lsn = log.next_lsn - 1
    if last_lsn > made.lsn:
        bring_up_to(kernel, made, last_lsn, now)


def _remove(new: Path) -> None:
    """Also what a killed one left; a store without its name is nobody's."""
    for file in new.parent.glob(f"{new.name}*"):
        file.unlink()
