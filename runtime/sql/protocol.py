"""What the serving process and the one that runs a query say to each other, through pipes.

to it       4 bytes of length, a `Query` as JSON; then the next one.  The end of the pipe ends it.
from it     frames: a kind, 4 bytes of length, so many bytes
            D  a piece of the answer;  E  its end, `Ended` as JSON;  X  there is none, `Stopped` as JSON
"""

from __future__ import annotations

import struct
from typing import Literal

from msgspec import Struct

from ..limit_views import LimitKind, LimitView

Format = Literal["json", "jsonl", "csv", "arrow"]

LENGTH = struct.Struct(">I")
FRAME = struct.Struct(">cI")
DATA, END, STOPPED = b"D", b"E", b"X"


class ServiceRow(Struct, frozen=True, kw_only=True):
    """A class that is served, as table `sys_service` shows it."""

    name: str
    ty: str
    public: bool
    version: int
    handlers: list[str]


class Limits(Struct, frozen=True, kw_only=True):
    """What one query may take; `Settings` has the reasons."""

    seconds: float
    rows: int
    answer_bytes: int
    memory_bytes: int


class Query(Struct, frozen=True, kw_only=True):
    """One statement, over the store at `path`, and what is in no store: the limits `in_force`, and the invocations
    `held_back` by one of them, or some of these if there are many."""

    path: str
    statement: str
    format: Format
    limits: Limits
    services: list[ServiceRow] = []
    in_force: list[LimitView] = []
    held_back: dict[str, LimitKind] = {}
    restate: bool = False
    """Over the tables that Restate's tools know."""


class Ended(Struct, frozen=True, kw_only=True):
    """The whole answer was given."""

    rows: int


class Stopped(Struct, frozen=True, kw_only=True):
    """Why there is no answer: an HTTP status, and one line for people."""

    status: int
    message: str
