"""Steps: options on functions, and what a running step knows."""

from __future__ import annotations

import functools
import inspect
from collections.abc import AsyncIterator
from contextvars import copy_context
from datetime import timedelta
from typing import Any, cast

import pytest

from perdure.objects import DefinitionError, RetryPolicy, StepContext, current_step, step
from perdure.objects.steps import enter_step, leave_step, step_name, step_options

POLICY = RetryPolicy(max_attempts=3)
BASE = 10


def fetch(url: str, tries: int = 3, *, slow: bool = False) -> str:
    """Fetches."""
    return f"{url} {tries} {slow} {BASE}"


@step(retry=POLICY, timeout=timedelta(seconds=10), name="pay")
async def charge(card: str) -> str:
    return card


@step
async def plain() -> int:
    return 1


@step(timeout=1)
async def words() -> AsyncIterator[str]:
    yield "a"


async def test_a_step_is_called_directly_as_the_plain_function() -> None:
    quick = step(fetch, timeout=3)

    assert quick("u", slow=True) == "u 3 True 10"
    assert await charge("c") == "c"
    assert await plain() == 1
    assert [word async for word in words()] == ["a"]


def test_its_options_can_be_read() -> None:
    options = step_options(charge)

    assert (options.name, options.retry, options.timeout_seconds) == ("pay", POLICY, 10)
    assert step_options(plain).timeout_seconds is None
    assert step_options(fetch).retry is None


def test_options_in_one_place_leave_the_function_alone_in_others() -> None:
    quick = step(fetch, timeout=3)
    slow = step(quick, timeout=99)

    assert [step_options(fn).timeout_seconds for fn in (fetch, quick, slow)] == [None, 3, 99]


def test_a_step_keeps_what_its_function_is() -> None:
    quick = step(fetch, timeout=3)

    assert inspect.signature(quick) == inspect.signature(fetch)
    assert (quick.__name__, quick.__qualname__, quick.__module__, quick.__doc__) == (
        fetch.__name__, fetch.__qualname__, fetch.__module__, fetch.__doc__,
    )  # fmt: skip
    assert quick.__annotations__ == fetch.__annotations__
    assert inspect.iscoroutinefunction(charge)
    assert inspect.isasyncgenfunction(words)
    assert not hasattr(quick, "__wrapped__")


def test_a_step_sees_its_closure_and_what_it_wraps() -> None:
    seen: list[str] = []

    @functools.wraps(fetch)
    def wrapper(*args: Any) -> str:
        seen.append("x")
        return fetch(*args)

    assert step(wrapper, timeout=1)("u") == "u 3 False 10"
    assert seen == ["x"]
    assert inspect.signature(step(wrapper)) == inspect.signature(fetch)


class Fetcher:
    def __call__(self, url: str) -> str:
        return url


@pytest.mark.parametrize(
    "fn",
    [functools.partial(fetch, "u"), Fetcher(), str, len, "abc".upper],
    ids=["partial", "instance", "class", "builtin", "bound"],
)
def test_other_callables_carry_options_too(fn: Any) -> None:
    made: Any = step(fn, timeout=3)
    args = () if isinstance(fn, functools.partial) or fn == "abc".upper else ("xyz",)

    assert made(*args) == fn(*args)
    assert step_options(made).timeout_seconds == 3
    assert step_options(cast("object", fn)).timeout_seconds is None


def test_the_name_of_a_step_is_its_functions_unless_given() -> None:
    assert step_name(fetch) == "fetch"
    assert step_name(charge) == "pay"
    assert step_name(len) == "len"
    assert step_name(lambda: 1) is None
    assert step_name(functools.partial(fetch, "u")) is None
    assert step_name(step(lambda: 1, name="one")) == "one"


def test_what_is_no_function_is_refused() -> None:
    for wrong in (5, "fetch"):
        with pytest.raises(DefinitionError, match="is no function; give the function, not what it returns"):
            step(wrong)  # type: ignore[call-overload]  # pyright: ignore
    with pytest.raises(ValueError, match=r"step\(timeout=…\) is -1"):
        step(fetch, timeout=-1)


def test_the_current_step_is_known_inside_it_and_nowhere_else() -> None:
    with pytest.raises(RuntimeError, match=r"current_step\(\) outside a step"):
        current_step()

    context = StepContext()
    token = enter_step(context)
    assert current_step() is context
    assert copy_context().run(current_step) is context

    leave_step(token)
    with pytest.raises(RuntimeError, match="outside a step"):
        current_step()
