"""payments.py in a storm: 1,000 orders, a bank that fails two times in five, and a process that is killed ten times.

Counted at the bank: one charge for each order.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from tests.conftest import Answer, Perdure

SEED = 20260101
ORDERS = {f"order-{n}": 100 + n for n in range(1_000)}
CLIENTS = 24
KILLS = 10


@pytest.fixture
def seconds_max() -> int:
    """About 15 on two idle cores; this is for one that hangs."""
    return 150


class Shoppers:
    """Careful clients: who gets no answer asks again with the same idempotency key."""

    def __init__(self, server: Perdure) -> None:
        self.answers: dict[str, Answer] = {}
        self._server = server
        self._answered = asyncio.Condition()

    async def pay(self, orders: Iterator[tuple[str, int]]) -> None:
        for order, cents in orders:
            answer = await self._server.settle(f"/Order/{order}/pay", cents, key=f"pay-{order}")
            async with self._answered:
                self.answers[order] = answer
                self._answered.notify_all()

    async def until_answered(self, count: int) -> None:
        async with self._answered:
            await self._answered.wait_for(lambda: len(self.answers) >= count)


async def kill_again_and_again(server: Perdure, shoppers: Shoppers, dice: random.Random) -> int:
    """Returns how many there were, each in the middle of requests to the bank."""
    points = sorted(dice.sample(range(20, len(ORDERS) - CLIENTS), KILLS))
    for point in points:
        await shoppers.until_answered(point)
        server.kill()
        await server.exited()
        await server.start()
        await server.serving()
    return len(points)


async def test_each_of_a_thousand_orders_is_charged_once(
    perdure: Callable[..., Perdure], serve_bank: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each answer is the receipt of its order's one charge."""
    print("seed", SEED)
    dice = random.Random(SEED)
    bank, url = await serve_bank(seed=SEED, failure_rate=0.4, latency_seconds=0.01)
    monkeypatch.setenv("BANK_URL", url)
    server = perdure("examples/payments.py")
    await server.start()
    shoppers, orders = Shoppers(server), iter(ORDERS.items())

    async with asyncio.TaskGroup() as group:
        for _ in range(CLIENTS):
            group.create_task(shoppers.pay(orders))
        kills = group.create_task(kill_again_and_again(server, shoppers, dice))

    charges = Counter(charge.order for charge in bank.charges.values())
    assert charges == dict.fromkeys(ORDERS, 1), {order: count for order, count in charges.items() if count != 1}
    receipts = {charge.order: {"id": charge.id, "cents": charge.cents} for charge in bank.charges.values()}
    assert {order: (answer.status, answer.value) for order, answer in shoppers.answers.items()} == {
        order: (200, receipts[order]) for order in ORDERS
    }
    assert {order: receipt["cents"] for order, receipt in receipts.items()} == ORDERS
    # Else it was no storm: all four ways to fail, requests that were cut off, and charges that were asked for again.
    assert kills.result() == KILLS
    assert server.unanswered > KILLS
    assert len(bank.failures) == 4
    assert bank.attempts.total() > 1.4 * len(ORDERS)
    assert await server.stop() == 0
