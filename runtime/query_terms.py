"""What the admin API and the command line both put into a query; nothing is imported for it.

`STATUSES`: of an invocation, as `sys_invocation` has them; `OPEN`: those of one that has not ended.
`literal`: a text as SQL has it.
"""

from __future__ import annotations

from typing import Final

STATUSES: Final = ("scheduled", "pending", "ready", "running", "backing-off", "suspended", "paused", "completed")
OPEN: Final = STATUSES[:-1]


def literal(text: str) -> str:
    """There are no parameters, so all of its escaping is here: a quote is doubled.

    By its bytes where a statement may not hold it: SQLite would end at a NUL.
    """
    if text.isprintable():
        return "'" + text.replace("'", "''") + "'"
    return f"CAST(x'{text.encode().hex()}' AS TEXT)"
