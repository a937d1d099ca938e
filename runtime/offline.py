"""Recorded invocations against the code at hand, without effects: `perdure replay` and `perdure check`.

Journal and store are read without their locks, also beside a running process, and nothing is written there.  A replay
runs no step and sends nothing, so any invocation may be tried against any code.
"""

from __future__ import annotations

import ast
import asyncio
import inspect
import shutil
import textwrap
from collections import Counter
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from msgspec import Struct

from perdure.journal import OnProgress, read_offline
from perdure.objects.errors import Failure, InvalidArguments, ReplayMismatch

from . import records, rows
from .data_dir import STORE_FILE
from .execution import Execution, TurnRefused
from .invocations import Invocation
from .kernel import Kernel
from .records import Outcome
from .recovery import RecoveryFailed
from .registry import Registry
from .settings import Settings
from .store import Store, copy_store, uuid_of

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


@contextmanager
def loaded(data_dir: Path, on_progress: OnProgress | None = None) -> Generator[Kernel]:
    """What a data directory holds: a copy of its store, and the records after that.

    Raises JournalError, StoreError, RecoveryFailed.
    """
    with TemporaryDirectory(prefix="perdure-") as scratch:
        store = _copy_of_store(data_dir, Path(scratch))
        try:
            kernel = Kernel(store)
            if store is not None and store.summary:
                kernel.counts = rows.unpack_counts(store.summary)
            asyncio.run(_apply(kernel, data_dir, 1 if store is None else store.lsn + 1, on_progress))
            yield kernel
        finally:
            if store is not None:
                store.close()


def _copy_of_store(data_dir: Path, scratch: Path) -> Store | None:
    path, copy = data_dir / STORE_FILE, scratch / STORE_FILE
    if not path.exists():
        return None
    if path.with_name(f"{path.name}-wal").exists():
        copy_store(path, copy)
    else:  # nobody has it open, and to open it would leave files behind
        shutil.copyfile(path, copy)
    return Store.open(copy, uuid_of(copy))


async def _apply(kernel: Kernel, data_dir: Path, begin: int, on_progress: OnProgress | None) -> None:
    expected = begin
    async for lsn, data in read_offline(data_dir, begin, on_progress=on_progress):
        if lsn != expected:
            raise RecoveryFailed(
                f"{data_dir}: records {expected} to {lsn - 1} are neither in the store nor in the journal; "
                "if a process is at work there, try again"
            )
        expected += 1
        try:
            kernel.apply(records.decode(data))
        except Exception as error:
            raise RecoveryFailed(f"record {lsn} of {data_dir} can't be applied ({error!r})") from error


def open_invocations(kernel: Kernel) -> Iterator[Invocation]:
    """Those that have done something and are not over, oldest first."""
    begun = (one for one in _not_ended(kernel) if one.last_turn)
    return iter(sorted(begun, key=lambda one: one.created_at))


def not_begun_nor_served(kernel: Kernel, registry: Registry) -> Counter[str]:
    """How many wait to begin, by Class/handler, that the code at hand does not have."""
    return Counter(
        f"{one.service}/{one.handler}"
        for one in _not_ended(kernel)
        if not one.last_turn and registry.handler(one.service, one.handler) is None
    )


def _not_ended(kernel: Kernel) -> Iterator[Invocation]:
    there = [one.id for one in kernel.memory.stored_invocations() if not one.ended]
    found = (kernel.find(id) for id in {**dict.fromkeys(there), **kernel.invocations})
    return (one for one in found if one is not None and not one.ended)


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
    except (ReplayMismatch, InvalidArguments, TurnRefused) as error:
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
