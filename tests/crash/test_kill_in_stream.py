"""A long stream whose client is cut off, and whose server is killed, again and again: every item once, in order."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from random import Random
from typing import TYPE_CHECKING

import aiohttp

from perdure.runtime.event_streams import events_of
from tests.crash.stream_objects import PORTION

if TYPE_CHECKING:
    from tests.conftest import Perdure

ITEMS, CUTS = 10_000, 20
SEED = 20


class Reader:
    """A client that comes back with the number of items that it has."""

    def __init__(self, server: Perdure, session: aiohttp.ClientSession) -> None:
        self._server = server
        self._session = session
        self.got: list[int] = []
        self.id = ""
        self.reads = 0

    async def read(self, until: int) -> bool:
        """Leaves in the middle when it has so many; True if the end came first.  Raises aiohttp.ClientError."""
        self.reads += 1
        headers = {"idempotency-key": "the one", "last-event-id": str(len(self.got))}
        url = await self._server.serving() + "/Numbers/n/tell"
        async with self._session.post(url, json=ITEMS, headers=headers) as response:
            assert response.status == 200, await response.text()
            self.id = response.headers["x-restate-id"]
            async for event in events_of(response.content):
                if event.kind == "end":
                    return True
                assert (event.kind, event.id) == ("message", str(len(self.got) + 1))
                self.got.append(int(event.data))
                if len(self.got) == until:
                    response.close()
                    return False
        return False


async def test_every_item_comes_once(perdure: Callable[..., Perdure]) -> None:
    """10,000 of them; 20 times the client leaves in the middle, and at one of those places in each portion of 2,000,
    of which the handler has not begun the next, the server is killed."""
    random = Random(SEED)
    portions = range(PORTION, ITEMS + 1, PORTION)
    server = perdure("tests/crash/stream_objects.py")
    await server.start()
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=20)) as session:
        reader = Reader(server, session)
        for end in portions:
            places = sorted(random.sample(range(end - PORTION + 1, end), CUTS // len(portions)))
            fatal = random.choice(places)
            for place in [*places, end]:
                while len(reader.got) < place:
                    with suppress(aiohttp.ClientError):
                        await reader.read(place)
                if place == fatal:
                    server.kill()
                    await server.exited()
                    await server.start()
            await server.call(f"/restate/invocation/{reader.id}/signals/go on/resolve".replace(" ", "%20"), True)
        assert await reader.read(ITEMS + 1)
    assert reader.got == [*range(ITEMS)], f"seed {SEED}"
    assert reader.reads > CUTS
    assert (await server.call("/Numbers/n/total")).value == ITEMS
