"""A backup: a copy of a data directory as of one moment, with a manifest; made beside a live process, and restored.

    DIR ──journal and store──▶ TARGET-partial ──verified, manifest, synced──▶ TARGET      a folder, or a .tar of it
    TARGET ──manifest, each checksum──▶ DIR-partial ──synced──▶ DIR

The moment is that of a read transaction on the store.  The journal is copied while it is held, before the pages of the
store, which may take long: it has all that the store stands for, and what a checkpoint would trim meanwhile is copied
already.  If one came in between all the same, both are copied again.  Nothing has its name before it is whole, so what
a kill leaves is a `-partial` that nobody takes for anything, and the next attempt removes.
"""

from __future__ import annotations

import asyncio
import errno
import fcntl
import os
import re
import shutil
import stat
import tarfile
from collections.abc import Generator, Iterator
from contextlib import ExitStack, contextmanager, suppress
from datetime import UTC, datetime
from hashlib import blake2b
from importlib.metadata import version
from pathlib import Path
from typing import IO, Annotated, Final

import aiofiles
import msgspec
from msgspec import Meta, Struct

from perdure.journal import Verified, copy_log
from perdure.journal import verify as verify_journal

from . import hash_seed
from . import store as stores
from .data_dir import STORE_FILE, refuse_without_journal, why_too_new, why_too_old
from .exits import DAMAGED, IN_USE, NEWER, NOT_WRITABLE, USAGE, StartRefused
from .progress import OnProgress, progress_bar
from .store import StoreFull, check_uuid, head_of

FORMAT: Final = 1
MANIFEST: Final = "manifest.json"
_MANIFEST_BYTES_MAX: Final = 16 * 1024 * 1024
_CHUNK_BYTES: Final = 1024 * 1024
_ATTEMPTS: Final = 20
_ARCHIVE: Final = ".tar"
_OTHER_ARCHIVES: Final = (".zip", ".7z", ".tgz", ".tbz2", ".txz", ".gz", ".bz2", ".xz", ".zst", _ARCHIVE)
"""Of a name in lower case.  Whoever ends it so wants a file of that kind, not a folder; any other dot is a name's."""
_NAME: Final = re.compile(rf"{re.escape(STORE_FILE)}|{re.escape(hash_seed.FILE)}|\d{{12}}\.segment")

Count = Annotated[int, Meta(ge=0)]


class BackupFailed(StartRefused):
    """No backup was made, or nothing was restored; `str()` says why and what to do."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


class FileEntry(Struct, frozen=True, forbid_unknown_fields=True):
    bytes: Count
    blake2b: str


class Manifest(Struct, frozen=True, forbid_unknown_fields=True):
    """What a backup holds.  `log` is the journal's UUID; without a store, `store_lsn` is None."""

    format: int
    perdure: str
    created_at: str
    log: str
    store_lsn: Count | None
    first_lsn: Count
    last_lsn: Count
    files: dict[str, FileEntry]

    @property
    def bytes(self) -> int:
        return sum(entry.bytes for entry in self.files.values())


class _Signed(Struct, frozen=True, forbid_unknown_fields=True):
    """The manifest as a file, which has nobody else to vouch for it."""

    manifest: Manifest
    blake2b: str


class _Format(Struct, frozen=True):
    format: int


class _AnyFormat(Struct, frozen=True):
    manifest: _Format


# --- back up ----------------------------------------------------------------------------------------------------------


async def back_up(directory: Path, target: Path) -> Manifest:
    """Raises BackupFailed, JournalError, StoreError; then `target` is as it was, and `directory` always is."""
    refuse_without_journal(directory)
    _refuse_inside(directory, target)
    _refuse_other_archives(target)
    if target.exists() or target.is_symlink():
        raise BackupFailed(f"{target} exists: name another target, or remove it; nothing was written", USAGE)
    with _partial_folder(target) as partial:
        found = await _copy(directory, partial)
        manifest = await _manifest_of(partial, found)
        await _verify_copy(partial, manifest)
        (partial / MANIFEST).write_bytes(_sign(manifest))
        for path in partial.iterdir():
            path.chmod(0o600)
        _sync_all(partial)
        if target.suffix == _ARCHIVE:
            packed = partial / "packed"
            await asyncio.to_thread(_pack, partial, packed, manifest)
            packed.chmod(0o600)
            _sync(packed)
            _name(packed, target)
        else:
            _name(partial, target)
    return manifest


async def _copy(directory: Path, partial: Path) -> Verified:
    path = directory / STORE_FILE
    for _ in range(_ATTEMPTS):
        lsn, found = await asyncio.to_thread(_copy_both, directory, partial)
        if found.first_lsn <= lsn + 1:
            await _copy_hash_seed(directory, partial)
            return found
        if not path.exists() or head_of(path).lsn == lsn:
            raise BackupFailed(f"no backup was made: {why_too_old(path, lsn, found.first_lsn)}", DAMAGED)
        _empty(partial)  # a checkpoint was made and the journal trimmed just then
    raise BackupFailed(
        f"{directory} changes faster than it can be copied; nothing was written: try again when it is less busy", IN_USE
    )


def _copy_both(directory: Path, partial: Path) -> tuple[int, Verified]:
    """Also the LSN of the store, 0 if there is none.  In a thread of its own, where the copy of the journal may run."""
    path = directory / STORE_FILE
    copied: list[Verified] = []

    def copy_journal(_: int) -> None:
        with progress_bar("copying the journal", counts_bytes=True) as (on_progress, _console):
            copied.append(asyncio.run(copy_log(directory, partial, on_progress=on_progress)))

    if not path.exists():
        copy_journal(0)
        return 0, copied[0]
    with ExitStack() as bars:  # the store's begins where the journal's has ended
        bar: list[OnProgress] = []

        def on_progress(done: int, total: int) -> None:
            if not bar:
                bar.append(bars.enter_context(progress_bar("copying the store"))[0])
            bar[0](done, total)

        lsn = stores.copy_store(path, partial / STORE_FILE, on_progress, copy_journal)
    return lsn, copied[0]


async def _copy_hash_seed(directory: Path, partial: Path) -> None:
    if hash_seed.read(directory) is not None:
        async with aiofiles.open(directory / hash_seed.FILE, "rb") as file:
            data = await file.read()
        (partial / hash_seed.FILE).write_bytes(data)


async def _manifest_of(partial: Path, found: Verified) -> Manifest:
    names = sorted(path.name for path in partial.iterdir())
    return Manifest(
        format=FORMAT,
        perdure=version("perdure"),
        created_at=datetime.now(UTC).isoformat(timespec="seconds"),
        log=found.uuid.hex(),
        store_lsn=head_of(partial / STORE_FILE).lsn if STORE_FILE in names else None,
        first_lsn=found.first_lsn,
        last_lsn=found.next_lsn - 1,
        files={name: await _entry_of(partial / name) for name in names},
    )


async def _entry_of(path: Path) -> FileEntry:
    checksum, size = blake2b(digest_size=32), 0
    async with aiofiles.open(path, "rb") as file:
        while chunk := await file.read(_CHUNK_BYTES):
            checksum.update(chunk)
            size += len(chunk)
    return FileEntry(size, checksum.hexdigest())


async def _verify_copy(partial: Path, manifest: Manifest) -> None:
    """Reads the copies once more, as whoever restores them would: what can't be trusted isn't called a backup."""
    with progress_bar("verifying the journal", counts_bytes=True) as (on_progress, _):
        found = await verify_journal(partial, on_progress=on_progress)
    if manifest.store_lsn is None:
        return
    path = partial / STORE_FILE
    with progress_bar("verifying the store") as (on_progress, _):
        report = await asyncio.to_thread(stores.verify, path, on_progress)
    for end in ("-wal", "-shm"):  # which its verification left, empty
        path.with_name(path.name + end).unlink(missing_ok=True)
    if report.meta is None or not report.whole:
        raise BackupFailed(f"the store is damaged, so no backup was made: {report.problems[0]}", DAMAGED)
    check_uuid(path, report.meta, found.uuid)
    if problem := why_too_new(path, report.meta.lsn, manifest.last_lsn):
        raise BackupFailed(problem, DAMAGED)


def _pack(folder: Path, archive: Path, manifest: Manifest) -> None:
    """The manifest first, so that a restore knows what to expect."""
    with tarfile.open(archive, "x", format=tarfile.PAX_FORMAT) as tar:
        for name in (MANIFEST, *manifest.files):
            tar.add(folder / name, arcname=name, recursive=False)


# --- restore ----------------------------------------------------------------------------------------------------------


async def restore(source: Path, directory: Path) -> Manifest:
    """Raises BackupFailed; then `directory` is as it was."""
    _refuse_used(directory)
    with _opened(source) as backup:
        manifest = _read_manifest(source, backup.manifest())
        with (
            _partial_folder(directory) as partial,
            progress_bar("restoring", counts_bytes=True) as (on_progress, _),
        ):
            done = 0
            seen: set[str] = set()
            for name, file in backup.files():
                entry = manifest.files.get(name)
                if entry is None or name in seen:
                    raise _mismatch(source, f"{name!r:.80} is not in its manifest")
                seen.add(name)
                await _restore_file(source, file, partial / name, entry)
                done += entry.bytes
                on_progress(done, manifest.bytes)
            if missing := manifest.files.keys() - seen:
                raise _mismatch(source, f"{min(missing)} is missing")
            _sync_all(partial)
            _name(partial, directory)
    return manifest


async def _restore_file(source: Path, file: IO[bytes], path: Path, entry: FileEntry) -> None:
    checksum, size = blake2b(digest_size=32), 0
    async with aiofiles.open(path, "wb") as copy:
        while chunk := await asyncio.to_thread(file.read, _CHUNK_BYTES):
            checksum.update(chunk)
            size += len(chunk)
            if size > entry.bytes:
                break
            await copy.write(chunk)
    path.chmod(0o600)
    if (size, checksum.hexdigest()) != (entry.bytes, entry.blake2b):
        raise _mismatch(source, f"{path.name} is not what was backed up")


def _refuse_used(directory: Path) -> None:
    if not directory.exists() and not directory.is_symlink():
        return
    if not directory.is_dir():
        raise BackupFailed(f"{directory} is no directory; nothing was changed: restore to a new one", USAGE)
    if not any(directory.iterdir()):
        return
    if _is_locked(directory / "LOCK"):
        raise BackupFailed(f"{directory} is in use by a process; nothing was changed: restore to another one", IN_USE)
    raise BackupFailed(
        f"{directory} is not empty: what is there would be lost; nothing was changed: restore to a new directory", USAGE
    )


def _is_locked(path: Path) -> bool:
    with suppress(OSError):
        file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            os.close(file)
    return False


def _read_manifest(source: Path, data: bytes) -> Manifest:
    try:
        if msgspec.json.decode(data, type=_AnyFormat).manifest.format > FORMAT:
            raise BackupFailed(
                f"{source} was made by a newer version of perdure; nothing was changed: restore it with that", NEWER
            )
        signed = msgspec.json.decode(data, type=_Signed)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise _mismatch(source, f"its {MANIFEST} can't be read ({error})") from error
    manifest = signed.manifest
    if _sign(manifest) != data:
        raise _mismatch(source, f"its {MANIFEST} is not what was written")
    for name in manifest.files:
        if not _NAME.fullmatch(name):
            raise _mismatch(source, f"its {MANIFEST} names a file that no data directory has, {name!r:.80}")
    return manifest


def _sign(manifest: Manifest) -> bytes:
    digest = blake2b(msgspec.json.encode(manifest), digest_size=32).hexdigest()
    return msgspec.json.encode(_Signed(manifest, digest)) + b"\n"


def _mismatch(source: Path, what: str) -> BackupFailed:
    return BackupFailed(f"{source} is no whole backup: {what}; nothing was changed, take another one", DAMAGED)


class _Folder:
    def __init__(self, path: Path) -> None:
        self._path = path

    def manifest(self) -> bytes:
        with _regular(self._path, MANIFEST) as file:
            return file.read(_MANIFEST_BYTES_MAX)

    def files(self) -> Iterator[tuple[str, IO[bytes]]]:
        for name in sorted(os.listdir(self._path)):
            if name != MANIFEST and not self._is_left_by_a_look(name):
                with _regular(self._path, name) as file:
                    yield name, file

    def _is_left_by_a_look(self, name: str) -> bool:
        """Whoever looked into the store here, as `perdure store verify` does, left these, and nothing in them."""
        empty_wal = name == f"{STORE_FILE}-wal" and (self._path / name).lstat().st_size == 0
        return empty_wal or name == f"{STORE_FILE}-shm"


@contextmanager
def _regular(folder: Path, name: str) -> Generator[IO[bytes]]:
    """No link and no device, whatever somebody put there."""
    try:
        descriptor = os.open(folder / name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise _mismatch(folder, f"{name!r:.80} can't be read ({error.strerror})") from error
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise _mismatch(folder, f"{name!r:.80} is no file")
        with os.fdopen(descriptor, "rb", closefd=False) as file:
            yield file
    finally:
        os.close(descriptor)


class _Archive:
    def __init__(self, path: Path, tar: tarfile.TarFile) -> None:
        self._path = path
        self._tar = tar

    def manifest(self) -> bytes:
        first = self._tar.next()
        if first is None or first.name != MANIFEST:
            raise _mismatch(self._path, f"it does not begin with {MANIFEST}")
        return self._read(first).read(_MANIFEST_BYTES_MAX)

    def files(self) -> Iterator[tuple[str, IO[bytes]]]:
        while (member := self._tar.next()) is not None:
            yield member.name, self._read(member)

    def _read(self, member: tarfile.TarInfo) -> IO[bytes]:
        file = self._tar.extractfile(member) if member.isreg() else None
        if file is None:
            raise _mismatch(self._path, f"{member.name!r:.80} is no file")
        return file


@contextmanager
def _opened(source: Path) -> Generator[_Folder | _Archive]:
    try:
        if source.is_dir():
            yield _Folder(source)
        else:
            with tarfile.open(source, "r:") as tar:
                yield _Archive(source, tar)
    except tarfile.TarError as error:
        raise _mismatch(source, f"it can't be read as a tar file ({error})") from error
    except FileNotFoundError as error:
        if error.filename is not None and Path(os.fsdecode(error.filename)) in (source, source / MANIFEST):
            raise BackupFailed(f"{error.filename} does not exist; nothing was changed: name a backup", USAGE) from error
        raise


# --- files ------------------------------------------------------------------------------------------------------------


@contextmanager
def _partial_folder(target: Path) -> Generator[Path]:
    """A new folder beside `target`, gone afterwards unless it was given another name."""
    partial = target.with_name(f"{target.name}-partial")
    lock: int | None = None
    try:
        _remove_left_over(partial)
        partial.mkdir(mode=0o700)
        lock = os.open(partial, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield partial
    except OSError as error:
        raise _refused(error, target) from error
    except StoreFull as error:
        raise BackupFailed(_no_room(target), NOT_WRITABLE) from error
    finally:
        if lock is not None:
            shutil.rmtree(partial, ignore_errors=True)
            os.close(lock)


def _remove_left_over(partial: Path) -> None:
    """Of one that was killed; whoever still writes there holds its lock."""
    try:
        left = os.open(partial, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    try:
        fcntl.flock(left, fcntl.LOCK_EX | fcntl.LOCK_NB)
        shutil.rmtree(partial)
    except BlockingIOError:
        raise BackupFailed(f"another process writes to {partial}; nothing was changed: wait for it", IN_USE) from None
    finally:
        os.close(left)


def _refused(error: OSError, target: Path) -> BackupFailed:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        why = _no_room(target)
    elif error.errno in (errno.ENOTEMPTY, errno.EEXIST):
        return BackupFailed(f"{target} was made by somebody else meanwhile; nothing was changed: name another", USAGE)
    else:
        why = f"{target} can't be made: {error.strerror or error} ({error.filename or 'no file'})"
    return BackupFailed(why, NOT_WRITABLE)


def _no_room(target: Path) -> str:
    return f"no room for {target}: nothing is left of it; make room and try again"


def _refuse_inside(directory: Path, target: Path) -> None:
    if directory.resolve() in (target.parent.resolve(), *target.parent.resolve().parents):
        raise BackupFailed(f"{target} lies in the data directory: name one outside; nothing was written", USAGE)


def _refuse_other_archives(target: Path) -> None:
    if target.suffix != _ARCHIVE and target.name.lower().endswith(_OTHER_ARCHIVES):
        raise BackupFailed(
            f"{target} would be a folder: a backup is a folder, or a file that ends in {_ARCHIVE}, not compressed; "
            "nothing was written: name one of these",
            USAGE,
        )


def _empty(folder: Path) -> None:
    for path in folder.iterdir():
        path.unlink()


def _sync_all(folder: Path) -> None:
    for path in folder.iterdir():
        _sync(path)
    _sync(folder)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _name(partial: Path, target: Path) -> None:
    """Whole or not at all, and never over what is there: an empty directory at most."""
    if partial.is_dir():
        partial.rename(target)
    else:
        os.link(partial, target)  # which a rename would replace
    _sync(target.parent)
