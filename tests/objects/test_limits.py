"""What a class may say of its limits, and what is refused when it is defined."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

from perdure.objects import DefinitionError, Limits, Rate, Service, VirtualObject, handler
from perdure.objects.definitions import definition_of
from perdure.objects.limits import NO_LIMITS, with_priority

wrong: Any = {"float": 1.5, "int": 5, "text": "1m"}  # what a checker flags


class Limited(VirtualObject, limits=Limits(running=2)):
    @handler
    async def ask(self) -> None: ...


class Inherits(Limited):
    pass


class Unlimited(Limited, limits=Limits()):
    pass


def test_limits_are_inherited_unless_others_are_given() -> None:
    assert definition_of(Limited).limits == Limits(running=2)
    assert definition_of(Inherits).limits == Limits(running=2)
    assert definition_of(Unlimited).limits == NO_LIMITS


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: Limits(running=0), "Limits(running=…) is 0: give a whole number, 1 or more"),
        (lambda: Limits(steps=-1), "Limits(steps=…) is -1: give a whole number, 1 or more"),
        (lambda: Limits(steps=True), "Limits(steps=…) is True: give a whole number, 1 or more"),
        (lambda: Limits(running=wrong["float"]), "Limits(running=…) is 1.5: give a whole number, 1 or more"),
        (lambda: Limits(rate=wrong["int"]), "Limits(rate=5): give a Rate, as in Rate(count=10, per=60)"),
        (lambda: Rate(count=0), "Rate(count=…) is 0: give a whole number, 1 or more"),
        (lambda: Rate(count=1, burst=0), "Rate(burst=…) is 0: give a whole number, 1 or more"),
        (lambda: Rate(count=1, per=0), "Rate(count=1, per=0): a million a second at most"),
        (lambda: Rate(count=2_000_000), "Rate(count=2000000, per=1.0): a million a second at most"),
        (lambda: Rate(count=1, per=-1), "Rate(per=…) is -1: give 0 seconds to 100 years"),
        (lambda: Rate(count=1, per=wrong["text"]), "Rate(per=…) takes seconds (float) or a timedelta, got str"),
    ],
)
def test_what_is_no_limit_is_refused_in_one_line(make: Callable[[], Any], says: str) -> None:
    with pytest.raises((ValueError, TypeError)) as refused:
        make()
    assert str(refused.value) == says


def test_a_class_is_refused_whose_limits_it_could_not_keep() -> None:
    given: Any = 5
    with pytest.raises(DefinitionError, match=r"Odd: limits=5: give Limits\(running=…, steps=…, rate=…\)$"):
        type("Odd", (Service,), {}, limits=given)
    with pytest.raises(DefinitionError, match=r"Keyless: Limits\(rate_per_key=…\): a Service has no keys; give rate=$"):
        type("Keyless", (Service,), {}, limits=Limits(rate_per_key=Rate(count=1)))


def test_a_rate_is_spread_evenly_and_never_too_fast() -> None:
    assert Rate(count=3).interval_ns == 333_333_334
    assert Rate(count=10, per=timedelta(minutes=1)).interval_ns == 6_000_000_000
    assert Rate(count=10, per=60, burst=1).slack_ns == 0
    assert Rate(count=10, per=60).slack_ns == 9 * 6_000_000_000
    assert str(Rate(count=10, per=timedelta(minutes=1))) == "10 in 60 s"


def test_a_priority_travels_as_a_header() -> None:
    assert with_priority(None, None) is None
    assert with_priority({"a": "b"}, "high") == {"a": "b", "x-perdure-priority": "high"}
    wrong: Any = "urgent"
    with pytest.raises(ValueError, match="priority='urgent': give 'high', 'normal' or 'low'"):
        with_priority(None, wrong)
