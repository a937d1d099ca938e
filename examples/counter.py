"""A counter per key.

perdure serve examples/counter.py
curl localhost:8080/Counter/a/add --json 3
curl localhost:8080/Counter/a/get
"""

from perdure.objects import VirtualObject, handler, shared


class Counter(VirtualObject):
    value: int = 0

    @handler
    async def add(self, amount: int = 1) -> int:
        self.value += amount
        return self.value

    @handler
    async def reset(self) -> None:
        self.value = 0

    @shared
    async def get(self) -> int:
        return self.value
