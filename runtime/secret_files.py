"""A file with a secret in it (tokens, a key), read once at the start, and refused if others on the machine can read it.

No error shows anything of what is in the file.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path

from .exits import StartRefused

SECRET_BYTES_MAX = 64 * 1024
"""A chain of certificates has a few thousand; what is larger was given by mistake (/dev/zero has no end)."""


class SecretFileError(StartRefused):
    """A file that holds a secret, or was said to, can't be used."""


def read_secret(file: Path, what: str, error: type[SecretFileError], *, public: bool = False) -> bytes:
    """Everything in `file`.  Raises `error`: unreadable, too large, or, unless it is `public`, open to everybody."""
    try:
        with file.open("rb") as opened:
            mode = os.fstat(opened.fileno()).st_mode
            content = opened.read(SECRET_BYTES_MAX + 1)
    except OSError as failed:
        raise error(f"cannot read the {what} {file}: {failed.strerror}") from failed
    if mode & (stat.S_IROTH | stat.S_IWOTH) and not public:
        raise error(
            f"the {what} {file} can be read or written by everybody on this machine, so it is no secret: "
            f"make a new one, and `chmod o-rw {file}`"
        )
    if len(content) > SECRET_BYTES_MAX:
        raise error(f"the {what} {file} has more than {SECRET_BYTES_MAX} bytes: is it the right file?")
    return content
