"""A bug, served beside the other objects to see that the storm finds it: answers leave before they are synced."""

import time
from asyncio import Future
from typing import Any

from perdure.journal.disk import RealDisk
from perdure.objects import VirtualObject, handler
from perdure.runtime.gate import OutputGate

_write = RealDisk.write


def _write_slowly(self: RealDisk, file: int, data: bytes | memoryview, offset: int) -> int:
    time.sleep(0.03)
    return _write(self, file, data, offset)


def _give_at_once(self: OutputGate, lsn: int, future: Future[Any], value: object) -> None:
    if not future.done():
        future.set_result(value)


class EarlyAnswers(VirtualObject):
    """A TARGET has to serve something."""

    @handler
    async def nothing(self) -> None: ...


setattr(RealDisk, "write", _write_slowly)  # noqa: B010  # an assignment to a method is refused by type checkers
setattr(OutputGate, "give", _give_at_once)  # noqa: B010
