"""SQL over what a partition holds, for operators: read-only, in a process of its own, within limits.

In the process that serves:  `Queries`, which answers `POST /query`
In the other:                `python -m perdure.runtime.sql.child`
"""

from .queries import Queries

__all__ = ["Queries"]
