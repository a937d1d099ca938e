"""A disk in memory that loses what a real one may lose: for tests of the log, and of whatever stands on it.

    what is durable                     what is pending until it is synced
    a file's bytes, 512 at a time       every version of each sector written since
    a directory's names                 each create, rename and remove since

`crashed()` is a power cut: each pending sector is kept in one of its versions, dropped, torn at any byte, or becomes
garbage; a file's new size may or may not be there; of a directory's pending changes any subset that makes sense.
`killed()` is the end of the process alone: the page cache stays.
A sync that fails marks the pages clean: they can still be read, and are gone after the next crash or `drop_cache`.

Assumed of the device: a sector rewritten with the very bytes it has keeps them. What it doesn't model: lying syncs
(override `sync`), damage to sectors at rest, the order in which a file system really writes.
Everything follows from the `Random` given, so a seed repeats a run.
"""

import errno
import os
from collections import defaultdict
from collections.abc import Callable
from copy import copy
from pathlib import Path
from random import Random

from .frames import SECTOR_BYTES


class PowerCut(BaseException):
    """To be raised by a hook where the power fails; nothing but the test catches it."""


Hook = Callable[[str, str], None]
"""Called before each operation with its name and the file's: may look, raise an OSError to refuse, or PowerCut."""


class _File:
    """One inode."""

    __slots__ = ("cache", "durable", "pending")

    def __init__(self, content: bytes = b"") -> None:
        self.durable = bytearray(content)
        self.cache = bytearray(content)
        self.pending: dict[int, list[bytes]] = {}
        """Versions of each sector since the last sync, by the sector's number."""

    def write(self, data: bytes | memoryview, offset: int) -> None:
        end = offset + len(data)
        self.extend(end)
        self.cache[offset:end] = data
        for sector in range(offset // SECTOR_BYTES, -(-end // SECTOR_BYTES)):
            start = sector * SECTOR_BYTES
            version = bytes(self.cache[start : start + SECTOR_BYTES])
            self.pending.setdefault(sector, []).append(version)

    def extend(self, size: int) -> None:
        self.cache.extend(bytes(max(size - len(self.cache), 0)))

    def sync(self) -> None:
        for sector, versions in self.pending.items():
            self.put(self.durable, sector, versions[-1])
        self.durable.extend(bytes(len(self.cache) - len(self.durable)))
        self.pending.clear()

    def lose(self, random: Random) -> None:
        """A failed sync: some sectors were written, none is dirty any more."""
        for sector, versions in self.pending.items():
            if random.random() < 0.5:
                self.put(self.durable, sector, versions[-1])
        self.pending.clear()

    def drop_cache(self) -> None:
        size = len(self.cache)
        self.cache[:] = self.durable
        self.extend(size)
        for sector, versions in self.pending.items():
            self.put(self.cache, sector, versions[-1])

    def crashed(self, random: Random) -> "_File":
        after = _File()
        content = bytearray(self.durable)
        if len(self.cache) > len(content) and random.random() < 0.5:
            content.extend(bytes(len(self.cache) - len(content)))
        for sector, versions in self.pending.items():
            start = sector * SECTOR_BYTES
            if (kept := _fate(random, self.durable[start : start + SECTOR_BYTES], versions)) is not None:
                self.put(content, sector, kept)
        after.durable = content
        after.cache = bytearray(content)
        return after

    @staticmethod
    def put(content: bytearray, sector: int, data: bytes) -> None:
        start = sector * SECTOR_BYTES
        if len(content) < start:
            content.extend(bytes(start - len(content)))
        content[start : start + len(data)] = data


def _fate(random: Random, durable: bytes | bytearray, versions: list[bytes]) -> bytes | None:
    """What a crash makes of one pending sector; None if nothing of it reached the disk."""
    dice = random.random()
    if dice < 0.4:
        return None
    version = versions[-1] if len(versions) == 1 else random.choice(versions)
    if dice < 0.8:
        return version
    if dice < 0.9:
        cut = random.randrange(len(version) + 1)
        before = bytes(durable).ljust(len(version), b"\0")
        return version[:cut] + before[cut:] if random.random() < 0.5 else before[:cut] + version[cut:]
    return version if version == durable else random.randbytes(len(version))


class _Directory:
    __slots__ = ("cache", "durable", "pending")

    def __init__(self) -> None:
        self.durable: dict[str, _File] = {}
        self.cache: dict[str, _File] = {}
        self.pending: list[tuple[str | None, str | None, _File]] = []
        """(old name, new name, file): a create has no old one, a remove no new one."""

    def change(self, old: str | None, new: str | None, file: _File) -> None:
        _apply(self.cache, old, new, file)
        self.pending.append((old, new, file))

    def sync(self) -> None:
        self.durable = dict(self.cache)
        self.pending.clear()

    def crashed(self, random: Random) -> dict[str, _File]:
        names = dict(self.durable)
        for old, new, file in self.pending:
            possible = old is None or names.get(old) is file
            if possible and random.random() < 0.5:
                _apply(names, old, new, file)
        return names


def _apply(names: dict[str, _File], old: str | None, new: str | None, file: _File) -> None:
    if old is not None:
        del names[old]
    if new is not None:
        names[new] = file


def undisturbed(operation: str, name: str) -> None:
    """The hook that does nothing."""


class SimDisk:
    """A `Disk`. `hook` may be set at any time; `capacity_bytes` bounds what all files together may take."""

    def __init__(self, random: Random, *, hook: Hook = undisturbed, capacity_bytes: int | None = None) -> None:
        self.random = random
        self.hook: Hook = hook
        self.capacity_bytes = capacity_bytes
        self.counts: dict[str, int] = defaultdict(int)
        """How often each operation was asked for."""
        self._directories: dict[Path, _Directory] = {}
        self._files: dict[int, tuple[str, _File]] = {}
        self._open_directories: dict[int, Path] = {}
        self._locks: dict[int, Path] = {}
        self._next_descriptor = 3

    # -- what befalls it

    def crashed(self, random: Random | None = None) -> "SimDisk":
        """The disk after a power cut; this one stays as it is, so that many crashes can be tried at one moment."""
        after = self._without_processes()
        random = self.random if random is None else random
        for path, directory in self._directories.items():
            files: dict[int, _File] = {}
            fresh = _Directory()
            for name, file in directory.crashed(random).items():
                if id(file) not in files:
                    files[id(file)] = file.crashed(random)
                fresh.durable[name] = files[id(file)]
            fresh.cache = dict(fresh.durable)
            after._directories[path] = fresh
        return after

    def killed(self) -> "SimDisk":
        """The disk after the process died: descriptors and locks are gone, the page cache is not."""
        after = self._without_processes()
        after._directories = self._directories
        return after

    def _without_processes(self) -> "SimDisk":
        after = copy(self)
        after._directories, after._files, after._open_directories, after._locks = {}, {}, {}, {}
        return after

    def damage(self, path: Path, offset: int, data: bytes) -> None:
        """Rot: changes bytes at rest."""
        file = self._directories[path.parent].cache[path.name]
        file.cache[offset : offset + len(data)] = data
        file.durable[offset : offset + len(data)] = data

    def content(self, path: Path) -> bytes:
        """What a reader would see now."""
        return bytes(self._directories[path.parent].cache[path.name].cache)

    # -- Disk

    def make_directory(self, directory: Path) -> None:
        self._before("make_directory", directory.name)
        self._directories.setdefault(directory, _Directory())

    def open_directory(self, directory: Path) -> int:
        self._before("open_directory", directory.name)
        descriptor = self._descriptor()
        self._open_directories[descriptor] = directory
        return descriptor

    def names(self, directory: Path) -> list[str]:
        self._before("names", directory.name)
        return list(self._directories[directory].cache)

    def open(self, path: Path) -> int:
        self._before("open", path.name)
        file = self._directories[path.parent].cache.get(path.name)
        if file is None:
            raise _error(errno.ENOENT)
        return self._opened(path.name, file)

    def create(self, path: Path) -> int:
        self._before("create", path.name)
        directory = self._directories[path.parent]
        if path.name in directory.cache:
            raise _error(errno.EEXIST)
        file = _File()
        directory.change(None, path.name, file)
        return self._opened(path.name, file)

    def size(self, file: int) -> int:
        return len(self._files[file][1].cache)

    def allocate(self, file: int, size: int) -> None:
        name, inode = self._files[file]
        self._before("allocate", name)
        if self.capacity_bytes is not None and self._used_bytes() + size - len(inode.cache) > self.capacity_bytes:
            raise _error(errno.ENOSPC)
        inode.extend(size)

    def read(self, file: int, buffer: bytearray) -> int:
        name, inode = self._files[file]
        self._before("read", name)
        data = inode.cache[: len(buffer)]
        buffer[: len(data)] = data
        return len(data)

    def write(self, file: int, data: bytes | memoryview, offset: int) -> int:
        name, inode = self._files[file]
        try:
            self._before("write", name)
        except OSError:
            # As much as there was room for is there, and reported by nobody.
            inode.write(data[: self.random.randrange(len(data) + 1)], offset)
            raise
        inode.write(data, offset)
        return len(data)

    def sync(self, file: int) -> None:
        name, inode = self._files[file]
        try:
            self._before("sync", name)
        except OSError:
            inode.lose(self.random)
            raise
        inode.sync()

    def drop_cache(self, file: int) -> None:
        self._files[file][1].drop_cache()

    def close(self, file: int) -> None:
        self._files.pop(file, None)
        self._open_directories.pop(file, None)
        self._locks.pop(file, None)

    def rename(self, old: Path, new: Path) -> None:
        self._before("rename", old.name)
        directory = self._directories[old.parent]
        directory.change(old.name, new.name, directory.cache[old.name])

    def remove(self, path: Path) -> None:
        self._before("remove", path.name)
        directory = self._directories[path.parent]
        directory.change(path.name, None, directory.cache[path.name])

    def sync_directory(self, directory: int) -> None:
        path = self._open_directories[directory]
        self._before("sync_directory", path.name)
        self._directories[path].sync()

    def lock(self, path: Path) -> int:
        if path in self._locks.values():
            raise BlockingIOError(errno.EWOULDBLOCK, os.strerror(errno.EWOULDBLOCK))
        exists = path.name in self._directories[path.parent].cache
        file = self.open(path) if exists else self.create(path)
        self._locks[file] = path
        return file

    def _before(self, operation: str, name: str) -> None:
        self.counts[operation] += 1
        self.hook(operation, name)

    def _opened(self, name: str, file: _File) -> int:
        descriptor = self._descriptor()
        self._files[descriptor] = (name, file)
        return descriptor

    def _descriptor(self) -> int:
        self._next_descriptor += 1
        return self._next_descriptor

    def _used_bytes(self) -> int:
        return sum(len(file.cache) for directory in self._directories.values() for file in directory.cache.values())


def _error(code: int) -> OSError:
    return OSError(code, os.strerror(code))
