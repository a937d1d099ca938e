"""payments.py: one charge for each order, whatever the bank does."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from perdure.objects import TerminalError
from perdure.runtime import ManualClock, Runtime

ORDERS = [f"o{n}" for n in range(20)]


@pytest.fixture
def payments(load: Callable[[str], Any]) -> Any:
    return load("payments")


async def test_the_curl_lines(
    story: Callable[[str], Any], serve_bank: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the docstring says: two payments and one receipt, a refusal, and one charge at the bank."""
    _, url = await serve_bank(seed=3)
    monkeypatch.setenv("BANK_URL", url)
    lines = story("payments")
    lines.replace("localhost:8099", url.removeprefix("http://"))
    assert ["python", "examples/flaky_bank.py", "--port", "8099"] in lines.commands
    await lines.start()

    receipt = {"id": "ch_1", "cents": 4900}
    assert await lines.next() == (200, receipt)
    assert await lines.next() == (200, receipt)
    status, refusal = await lines.next()
    assert (status, refusal["message"]) == (402, "the bank says 402: over the limit of this card")
    assert await lines.next() == (200, None)
    assert await lines.next() == (200, {"o1": 1})


async def test_each_order_is_charged_once_though_the_bank_fails_before_and_after(
    payments: Any, serve_bank: Callable[..., Any]
) -> None:
    """Two in three requests fail, in each of the four ways; time stands still but for the pauses between attempts."""
    bank, payments.BANK_URL = await serve_bank(seed=7, failure_rate=0.66, latency_seconds=0)
    async with Runtime([payments.Order], data_dir=None, clock=ManualClock()) as runtime:
        paying = [asyncio.ensure_future(runtime.ref(payments.Order, order).pay(100)) for order in ORDERS]
        await runtime.advance(300)

        receipts = await asyncio.gather(*paying)
        assert Counter(charge.order for charge in bank.charges.values()) == dict.fromkeys(ORDERS, 1)
        assert {receipt.id for receipt in receipts} == {charge.id for charge in bank.charges.values()}
        assert len(bank.failures) == 4


async def test_an_order_that_is_paid_is_not_charged_again(payments: Any, serve_bank: Callable[..., Any]) -> None:
    """Without an idempotency key, too; another amount is refused."""
    bank, payments.BANK_URL = await serve_bank(failure_rate=0)
    async with Runtime([payments.Order], data_dir=None, clock=ManualClock()) as runtime:
        order = runtime.ref(payments.Order, "o1")
        assert await order.pay(100) == await order.pay(100)
        with pytest.raises(TerminalError, match="is paid: 100 cents") as refusal:
            await order.pay(200)
        assert refusal.value.status == 409
        assert bank.attempts == {"o1": 1}


async def test_what_the_bank_refuses_is_not_tried_again(payments: Any, serve_bank: Callable[..., Any]) -> None:
    """An answer is no failure, and the order may be paid with less."""
    bank, payments.BANK_URL = await serve_bank(failure_rate=0)
    async with Runtime([payments.Order], data_dir=None, clock=ManualClock()) as runtime:
        order = runtime.ref(payments.Order, "o1")
        with pytest.raises(payments.ChargeRefused, match="over the limit"):
            await order.pay(2_000_000)
        assert bank.attempts == {"o1": 1}
        assert (await order.pay(100)).cents == 100


async def test_a_bank_that_is_down_for_a_day(
    payments: Any, serve_bank: Callable[..., Any], unused_tcp_port: int
) -> None:
    """It is tried until it is there again."""
    payments.BANK_URL = f"http://127.0.0.1:{unused_tcp_port}"
    async with Runtime([payments.Order], data_dir=None, clock=ManualClock()) as runtime:
        paying = asyncio.ensure_future(runtime.ref(payments.Order, "o1").pay(100))
        await runtime.advance(600)
        assert not paying.done()

        _, payments.BANK_URL = await serve_bank(failure_rate=0)
        await runtime.advance(10)
        assert (await paying).cents == 100


async def test_it_ends_the_same_wherever_the_power_is_cut(
    payments: Any, serve_bank: Callable[..., Any], machine: Callable[..., Any]
) -> None:
    """After each record; the key of the step is the same in the next process."""
    bank, payments.BANK_URL = await serve_bank(seed=5, latency_seconds=0)

    async def story(runtime: Runtime) -> None:
        await runtime.send(runtime.ref(payments.Order, "o1").pay.options(idempotency_key="p"), 100)
        await runtime.advance(60)

    async def check(runtime: Runtime) -> None:
        receipt = await runtime.ref(payments.Order, "o1").pay.options(idempotency_key="p")(100)
        assert [charge.id for charge in bank.charges.values()] == [receipt.id]

    assert await machine(payments.Order).with_power_cuts(bank.charges.clear, story, check) >= 3
