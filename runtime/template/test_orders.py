"""Without a server and without waiting: the journal is in memory, and the clock is moved by hand."""

from datetime import timedelta

import pytest
from orders import TIME_TO_PAY, NotOpen, Order

from perdure.runtime import ManualClock, Runtime


async def test_an_order_is_paid() -> None:
    async with Runtime([Order], data_dir=None) as runtime:
        order = runtime.ref(Order, "o1")
        await order.place("lamp", 4900)

        receipt = await order.pay("4242424242424242")

        assert receipt.endswith("of 4900 from 4242")
        assert await order.look() == "paid"


async def test_an_order_is_not_paid_twice() -> None:
    async with Runtime([Order], data_dir=None) as runtime:
        order = runtime.ref(Order, "o1")
        await order.place("lamp", 4900)
        await order.pay("4242424242424242")

        with pytest.raises(NotOpen):
            await order.pay("4242424242424242")


async def test_an_order_that_nobody_pays_is_taken_back() -> None:
    """A day goes by at once."""
    async with Runtime([Order], data_dir=None, clock=ManualClock()) as runtime:
        order = runtime.ref(Order, "o1")
        await order.place("lamp", 4900)

        await runtime.advance(TIME_TO_PAY - timedelta(minutes=1))
        assert await order.look() == "open"
        await runtime.advance(timedelta(minutes=2))
        assert await order.look() == "taken back"
