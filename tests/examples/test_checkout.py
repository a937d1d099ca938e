"""checkout.py: either all of it happened, or nothing is left of it; wherever it is refused, cancelled or cut off."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

from perdure.objects import TerminalError
from perdure.runtime import ManualClock, Runtime

HOUR = timedelta(hours=1)


@pytest.fixture
def checkout(load: Callable[[str], Any]) -> Any:
    return load("checkout")


def classes(checkout: Any) -> list[type]:
    return [checkout.Checkout, checkout.Stock]


def order(checkout: Any, *skus: str, **changes: Any) -> Any:
    items = [checkout.Item(sku, 2, 100) for sku in skus or ("lamp", "desk")]
    return checkout.Order(**{"items": items, "card": "4242", "address": "Main Street 1"} | changes)


async def fill(runtime: Runtime, checkout: Any) -> None:
    for sku in ("lamp", "desk"):
        await runtime.ref(checkout.Stock, sku).restock.options(idempotency_key="once")(5)


async def left(runtime: Runtime, checkout: Any) -> list[int]:
    return [await runtime.ref(checkout.Stock, sku).left() for sku in ("lamp", "desk")]


async def test_the_curl_lines(story: Callable[[str], Any]) -> None:
    """As the docstring says: the first order is shipped, the second one taken back, and its lamp is there again."""
    lines = story("checkout")
    await lines.start()

    assert await lines.next() == (200, 5)
    assert await lines.next() == (200, "parcel-o1")
    assert await lines.next() == (200, 3)
    status, accepted = await lines.next()
    assert (status, accepted["status"]) == (202, "Accepted")
    while (await lines.next())[0] == 404:  # not begun yet
        lines.asked -= 1
    status, stage = await lines.next()
    while stage != "taken back":
        stage = await lines.again()
    assert await lines.next() == (200, 3)


async def test_an_order_is_reserved_charged_and_shipped(checkout: Any) -> None:
    """And nothing stays reserved for it."""
    async with Runtime(classes(checkout), data_dir=None, clock=ManualClock()) as runtime:
        await fill(runtime, checkout)

        assert await runtime.ref(checkout.Checkout, "o1").run(order(checkout)) == "parcel-o1"
        await runtime.advance(0)
        assert await left(runtime, checkout) == [3, 3]
        assert checkout.BANK.charges == {"o1": 400}
        assert checkout.PARCELS == {"o1": "parcel-o1"}
        assert await runtime.ref(checkout.Checkout, "o1").status() == "shipped"


@pytest.mark.parametrize(
    ("refusal", "changes", "status"),
    [
        ("OutOfStock", {"skus": ("lamp", "desk", "chair")}, 409),
        ("CardDeclined", {"card": "declined"}, 402),
        ("NobodyDelivers", {"address": "moon"}, 422),
    ],
)
async def test_a_refusal_undoes_what_was_done_before(
    checkout: Any, refusal: str, changes: dict[str, Any], status: int
) -> None:
    """In each of the three places; the caller gets the refusal, as its class."""
    async with Runtime(classes(checkout), data_dir=None, clock=ManualClock()) as runtime:
        await fill(runtime, checkout)
        skus = changes.pop("skus", ())

        with pytest.raises(getattr(checkout, refusal)) as outcome:
            await runtime.ref(checkout.Checkout, "o1").run(order(checkout, *skus, **changes))
        assert outcome.value.status == status
        assert await left(runtime, checkout) == [5, 5]
        assert checkout.BANK.charges == checkout.PARCELS == {}
        assert await runtime.ref(checkout.Checkout, "o1").status() == "refused"


async def test_an_order_is_taken_back_until_it_is_shipped(checkout: Any) -> None:
    """After the charge, before the parcel: the customer changes their mind, and everything is undone."""
    async with Runtime(classes(checkout), data_dir=None, clock=ManualClock()) as runtime:
        await fill(runtime, checkout)
        run = await runtime.send(runtime.ref(checkout.Checkout, "o1").run, order(checkout, may_change_mind_for=HOUR))
        await runtime.advance(HOUR / 2)
        assert checkout.BANK.charges == {"o1": 400}

        await runtime.ref(checkout.Checkout, "o1").change_mind()
        with pytest.raises(TerminalError) as outcome:
            await run.attach()
        assert outcome.value.status == 409
        assert await left(runtime, checkout) == [5, 5]
        assert checkout.BANK.charges == {}
        await runtime.advance(2 * HOUR)
        assert checkout.PARCELS == {}
        assert await runtime.ref(checkout.Checkout, "o1").status() == "taken back"


async def test_a_charge_that_lands_after_it_was_voided_comes_to_nothing(
    checkout: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Taken back while the bank is being asked: the request can't be recalled, and arrives when all is undone."""
    asked, charge_card = asyncio.Event(), checkout.charge_card
    late: list[TerminalError] = []

    async def slow(order: str, card: str, cents: int) -> None:
        asked.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            while order not in checkout.BANK.void:
                await asyncio.sleep(0)
            try:
                await charge_card(order, card, cents)
            except TerminalError as refusal:
                late.append(refusal)

    monkeypatch.setattr(checkout, "charge_card", slow)
    async with Runtime(classes(checkout), data_dir=None, clock=ManualClock()) as runtime:
        await fill(runtime, checkout)
        run = await runtime.send(runtime.ref(checkout.Checkout, "o1").run, order(checkout))
        await asked.wait()
        await run.cancel()
        with pytest.raises(TerminalError):
            await run.attach()
        await runtime.advance(0)
        assert [refusal.status for refusal in late] == [409]
        assert checkout.BANK.charges == {}
        assert await left(runtime, checkout) == [5, 5]


async def test_taking_back_a_shipped_order_changes_nothing(checkout: Any) -> None:
    """It is too late, and the charge stays; an order that never was is 404."""
    async with Runtime(classes(checkout), data_dir=None, clock=ManualClock()) as runtime:
        await fill(runtime, checkout)
        await runtime.ref(checkout.Checkout, "o1").run(order(checkout))

        await runtime.ref(checkout.Checkout, "o1").change_mind()
        assert await runtime.ref(checkout.Checkout, "o1").status() == "shipped"
        assert checkout.BANK.charges == {"o1": 400}
        with pytest.raises(TerminalError, match="no order o2") as refusal:
            await runtime.ref(checkout.Checkout, "o2").change_mind()
        assert refusal.value.status == 404


async def test_two_items_of_one_kind_are_released_together(checkout: Any) -> None:
    """Each undo is idempotent: the second one finds nothing left to do."""
    async with Runtime(classes(checkout), data_dir=None, clock=ManualClock()) as runtime:
        await fill(runtime, checkout)

        with pytest.raises(checkout.CardDeclined):
            await runtime.ref(checkout.Checkout, "o1").run(order(checkout, "lamp", "lamp", card="declined"))
        assert await left(runtime, checkout) == [5, 5]


@pytest.mark.parametrize("address", ["Main Street 1", "moon"])
async def test_it_ends_the_same_wherever_the_power_is_cut(
    checkout: Any, machine: Callable[..., Any], address: str
) -> None:
    """After each record: on the way, and in the middle of compensating."""

    def new_world() -> None:
        checkout.BANK = checkout.Bank()
        checkout.PARCELS.clear()

    async def story(runtime: Runtime) -> None:
        await fill(runtime, checkout)
        await runtime.send(runtime.ref(checkout.Checkout, "o1").run, order(checkout, address=address))
        await runtime.advance(HOUR)

    async def check(runtime: Runtime) -> None:
        run = runtime.ref(checkout.Checkout, "o1").run(order(checkout, address=address))
        if address == "moon":
            with pytest.raises(checkout.NobodyDelivers):
                await run
            assert (await left(runtime, checkout), checkout.BANK.charges, checkout.PARCELS) == ([5, 5], {}, {})
        else:
            assert await run == "parcel-o1"
            await runtime.advance(0)
            assert (await left(runtime, checkout), checkout.BANK.charges) == ([3, 3], {"o1": 400})
        for sku in ("lamp", "desk"):
            assert await runtime.ref(checkout.Stock, sku).release("o1") is None
        assert await left(runtime, checkout) == ([5, 5] if address == "moon" else [3, 3])

    assert await machine(*classes(checkout)).with_power_cuts(new_world, story, check) > 15
