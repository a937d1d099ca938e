"""`perdure replay` and `perdure check`: what was recorded, run against the code at hand."""

import inspect
import pdb
import sys
from pathlib import Path

from rich.console import Console
from rich.table import Table

import perdure.objects as objects_room

from .exits import USAGE, StartRefused
from .offline import Replayed, check, loaded, not_begun_nor_served, open_invocations, patches_no_longer_needed, replay
from .settings import Settings
from .targets import load_targets

REFUSED = 1
_UNSERVED = "not served by these targets: it would wait until its class is served again"
_ROOMS = (Path(__file__).parent, Path(objects_room.__file__).parent)


class UnknownInvocation(StartRefused):
    """The data directory has no open invocation of that id."""

    exit_code = USAGE


def replay_one(target: str, id: str, data_dir: Path, *, debug: bool) -> int:
    """Prints where the invocation stands, or diverges; returns 1 if it does. Raises StartRefused, JournalError."""
    registry = load_targets((target,))
    with loaded(data_dir) as kernel:
        invocation = kernel.find(id)
        if invocation is None or invocation.ended:
            known = ", ".join(one.id for one, _ in zip(open_invocations(kernel), range(5), strict=False)) or "none"
            raise UnknownInvocation(f"{data_dir} has no open invocation {id}; some with recorded turns: {known}")
        replayed = replay(kernel, invocation, registry, Settings(), _debugger if debug else None)
    print(_line_of(replayed))
    return 0 if replayed.served and replayed.divergence is None else REFUSED


def check_all(targets: tuple[str, ...], data_dir: Path) -> int:
    """Prints a table of what would diverge, or wait for its class; returns 1 if anything would.

    Raises StartRefused, JournalError.
    """
    registry = load_targets(targets)
    with loaded(data_dir) as kernel:
        replayed = check(kernel, registry, Settings())
        not_begun = not_begun_nor_served(kernel, registry)
    diverging = [one for one in replayed if one.divergence is not None]
    unserved = [one for one in replayed if not one.served]
    if sys.stdout.isatty():
        _show_table(diverging, unserved)
    else:
        for one in (*diverging, *unserved):
            print(_line_of(one))
    for target, number in sorted(not_begun.items()):
        print(f"{target}: {_count(number, 'open invocation')} not begun yet; {_UNSERVED}")
    for name in patches_no_longer_needed(registry, replayed):
        print(f"patch {name!r}: no open invocation goes the old way; it may be removed")
    print(
        f"{_count(len(replayed), 'open invocation')} with recorded turns: "
        f"{len(diverging)} would diverge, {len(unserved)} are not served here"
    )
    return REFUSED if diverging or unserved or not_begun else 0


def _line_of(one: Replayed) -> str:
    if not one.served:
        return f"{one.id} {one.target}: {_UNSERVED}"
    if one.divergence is not None:
        return f"{one.id} {one.target}: diverges at {one.divergence}"
    return f"{one.id} {one.target}: {_count(one.turns, 'turn')} replayed as recorded"


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def _show_table(diverging: list[Replayed], unserved: list[Replayed]) -> None:
    if not diverging and not unserved:
        return
    table = Table("invocation", "target", "what")
    for one in diverging:
        table.add_row(one.id, one.target, one.divergence)
    for one in unserved:
        table.add_row(one.id, one.target, _UNSERVED)
    Console().print(table)


def _debugger(difference: str) -> None:
    """Stops in the handler's line: the frames above it are ours."""
    print(f"diverges: {difference}", file=sys.stderr)
    frame = inspect.currentframe()
    while frame is not None and _is_ours(frame.f_code.co_filename):
        frame = frame.f_back
    debugger = pdb.Pdb()
    debugger.reset()
    debugger.interaction(frame, None)  # set_trace() would stop in the next line of ours, under the handler's


def _is_ours(file: str) -> bool:
    return any(Path(file).is_relative_to(room) for room in _ROOMS)
