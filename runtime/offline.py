"""Recorded invocations against the code at hand, without effects: `perdure replay` and `perdure check`.

The journal is read without its lock, also beside a running process, and nothing is written.  A replay runs no step
and sends nothing, so any invocation may be tried against any code.
"""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path

from msgspec import Struct

from perdure.journal import OnProgress, read_offline
from perdure.objects.errors import Failure, InvalidArguments, ReplayMismatch

from . import records
from .execution import Execution
from .invocations import Invocation
from .kernel import Kernel
from .records import Outcome
from .recovery import RecoveryFailed
from .registry import Registry
from .settings import Settings

OnDivergence = Callable[[str], None]


class Replayed(Struct, frozen=True):
    """`divergence`: where the code at hand does something else than what was recorded, both sides named.

    `served` False: its class or handler isn't among the targets.  `patches`: which way it went at each
    `ctx.patched(name)`; True is the new way.
    """

    id: str
    target: str
    turns: int
    divergence: str | None = None
    served: bool = True
    patches: dict[str, bool] = {}


class _Recorded:
    """The world of a replay: every verdict stands in the journal, so nobody is asked for one."""

    def __init__(self, kernel: Kernel, registry: Registry, settings: Settings) -> None:
        self.kernel = kernel
        self.registry = registry
        self.call_depth_max = settings.call_depth_max

    def why_not_completed(self, id: str, outcome: Outcome) -> Failure | None:
        raise AssertionError("a replay asked for a new verdict")

    def why_not_signalled(self, id: str, name: str, outcome: Outcome) -> Failure | None:
        raise AssertionError("a replay asked for a new verdict")

    def is_last_attempt(self, invocation: Invocation, error: BaseException) -> bool:
        raise AssertionError("a replay asked for a new verdict")


async def load(data_dir: Path, on_progress: OnProgress | None = None) -> Kernel:
    """What a data directory holds.  Raises JournalError, RecoveryFailed."""
    kernel = Kernel()
    async for lsn, data in read_offline(data_dir, on_progress=on_progress):
        try:
            kernel.apply(records.decode(data))
        except Exception as error:
            raise RecoveryFailed(f"record {lsn} of {data_dir} can't be applied ({error!r})") from error
    return kernel


def open_invocations(kernel: Kernel) -> Iterator[Invocation]:
    """Those that have done something and are not over, oldest first."""
    return (one for one in kernel.invocations.values() if not one.ended and one.last_turn)


def replay(
    kernel: Kernel,
    invocation: Invocation,
    registry: Registry,
    settings: Settings,
    on_divergence: OnDivergence | None = None,
) -> Replayed:
    """Runs all recorded turns of `invocation`.

    `on_divergence` is called in the line of the handler that asks for something else; where the difference shows only
    at the end of a turn (something is missing, a field is written otherwise) it is not.
    """
    turns = invocation.last_turn
    served = registry.handler(invocation.service, invocation.handler)
    if served is None:
        return Replayed(invocation.id, invocation.target, turns, served=False)
    execution = Execution(invocation, *served, _Recorded(kernel, registry, settings), settings)
    execution.on_divergence(on_divergence)
    divergence = None
    try:
        while execution.replaying and (delivery := execution.next_turn()) is not None:
            execution.replay(delivery)
    except (ReplayMismatch, InvalidArguments) as error:
        divergence = str(error)
    finally:
        patches = dict(execution.patches)
        execution.drop()
    return Replayed(invocation.id, invocation.target, turns, divergence, patches=patches)


def check(kernel: Kernel, registry: Registry, settings: Settings) -> list[Replayed]:
    """Every open invocation against the code at hand."""
    return [replay(kernel, invocation, registry, settings) for invocation in open_invocations(kernel)]


def patches_no_longer_needed(registry: Registry, replayed: list[Replayed]) -> list[str]:
    """The names of `ctx.patched(…)` for which no open invocation goes the old way: that branch may be removed."""
    needed = {name for one in replayed for name, new_way in one.patches.items() if not new_way}
    return sorted(_patches_in_source(registry) - needed)


def _patches_in_source(registry: Registry) -> set[str]:
    names: set[str] = set()
    for definition in registry.services.values():
        try:
            tree = ast.parse(textwrap.dedent(inspect.getsource(definition.cls)))
        except (OSError, SyntaxError, SystemError):  # the last one: CPython 3.11, if the collector runs meanwhile
            continue
        names.update(_patched_names(tree))
    return names


def _patched_names(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "patched":
            for argument in node.args:
                if isinstance(argument, ast.Constant) and isinstance(argument.value, str):
                    yield argument.value
