"""What can go wrong with a journal, named by what whoever started the process can do about it.

Each error's text is the one line for people, and `exit_code` is what a process that stops because of it returns.
This file does not know how any of them comes about.
"""


class JournalError(Exception):
    """Something is wrong with the journal; the process can't go on with it."""

    exit_code: int = 15


class DirectoryInUse(JournalError):
    """Another process holds the directory: stop that one, or take another directory. Nothing was touched."""

    exit_code = 10


class NewerFormat(JournalError):
    """A newer release wrote this journal: start that release. Nothing was touched."""

    exit_code = 11


class Damaged(JournalError):
    """Bytes that were synced can't be read back: restore a copy. Unlike a torn tail, which is cut off silently.

    `file` is the segment's name, `offset` a byte offset in it, `lsn` the first record that can't be vouched for.
    Nothing was written to the directory.
    """

    exit_code = 12

    def __init__(self, file: str, offset: int, lsn: int, what: str) -> None:
        super().__init__(
            f"journal damaged: {file} at byte {offset}, record {lsn}: {what}; "
            "nothing was changed; see `perdure journal verify`, restore the directory from a copy"
        )
        self.file = file
        self.offset = offset
        self.lsn = lsn
        self.what = what

    def __reduce__(self) -> tuple[type["Damaged"], tuple[str, int, int, str]]:
        return (Damaged, (self.file, self.offset, self.lsn, self.what))


class NotAJournal(JournalError):
    """There is no journal where one was to be read: look for the right directory."""

    exit_code = 2


class NotWritable(JournalError):
    """The directory can't be created, read or written: mend its permissions or the mount. Nothing was touched."""

    exit_code = 13


class SyncFailed(JournalError):
    """The disk refused to make bytes durable, and asking again would lie: stop the process, look at the disk.

    What was acknowledged before is safe; what was waiting has an unknown outcome until the next start.
    """

    exit_code = 14


class WriterFailed(JournalError):
    """A bug in the journal's writer, or in a callback given to it: stop the process. Names the LSN."""

    exit_code = 15


class JournalFull(JournalError):
    """No room for a record, for now: nothing was changed, ask again when there is space.

    Unlike SyncFailed this passes; only `close()` and `open()` let it out as a reason to stop.
    """

    exit_code = 15


class RecordTooLarge(JournalError):
    """A record is larger than the journal ever takes; nothing was changed."""

    exit_code = 15
