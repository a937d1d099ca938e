"""`perdure journal dump`: the records of a log as text, one a line. Never writes, needs no lock.

What a record means is told by `describe`, since the journal doesn't know.
"""

from collections.abc import AsyncIterator, Callable
from pathlib import Path

from .offline import OnProgress, read_offline

Describe = Callable[[bytes], str]

_SHOWN_BYTES_MAX = 60


def describe_bytes(record: bytes) -> str:
    """Says something of any record: its size and how it begins."""
    more = "…" if len(record) > _SHOWN_BYTES_MAX else ""
    return f"{len(record)} bytes {record[:_SHOWN_BYTES_MAX]!r}{more}"


async def dump(
    directory: Path,
    from_lsn: int = 1,
    *,
    describe: Describe = describe_bytes,
    on_progress: OnProgress | None = None,
) -> AsyncIterator[str]:
    """Lines `LSN text` of the records from `from_lsn` on. Raises as `verify` does, after the lines before it."""
    async for lsn, record in read_offline(directory, from_lsn, on_progress=on_progress):
        yield f"{lsn} {_one_line(describe, record)}"


def _one_line(describe: Describe, record: bytes) -> str:
    try:
        text = describe(record)
    except Exception as error:
        # A record that a newer or older release wrote must not hide the ones after it.
        text = f"{describe_bytes(record)} (not understood: {error!r})"
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)
