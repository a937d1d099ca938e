"""A process that writes a log and tells, through its standard output, what was acknowledged to it.

    python writer.py DIRECTORY RECORDS THREAD(0|1)

Not a test: test_processes.py runs it under strace, which makes its system calls fail or kills it at them.
"""

import os
import sys
import threading
from pathlib import Path

from perdure.journal import JournalError, Log, LogOptions


def say(what: str) -> None:
    """In one system call, which no kill can halve."""
    os.write(1, f"{what}\n".encode())


def main(directory: Path, records: int, thread: bool) -> int:
    options = LogOptions(segment_bytes=4096, writer_thread=thread, free_segments_max=1, seal_after_seconds=60)
    turn = threading.Semaphore(0)
    failures: list[JournalError] = []

    def on_synced(lsn: int) -> None:
        say(f"acknowledged {lsn}")
        turn.release()

    def on_failed(error: BaseException) -> None:
        assert isinstance(error, JournalError)
        say("failed")
        failures.append(error)
        turn.release()

    try:
        log = Log.open(directory, options=options)
    except JournalError as error:
        say(str(error))
        return error.exit_code
    log.subscribe(on_synced, on_failed)
    for _ in range(records):
        lsn = log.append(b"record %d " % log.next_lsn * 60)
        log.flush()
        turn.acquire()
        if lsn % 10 == 0:
            log.trim(lsn - 5)
        if failures:
            break
    log.close()
    return failures[0].exit_code if failures else 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3] == "1"))
