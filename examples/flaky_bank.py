"""A bank's HTTP API on a bad day: it fails before and after doing its work, and is slow.  For payments.py.

    python examples/flaky_bank.py --port 8099
    curl localhost:8099/charges -H 'idempotency-key: k1' --json '{"order": "o1", "cents": 4900}'
    curl localhost:8099/charges

As real ones do, it knows an idempotency key again: a charge asked for twice under one key is made once, under two keys
twice.  That is how it is seen whether somebody who tries again keeps to the key.
"""

import argparse
import asyncio
import random
from collections import Counter
from typing import Literal

import msgspec
from aiohttp import web

Mood = Literal["fine", "fails before", "fails after", "hangs up before", "hangs up after"]
BAD_MOODS: tuple[Mood, ...] = ("fails before", "fails after", "hangs up before", "hangs up after")


class ChargeRequest(msgspec.Struct, frozen=True):
    order: str
    cents: int


class Charge(msgspec.Struct, frozen=True):
    id: str
    order: str
    cents: int


class FlakyBank:
    """`charges` are those that were made, by idempotency key; `attempts` counts the requests of each order.

    `failure_rate` is the part of the requests that fails, in one of the four ways.
    """

    def __init__(self, dice: random.Random, *, failure_rate: float = 0.4, latency_seconds: float = 0.005) -> None:
        self.charges: dict[str, Charge] = {}
        self.attempts: Counter[str] = Counter()
        self.failures: Counter[Mood] = Counter()
        self._dice = dice
        self._failure_rate = failure_rate
        self._latency_seconds = latency_seconds

    def application(self) -> web.Application:
        application = web.Application()
        application.router.add_post("/charges", self.charge)
        application.router.add_get("/charges", self.look)
        return application

    async def charge(self, request: web.Request) -> web.Response:
        key = request.headers.get("idempotency-key", "")
        try:
            wanted = msgspec.json.decode(await request.read(), type=ChargeRequest)
        except msgspec.DecodeError as error:
            return web.json_response({"message": str(error)}, status=400)
        if not key:
            return web.json_response({"message": "a charge needs an idempotency-key"}, status=400)
        self.attempts[wanted.order] += 1
        mood = self._mood()
        await asyncio.sleep(self._latency_seconds * self._dice.random())
        if mood.endswith("before"):
            return self._fail(request, mood)
        if wanted.cents > 1_000_000:
            return web.json_response({"message": "over the limit of this card"}, status=402)
        charge = self.charges.setdefault(key, Charge(f"ch_{len(self.charges) + 1}", wanted.order, wanted.cents))
        await asyncio.sleep(self._latency_seconds * self._dice.random())
        if mood.endswith("after"):
            return self._fail(request, mood)
        return web.json_response(msgspec.to_builtins(charge), status=201)

    async def look(self, request: web.Request) -> web.Response:
        """How many charges each order got."""
        return web.json_response(Counter(charge.order for charge in self.charges.values()))

    def _mood(self) -> Mood:
        return self._dice.choice(BAD_MOODS) if self._dice.random() < self._failure_rate else "fine"

    def _fail(self, request: web.Request, mood: Mood) -> web.Response:
        self.failures[mood] += 1
        if mood.startswith("hangs up") and request.transport is not None:
            request.transport.abort()
        return web.json_response({"message": "something went wrong, perhaps before it was done"}, status=500)


def main() -> None:
    parser = argparse.ArgumentParser(description="A bank's HTTP API on a bad day.")
    parser.add_argument("--port", type=int, default=8099)
    parser.add_argument("--failure-rate", type=float, default=0.4, metavar="PART", help="of the requests, 0 to 1")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    bank = FlakyBank(random.Random(options.seed), failure_rate=options.failure_rate)
    web.run_app(bank.application(), host="127.0.0.1", port=options.port)


if __name__ == "__main__":
    main()
