"""What the storm is checked by: a list in which each append shows, once, at the index that was acknowledged."""

from perdure.objects import VirtualObject, handler, shared


class Ledger(VirtualObject):
    entries: list[str]

    @handler
    async def append(self, value: str) -> int:
        """The index of `value`."""
        self.entries.append(value)
        return len(self.entries) - 1

    @handler
    async def append_to_both(self, value: str, other: str) -> tuple[int, int]:
        """Here and, by an awaited call, there: several turns, with a commit in between."""
        self.entries.append(value)
        index = len(self.entries) - 1
        return index, await self.ctx.ref(Ledger, other).append(value)

    @shared
    async def read(self) -> list[str]:
        return self.entries
