"""A data directory that has lost its journal is no new one."""

from __future__ import annotations

from pathlib import Path

import pytest

from perdure.journal import Damaged
from perdure.objects import VirtualObject, handler
from perdure.runtime import Runtime


class Counter(VirtualObject):
    value: int = 0

    @handler
    async def add(self, amount: int) -> int:
        self.value += amount
        return self.value


async def test_a_directory_without_its_segments_is_refused(tmp_path: Path) -> None:
    """An empty journal in its place would start every object at its defaults."""
    async with Runtime([Counter], data_dir=tmp_path) as runtime:
        await runtime.ref(Counter, "a").add(3)
    for segment in tmp_path.glob("*.segment"):
        segment.unlink()

    with pytest.raises(Damaged, match="was in use, but its journal"):
        async with Runtime([Counter], data_dir=tmp_path):
            pass

    assert not list(tmp_path.glob("*.segment"))


async def test_a_new_directory_is_made(tmp_path: Path) -> None:
    """With all that it needs."""
    async with Runtime([Counter], data_dir=tmp_path / "new" / "data") as runtime:
        assert await runtime.ref(Counter, "a").add(3) == 3
