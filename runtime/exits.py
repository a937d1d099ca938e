"""The exit codes of `perdure`, and the errors that stand for a start refused and for a bug.

    0    stopped as asked
    1    nobody read on what was printed, as behind `| head`
    2    the command line, a TARGET, a settings file or an address can't be used; nothing was touched
    3    what is printed was cut off: standard output can't be written
    10   another process holds the data directory
    11   the data directory was written by a newer version
    12   the data directory is damaged
    13   the data directory can't be written
    14   a sync failed: the last batch may be lost, and nobody was told otherwise
    15   an internal error; what was acknowledged is safe
    130  interrupted before there was anything to stop

10 to 14 are raised by `perdure.journal`, whose errors carry their code. A supervisor may start again after 14 and 15,
and should leave 2 and 10 to 13 to a person.  What 1 to 9 mean of the
commands that ask a running process is in remote.py.
"""

NOT_READ = 1
USAGE = 2
CUT_OFF = 3
IN_USE = 10
NEWER = 11
DAMAGED = 12
NOT_WRITABLE = 13
INTERNAL = 15
INTERRUPTED = 130


class InternalError(Exception):
    """A bug of ours: the process stops, what was acknowledged is safe.  `str()` is the one line for people."""

    exit_code: int = INTERNAL


class StartRefused(Exception):
    """The process can't start as asked; `str()` is the one line for people, `exit_code` what the process exits with."""

    exit_code: int = USAGE
