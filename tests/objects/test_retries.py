"""Backoff."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from perdure.objects import RetryPolicy


def test_delays_double_up_to_the_cap() -> None:
    policy = RetryPolicy(jitter=0)

    assert [policy.delay_seconds(n, 0.9) for n in range(1, 10)] == [0.5, 1, 2, 4, 8, 16, 32, 60, 60]


def test_jitter_spreads_a_delay_either_way() -> None:
    policy = RetryPolicy(first_delay=timedelta(seconds=4), jitter=0.25)

    assert [policy.delay_seconds(1, uniform) for uniform in (0, 0.5, 1)] == [3, 4, 5]


def test_the_millionth_attempt_waits_no_longer_than_the_cap() -> None:
    """factor ** attempt is beyond a float; a policy without limits comes there."""
    assert RetryPolicy(jitter=0).delay_seconds(1_000_000, 0.5) == 60
    assert RetryPolicy(first_delay=0, jitter=0).delay_seconds(1_000_000, 0.5) == 0


def test_attempts_and_duration_are_limits() -> None:
    assert not RetryPolicy(max_attempts=1).allows(1, 0)
    assert RetryPolicy(max_attempts=2).allows(1, 1e9)
    assert RetryPolicy(max_duration=timedelta(minutes=1)).allows(99, 59.9)
    assert not RetryPolicy(max_duration=60).allows(1, 60)
    assert RetryPolicy().allows(10**9, 1e9)


@pytest.mark.parametrize(
    "options",
    [
        {"first_delay": -1},
        {"first_delay": float("nan")},
        {"max_delay": timedelta(days=-1)},
        {"max_duration": -1},
        {"factor": 0.5},
        {"factor": float("inf")},
        {"jitter": 1.5},
        {"max_attempts": 0},
        {"max_attempts": 1.5},
        {"max_attempts": True},
        {"never": ValueError},
        {"never": (5,)},
        {"then": "explode"},
    ],
)
def test_a_policy_that_makes_no_sense_is_refused_by_the_option(options: dict[str, Any]) -> None:
    (name,) = options
    with pytest.raises(ValueError, match=rf"RetryPolicy\({name}="):
        RetryPolicy(**options)


def test_a_delay_of_another_type_is_a_type_error() -> None:
    with pytest.raises(TypeError, match="takes seconds"):
        RetryPolicy(first_delay="5s")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


def test_a_policy_is_frozen_and_comparable() -> None:
    assert RetryPolicy(max_attempts=3) == RetryPolicy(max_attempts=3)
    with pytest.raises(AttributeError):
        RetryPolicy().max_attempts = 3  # type: ignore[misc]  # pyright: ignore[reportAttributeAccessIssue]
