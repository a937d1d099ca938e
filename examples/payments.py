"""Exactly one charge for each order, from a bank whose API fails before and after doing its work.

    python examples/flaky_bank.py --port 8099

    perdure serve examples/payments.py
    curl localhost:8080/Order/o1/pay --json 4900
    curl localhost:8080/Order/o1/pay --json 4900
    curl localhost:8080/Order/o2/pay --json 2000000
    curl localhost:8080/Order/o2/look
    curl localhost:8099/charges

The second payment of o1 is given the first one's receipt.  o2 is more than the card's limit, which is an answer (402)
and nothing to try again.  BANK_URL says where the bank is.
"""

import os
from typing import Annotated

import aiohttp
import msgspec
from msgspec import Meta, Struct

from perdure.objects import RetryPolicy, TerminalError, VirtualObject, current_step, handler, shared, step

BANK_URL = os.environ.get("BANK_URL", "http://127.0.0.1:8099")

Cents = Annotated[int, Meta(gt=0)]


class ChargeRefused(TerminalError):
    """The bank's last word."""

    status = 402


class Receipt(Struct, frozen=True):
    id: str
    cents: int


# No limit: after a failure nobody knows whether the bank did it, until it has answered.
@step(retry=RetryPolicy(first_delay=0.05, max_delay=5), timeout=5)
async def charge(order: str, cents: int) -> Receipt:
    """Tried again until there is an answer, under one key: in each attempt and after each crash it is the same."""
    headers = {"idempotency-key": current_step().key}
    async with (
        aiohttp.ClientSession() as session,
        session.post(f"{BANK_URL}/charges", json={"order": order, "cents": cents}, headers=headers) as answer,
    ):
        if 400 <= answer.status < 500:
            raise ChargeRefused(f"the bank says {answer.status}: {(await answer.json())['message']}")
        answer.raise_for_status()
        return msgspec.json.decode(await answer.read(), type=Receipt)


class Order(VirtualObject):
    """One order, paid once however often it is asked for."""

    receipt: Receipt | None = None

    @handler
    async def pay(self, cents: Cents) -> Receipt:
        if self.receipt is None:
            self.receipt = await self.ctx.run(charge, self.key, cents)
        if self.receipt.cents != cents:
            raise TerminalError(f"order {self.key} is paid: {self.receipt.cents} cents", status=409)
        return self.receipt

    @shared
    async def look(self) -> Receipt | None:
        return self.receipt
