"""Standard output of the `perdure` command, whose errors are known as its own.

An OSError that comes out of a command may be of any file; and what is printed is buffered, so that one of standard
output may come late, from a line that has nothing to do with it, or at the interpreter's end.
"""

from __future__ import annotations

import io
import os
import sys
from typing import TYPE_CHECKING, Final

from .exits import CUT_OFF, StartRefused

if TYPE_CHECKING:
    from typing_extensions import Buffer  # collections.abc has it from 3.12 on

_DESCRIPTOR: Final = 1


class OutputLost(StartRefused):
    """No OSError: nobody is to take it for one of a file of theirs."""

    exit_code = CUT_OFF

    def __init__(self, error: OSError) -> None:
        super().__init__(
            f"standard output can't be written ({error.strerror}): what is printed is cut off, "
            "and what it would tell of may have happened"
        )


class _Output(io.FileIO):
    def write(self, data: Buffer, /) -> int:
        """Raises OutputLost, BrokenPipeError."""
        try:
            return super().write(data)
        except OSError as error:
            # What is still buffered is written again at the interpreter's end, and has to go somewhere.
            os.dup2(os.open(os.devnull, os.O_WRONLY), _DESCRIPTOR)
            if isinstance(error, BrokenPipeError):
                raise  # nobody reads on, which is no failure
            raise OutputLost(error) from error


def install() -> None:
    """As `sys.stdout`, of a process that is a command and nothing else."""
    if sys.stdout is None:  # closed by whoever started us
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115
        return
    before = sys.stdout
    before.flush()
    sys.stdout = io.TextIOWrapper(
        io.BufferedWriter(_Output(_DESCRIPTOR, "w", closefd=False)),
        encoding=before.encoding,
        errors=before.errors,
        line_buffering=before.isatty(),
    )
