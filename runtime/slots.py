"""What was at work when the process died: the turn that was being driven, and the steps that had started.

A handler or a step that kills the process (a C extension, an endless allocation) would do so again after every
restart; and an attempt of a step that was cut off has to count.  So both stand in a small memory-mapped file while
they run: the kernel keeps those bytes when the process is killed, at the price of a memory copy.

They need no sync.  A machine that loses power kills no process by its handlers, and the file says of itself in which
run of the machine it was written: what an earlier one left is not believed, and every open step may have started then.

A mark of the time tells a step that killed the process soon after it began from one that just happened to be running.
"""

from __future__ import annotations

import mmap
import os
import struct
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

SLOTS_FILE = "slots"
ALIVE_EVERY_SECONDS = 1.0

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_BOOT_BYTES = 64
_ALIVE = struct.Struct("<Q")
_ALIVE_AT = 64
_OVERFLOWED_AT = 72
_STEPS_AT = 256  # before it, from 128 on, the turn
_TURN_AT = 128
_STEP = struct.Struct("<QI64s")  # started at (0: free), command, invocation
_STEPS_MAX = 1024
_BYTES = _STEPS_AT + _STEP.size * _STEPS_MAX

StepId = tuple[str, int]


class LastWords(NamedTuple):
    """What the one before left. `steps`: how many seconds each had run; None: it can not be told which had started."""

    driven: str | None
    steps: dict[StepId, float] | None


class Slots:
    """One slot for the turn, since handlers of a partition run one at a time, and one for each running step."""

    def __init__(self, path: Path, boot_id: Callable[[], bytes] | None = None) -> None:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            os.ftruncate(descriptor, _BYTES)
            self._map = mmap.mmap(descriptor, _BYTES)
        finally:
            os.close(descriptor)
        self._boot_id = (boot_id or _this_boot)().ljust(_BOOT_BYTES, b"\0")[:_BOOT_BYTES]
        self._used: dict[StepId, int] = {}
        self._free = list(range(_STEPS_MAX - 1, -1, -1))

    def take_over(self) -> LastWords:
        """What was left, once; from here on the slots are this process's."""
        known = self._boot_id.strip(b"\0") != b"" and self._map[:_BOOT_BYTES] == self._boot_id
        words = LastWords(self._driven() if known else None, self._steps() if known else None)
        self._map[:] = bytes(_BYTES)
        self._map[:_BOOT_BYTES] = self._boot_id
        return words

    def driving(self, id: str) -> None:
        data = id.encode("ascii") + b"\0"
        self._map[_TURN_AT : _TURN_AT + len(data)] = data

    def idle(self) -> None:
        self._map[_TURN_AT] = 0

    def step_started(self, id: StepId, now_us: int) -> None:
        """A thousand at once are kept.  Once there was one more, it can't be told any more which had started."""
        if not self._free:
            self._map[_OVERFLOWED_AT] = 1
        elif id not in self._used:
            index = self._used[id] = self._free.pop()
            _STEP.pack_into(self._map, _STEPS_AT + index * _STEP.size, now_us, id[1], id[0].encode("ascii"))

    def step_ended(self, id: StepId) -> None:
        index = self._used.pop(id, None)
        if index is not None:
            _ALIVE.pack_into(self._map, _STEPS_AT + index * _STEP.size, 0)
            self._free.append(index)

    def alive(self, now_us: int) -> None:
        """To be called every second or so."""
        _ALIVE.pack_into(self._map, _ALIVE_AT, now_us)

    def close(self) -> None:
        """The process stops in order: no turn is to blame, but steps that are still running were cut off."""
        self.idle()
        self._map.close()

    def _driven(self) -> str | None:
        text = bytes(self._map[_TURN_AT:_STEPS_AT])
        return text[: text.find(b"\0")].decode("ascii", "replace") or None

    def _steps(self) -> dict[StepId, float] | None:
        if self._map[_OVERFLOWED_AT]:
            return None
        (alive_at,) = _ALIVE.unpack_from(self._map, _ALIVE_AT)
        found: dict[StepId, float] = {}
        for index in range(_STEPS_MAX):
            started_at, command, id = _STEP.unpack_from(self._map, _STEPS_AT + index * _STEP.size)
            if started_at:
                seconds = max(0, alive_at - started_at) / 1e6
                found[id.rstrip(b"\0").decode("ascii", "replace"), command] = seconds
        return found


class NoSlots:
    """For a partition whose journal is in memory.  What may have started can't be told."""

    def take_over(self) -> LastWords:
        return LastWords(None, None)

    def driving(self, id: str) -> None: ...

    def idle(self) -> None: ...

    def step_started(self, id: StepId, now_us: int) -> None: ...

    def step_ended(self, id: StepId) -> None: ...

    def alive(self, now_us: int) -> None: ...

    def close(self) -> None: ...


def _this_boot() -> bytes:
    try:
        return _BOOT_ID.read_bytes().strip()
    except OSError:
        return b""
