"""What a log refuses to start on, each in one line with its exit code, and with the directory left as it is."""

import errno
import fcntl
import os
import struct
import subprocess
import sys
from collections.abc import Callable
from hashlib import blake2b
from pathlib import Path

import pytest

from perdure.journal import Damaged, DirectoryInUse, JournalError, Log, NewerFormat, NotWritable
from perdure.journal.disk import RealDisk
from perdure.journal.frames import NO_CHAIN
from perdure.journal.segments import SegmentHeader


def write_log(directory: Path) -> Path:
    """A small log; returns its segment."""
    with Log.open(directory) as log:
        log.append(b"a record")
    return directory / "000000000001.segment"


def snapshot(directory: Path) -> dict[str, tuple[int, bytes]]:
    return {
        path.name: (path.stat().st_mtime_ns, path.read_bytes()[:8192])
        for path in directory.iterdir()
        if path.name != "LOCK"
    }


def one_line(error: JournalError, exit_code: int) -> bool:
    return error.exit_code == exit_code and "\n" not in str(error) and len(str(error)) > 30


# -- another version


def test_a_newer_version_is_refused(tmp_path: Path) -> None:
    """By a header that is whole, so that rot is not taken for the future."""
    segment = write_log(tmp_path)
    header = SegmentHeader(bytes(16), 1, 64 * 1024 * 1024, 1, NO_CHAIN).pack(version=2)
    segment.write_bytes(header + segment.read_bytes()[512:])
    before = snapshot(tmp_path)

    with pytest.raises(NewerFormat, match="journal format 2, this release reads 1") as caught:
        Log.open(tmp_path)

    assert one_line(caught.value, 11)
    assert snapshot(tmp_path) == before


def test_a_rotten_version_is_damage(tmp_path: Path) -> None:
    segment = write_log(tmp_path)
    data = bytearray(segment.read_bytes())
    data[8] = 2
    segment.write_bytes(data)

    with pytest.raises(Damaged, match="header does not verify"):
        Log.open(tmp_path)


def test_the_header_is_as_the_readme_says() -> None:
    """Its first 72 bytes stay for ever, in every version: built here by hand, not by the code under test."""
    fields = struct.pack("<8sII16sQQQ8s", b"PERDUREJ", 1, 0, bytes(range(16)), 7, 4096, 99, b"chain123")
    checksum = blake2b(fields, digest_size=8, person=b"perdure.segment").digest()

    assert SegmentHeader(bytes(range(16)), 7, 4096, 99, b"chain123").pack() == (fields + checksum).ljust(512, b"\0")


# -- not readable, not writable


class Refusing(RealDisk):
    """Refuses one operation."""

    def __init__(self, operation: str, code: int) -> None:
        def refuse(*_: object) -> int:
            raise OSError(code, os.strerror(code))

        setattr(self, operation, refuse)


def test_an_unreadable_segment_is_damage_and_not_its_end(tmp_path: Path) -> None:
    """EIO is no end of file."""
    write_log(tmp_path)
    before = snapshot(tmp_path)

    with pytest.raises(Damaged, match=r"000000000001\.segment.*the disk can't read it: Input/output error") as caught:
        Log.open(tmp_path, disk=Refusing("read", errno.EIO))

    assert one_line(caught.value, 12)
    assert snapshot(tmp_path) == before


@pytest.mark.parametrize(
    ("operation", "code"),
    [("make_directory", errno.EACCES), ("lock", errno.EROFS), ("open", errno.EACCES), ("open_directory", errno.EACCES)],
)
def test_a_directory_that_may_not_be_written(tmp_path: Path, operation: str, code: int) -> None:
    write_log(tmp_path)

    with pytest.raises(NotWritable, match=os.strerror(code)) as caught:
        Log.open(tmp_path, disk=Refusing(operation, code))

    assert one_line(caught.value, 13)
    assert str(tmp_path) in str(caught.value)


def test_a_file_in_place_of_the_directory(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")

    with pytest.raises(NotWritable):
        Log.open(tmp_path / "file")
    with pytest.raises(NotWritable):
        Log.open(tmp_path / "file" / "below")


def test_missing_parents_are_made(tmp_path: Path) -> None:
    Log.open(tmp_path / "a" / "b" / "c").close()

    assert (tmp_path / "a" / "b" / "c" / "LOCK").exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to give up its rights")
def test_another_users_directory(tmp_path: Path) -> None:
    """The real thing, as a user who may not."""
    write_log(tmp_path)
    tmp_path.chmod(0o755)
    (tmp_path / "LOCK").chmod(0o644)
    script = "import os, sys; from perdure.journal import *; os.seteuid(65534)\n" + OPEN_AND_REPORT

    done = run(script, str(tmp_path))

    assert done.stdout.startswith("NotWritable 13"), done.stdout + done.stderr


# -- in use

OPEN_AND_REPORT = """
from pathlib import Path
try:
    Log.open(Path(sys.argv[1])).close()
    print("opened")
except JournalError as error:
    print(type(error).__name__, error.exit_code, error)
"""


def run(script: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-W", "ignore::DeprecationWarning", "-c", script, *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def test_a_second_process_is_told_who_holds_it(tmp_path: Path) -> None:
    """And the first one is not disturbed."""
    with Log.open(tmp_path) as log:
        log.append(b"before")
        done = run("import sys; from perdure.journal import *\n" + OPEN_AND_REPORT, str(tmp_path))
        log.append(b"after")

    assert done.stdout.startswith(f"DirectoryInUse 10 {tmp_path} is in use by process {os.getpid()}: "), done
    with Log.open(tmp_path) as log:
        assert len(list(log.read())) == 2


def test_a_second_log_in_this_process_too(tmp_path: Path) -> None:
    """Also by way of a symbolic link."""
    (tmp_path / "link").symlink_to(tmp_path / "journal")
    with Log.open(tmp_path / "journal"), pytest.raises(DirectoryInUse) as caught:
        Log.open(tmp_path / "link")

    assert one_line(caught.value, 10)


def test_a_shorter_pid_does_not_leave_a_longer_ones_end(tmp_path: Path) -> None:
    (tmp_path / "LOCK").write_text("99999999999999999999")
    with Log.open(tmp_path):
        assert (tmp_path / "LOCK").read_text().strip() == str(os.getpid())


def test_a_lock_that_names_nobody(tmp_path: Path) -> None:
    with (tmp_path / "LOCK").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(DirectoryInUse, match="process unknown"):
            Log.open(tmp_path)


def test_the_directory_is_free_after_close(tmp_path: Path) -> None:
    Log.open(tmp_path).close()
    Log.open(tmp_path).close()


FORK = """
import os, sys
from pathlib import Path
from perdure.journal import *
log = Log.open(Path(sys.argv[1]))
log.append(b"parent's")
read, write = os.pipe()
child = os.fork()
if child == 0:
    os.close(write)
    os.read(read, 1)  # until the parent has died
    log.append(b"child's")
    log.flush()
    try:
        log.reserve(1)
    except JournalError as error:
        print(error)
    log.close()
    try:
        with Log.open(Path(sys.argv[1])) as mine:
            print("child opened", [record for _, record in mine.read()])
    except JournalError as error:
        print(error)
    os._exit(0)
os.close(read)
log.flush()
{end}
"""


@pytest.mark.parametrize("end", ["log.close(); os.close(write); os.waitpid(child, 0)", "log.close(); os._exit(0)"])
def test_a_forked_child_holds_nothing(tmp_path: Path, end: str) -> None:
    """flock is shared with it: it closes the descriptor, or the directory would be in use as long as it lives."""
    done = run(FORK.replace("{end}", end), str(tmp_path))

    assert "this process was forked from the one that holds the journal" in done.stdout, done
    assert """child opened [b"parent's"]""" in done.stdout, done


def test_a_child_that_runs_another_program_holds_nothing(tmp_path: Path) -> None:
    """Descriptors are closed on exec."""
    log = Log.open(tmp_path)
    child = subprocess.Popen(["cat"], stdin=subprocess.PIPE, close_fds=False)
    try:
        log.close()
        Log.open(tmp_path).close()
    finally:
        child.communicate()


def test_nobody_elses_exception_is_hidden(tmp_path: Path) -> None:
    """A bug in a disk is not "not writable"."""

    class Broken(RealDisk):
        def names(self, directory: Path) -> list[str]:
            raise ZeroDivisionError

    opens: Callable[[], Log] = lambda: Log.open(tmp_path, disk=Broken())  # noqa: E731
    for _ in range(2):
        with pytest.raises(ZeroDivisionError):
            opens()
