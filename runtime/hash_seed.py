"""The process runs under a hash seed of its own, the same at every start.

The order of a set of strings depends on PYTHONHASHSEED, so a handler that iterates one would replay differently after
a restart. The seed is drawn once, kept in the data directory beside the journal, and the process re-executes itself
under it before anything heavy is imported (some 20 ms). It is random and readable by its owner only: who knows it can
make keys that collide.

For: handlers with sets replay exactly. Against: one exec at each start, and a file that has to be restored with the
journal (without it only handlers whose order depends on a set may differ, and they are paused, not guessed on).
"""

import os
import secrets
import sys
from pathlib import Path

from .exits import DAMAGED, IN_USE, NOT_WRITABLE, StartRefused

FILE = "hash-seed"
SEED_MAX = 2**32 - 1  # PYTHONHASHSEED's own range; 0 would switch randomization off

# Set for the re-executed process only: names the seed that was drawn for a directory that doesn't exist yet, and is
# how a process knows that re-executing once more wouldn't help.
MARK = "_PERDURE_HASH_SEED"


class HashSeedError(StartRefused):
    """The process can't run under the directory's hash seed."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


def settle(data_dir: Path) -> int:
    """Return the seed that this process runs under, or don't return: re-execute under the right one.

    Writes nothing: a new directory's seed is only carried to the next process, which `keep`s it once it holds the lock.
    """
    mark = _seed(os.environ.pop(MARK, ""))
    wanted = read(data_dir) or mark or 1 + secrets.randbelow(SEED_MAX)
    if wanted == _seed(os.environ.get("PYTHONHASHSEED", "")) and not sys.flags.ignore_environment:
        if mark:
            del os.environ["PYTHONHASHSEED"]  # not for the programs that steps start
        return wanted
    if wanted == mark:
        raise HashSeedError(
            "python -E and -I ignore PYTHONHASHSEED, under which perdure has to run; drop the option", 2
        )
    _reexecute(wanted)
    raise AssertionError("exec returned")


def _reexecute(seed: int) -> None:
    sys.stdout.flush()
    sys.stderr.flush()
    environment = {**os.environ, "PYTHONHASHSEED": str(seed), MARK: str(seed)}
    os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], environment)


def read(data_dir: Path) -> int | None:
    """The directory's seed, None if it has none yet. Raises HashSeedError."""
    path = data_dir / FILE
    try:
        text = path.read_text("ascii", "replace")
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise HashSeedError(f"cannot read {path}: {error.strerror}", NOT_WRITABLE) from error
    seed = _seed(text.strip())
    if seed is None:
        raise HashSeedError(
            f"{path} is damaged: it should hold a number; the journal is not affected. Restore the file from a backup, "
            f"or delete it (open handlers whose order depends on a set may then be paused)",
            DAMAGED,
        )
    return seed


def keep(data_dir: Path, seed: int) -> None:
    """Write the seed into a directory that has none; durable on return. Call with the directory's lock held."""
    kept = read(data_dir)
    if kept == seed:
        return
    if kept is not None:
        raise HashSeedError(f"another process began in {data_dir} at the same moment; start again", IN_USE)
    try:
        _write_durably(data_dir, f"{seed}\n".encode())
    except OSError as error:
        raise HashSeedError(f"cannot write {data_dir / FILE}: {error.strerror}", NOT_WRITABLE) from error


def _write_durably(data_dir: Path, content: bytes) -> None:
    draft = data_dir / f"{FILE}.new"
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        os.write(descriptor, content)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    os.replace(draft, data_dir / FILE)
    directory = os.open(data_dir, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def _seed(text: str) -> int | None:
    digits = text if text.isascii() and text.isdigit() and len(text) <= len(str(SEED_MAX)) else "0"
    return int(digits) if 0 < int(digits) <= SEED_MAX else None
