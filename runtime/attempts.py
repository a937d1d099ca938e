"""What becomes of an invocation whose turn failed: another attempt, a pause, or the end."""

from __future__ import annotations

from perdure.objects.errors import Failure, text_of
from perdure.objects.retries import RetryPolicy

from .invocations import Invocation
from .records import Attempted, CancelCall, Command, Failed, Turn

DEATHS_MAX = 3
_MESSAGE_CHARACTERS_MAX = 2_000


def after_failure(
    invocation: Invocation, cause: BaseException, policy: RetryPolicy, now: int, uniform: float
) -> Attempted | Turn:
    """The record of what is decided: an Attempted, or a Turn that ends with the failure.  `uniform` is in [0, 1)."""
    attempt = invocation.attempts + 1
    failing_since = invocation.failing_since if invocation.attempts else now
    failure = failure_of_attempt(cause)
    if not isinstance(cause, policy.never) and policy.allows(attempt, (now - failing_since) / 1e6):
        next_at = now + round(policy.delay_seconds(attempt, uniform) * 1e6)
        return Attempted(now, invocation.id, failure, next_at)
    if policy.then == "pause":
        return Attempted(now, invocation.id, failure, None)
    consumed = len(invocation.deliveries)
    # Nobody waits for its calls any more; its steps and timers end with it anyhow.
    owned = () if invocation.history is None else sorted(invocation.history.owned)
    cancelled: list[Command] = [CancelCall(0, command) for command in owned]
    number = invocation.last_turn + 1
    return Turn(now, invocation.id, number, consumed, commands=cancelled, outcome=Failed(failure))


def after_death(invocation: Invocation, now: int) -> Attempted:
    """The process died while the invocation's turn ran.  It may be innocent: it is tried again at once, twice."""
    last = invocation.deaths + 1 >= DEATHS_MAX
    failure = Failure("ProcessDied", "the process was killed while this handler ran", 500)
    return Attempted(now, invocation.id, failure, None if last else now, died=True)


def failure_of_attempt(cause: BaseException) -> Failure:
    """What operators see.  Clients never get it unless it becomes the outcome."""
    text = text_of(cause)
    shown = text if len(text) <= _MESSAGE_CHARACTERS_MAX else text[:_MESSAGE_CHARACTERS_MAX] + "…"
    return Failure(type(cause).__name__, shown, 500)
