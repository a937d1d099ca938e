"""The disk as the journal sees it, and the real one.

Everything that `Log` does to files goes through a `Disk`, given to it, so that a simulated one (`simulation.py`) can
lose, tear and refuse. Errors are OSError with their errno, as the operating system gives them.
"""

import fcntl
import os
from pathlib import Path
from typing import Protocol

# One call gives at most 2 GiB; smaller pieces also keep a slow disk interruptible.
_READ_BYTES = 8 * 1024 * 1024


class Disk(Protocol):
    """Files and directories by descriptor. Names are durable only after `sync_directory`."""

    def make_directory(self, directory: Path) -> None:
        """With its parents, each durable; nothing if it is there."""
        ...

    def open_directory(self, directory: Path) -> int: ...

    def names(self, directory: Path) -> list[str]: ...

    def open(self, path: Path) -> int:
        """An existing file, for reading and writing."""
        ...

    def create(self, path: Path) -> int:
        """A new, empty file."""
        ...

    def size(self, file: int) -> int: ...

    def allocate(self, file: int, size: int) -> None:
        """Makes the file at least `size` bytes long, with room on the disk for each of them."""
        ...

    def read(self, file: int, buffer: bytearray) -> int:
        """Fills the buffer from the file's beginning; returns how many bytes there were."""
        ...

    def write(self, file: int, data: bytes | memoryview, offset: int) -> int:
        """Returns how many bytes were taken."""
        ...

    def sync(self, file: int) -> None:
        """fdatasync: the file's bytes and size, not its name."""
        ...

    def drop_cache(self, file: int) -> None:
        """Forgets the clean pages, so that what is read next is what the disk holds."""
        ...

    def close(self, file: int) -> None: ...

    def rename(self, old: Path, new: Path) -> None: ...

    def remove(self, path: Path) -> None: ...

    def sync_directory(self, directory: int) -> None:
        """fsync: the names in it, by a descriptor opened before, since there may be none left later."""
        ...

    def lock(self, path: Path) -> int:
        """A descriptor that holds the exclusive lock; BlockingIOError if another one does."""
        ...


class RealDisk:
    """The operating system's files."""

    def make_directory(self, directory: Path) -> None:
        if directory.is_dir():
            return
        self.make_directory(directory.parent)
        directory.mkdir(mode=0o700, exist_ok=True)
        parent = self.open_directory(directory.parent)
        try:
            self.sync_directory(parent)
        finally:
            os.close(parent)

    def open_directory(self, directory: Path) -> int:
        return os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)

    def names(self, directory: Path) -> list[str]:
        return os.listdir(directory)

    def open(self, path: Path) -> int:
        return os.open(path, os.O_RDWR | os.O_CLOEXEC)

    def create(self, path: Path) -> int:
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)

    def size(self, file: int) -> int:
        return os.fstat(file).st_size

    def allocate(self, file: int, size: int) -> None:
        os.posix_fallocate(file, 0, size)

    def read(self, file: int, buffer: bytearray) -> int:
        view = memoryview(buffer)
        done = 0
        while done < len(buffer) and (count := os.preadv(file, [view[done : done + _READ_BYTES]], done)):
            done += count
        return done

    def write(self, file: int, data: bytes | memoryview, offset: int) -> int:
        return os.pwrite(file, data, offset)

    def sync(self, file: int) -> None:
        os.fdatasync(file)

    def drop_cache(self, file: int) -> None:
        os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)

    def close(self, file: int) -> None:
        os.close(file)

    def rename(self, old: Path, new: Path) -> None:
        os.rename(old, new)

    def remove(self, path: Path) -> None:
        os.unlink(path)

    def sync_directory(self, directory: int) -> None:
        os.fsync(directory)

    def lock(self, path: Path) -> int:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(descriptor)
            raise
        return descriptor
