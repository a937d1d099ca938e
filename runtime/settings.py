"""Every limit of the process, each with its reason, and the file that may change them.

Nothing here is read from the clock, the environment or a global: a `Settings` is made once and handed down.
What stands in the journal never depends on a setting (`decide` takes the verdict and records it), so any of them may
change from one start to the next.
Units stand last in each name. What is part of the journal's format (a record is at most 16 MiB) is no setting.
"""

import dataclasses
import tomllib
from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta

from perdure.objects import RetryPolicy

from .exits import StartRefused

Count = Annotated[int, Meta(ge=1)]
Bytes = Annotated[int, Meta(ge=1)]
Seconds = Annotated[float, Meta(gt=0, le=10 * 365 * 86_400)]


class SettingsError(StartRefused):
    """The settings file can't be used; the line names the file and the key."""


class Settings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The limits of one process. The defaults are meant for production on a small machine."""

    # --- ingress: what a client may take from us -------------------------------------------------------------------

    body_bytes_max: Annotated[int, Meta(ge=1, le=12 * 1024 * 1024)] = 10 * 1024 * 1024
    """Largest request body, after decompression; more gets 413.
    An accepted body becomes part of one journal record (at most 16 MiB), beside its headers, and an awaited argument
    stands in the caller's record too: so well below it, and never more than 12 MiB."""

    header_timeout_seconds: Seconds = 10.0
    """From the connection's first byte of a request to the end of its headers. aiohttp has no such limit of its own:
    300 half-sent requests stayed open for as long as they were watched."""

    body_bytes_per_second_min: Bytes = 1024
    """A body that arrives more slowly than this is cut off with 408: a slow body costs its sender nothing and us a
    connection and its buffer."""

    body_grace_seconds: Seconds = 10.0
    """The rate is judged only after this long, so a short stall (a lost packet, a sleeping phone) is no attack."""

    response_timeout_seconds: Seconds = 30.0
    """A client that doesn't read what it asked for is cut off after this long without progress. The time a handler
    takes doesn't count."""

    keepalive_seconds: Seconds = 75.0
    """An idle connection is kept this long (aiohttp: about an hour). Longer than the 60 s after which common load
    balancers drop theirs, so that it is they who close first and no request meets a closing connection."""

    connections_max: Count = 4096
    """In total. Each costs a descriptor and some 20 KiB; the process raises its own limit of descriptors to fit."""

    connections_per_address_max: Count = 1024
    """From one address, so that one client can't take them all. High, since a reverse proxy is one address."""

    # --- one invocation: where a mistake in a handler stops ---------------------------------------------------------

    callbacks_max: Count = 100_000
    """Callbacks in one turn. `while True: await asyncio.sleep(0)` never blocks and would hold the process for ever;
    honest turns need a few hundred."""

    turn_commands_max: Count = 10_000
    """Calls, messages, timers and steps asked for in one turn: all of them become one record, which must fit."""

    invocation_entries_max: Count = 50_000
    """Recorded entries of one invocation. Each is replayed after a restart: at about 10 µs, half a second.
    The message says to start a successor (`self.next.send(…)`)."""

    invocation_bytes_max: Annotated[int, Meta(ge=1, le=512_000_000)] = 256_000_000
    """What one invocation may hold before it ends: results, signals and items that it was given, arguments that it
    passed on, values that it may have to put back. It is one row of the store, which can have a thousand million bytes
    and is written anew by each checkpoint that finds it changed. A signal beyond is refused, a step's result is a
    failure, and a turn is refused as one with too many entries is."""

    call_depth_max: Count = 1_000
    """Handlers waiting for handlers. Unbounded recursion is an error, and each level holds its key."""

    watchdog_seconds: Seconds = 0.1
    """A turn that runs longer has its stack logged: it blocks every other handler (a loop, `time.sleep`, a sort)."""

    step_grace_seconds: Annotated[float, Meta(ge=0, le=86_400)] = 10.0
    """A key passes on when the steps of its last holder have ended, or after this long: a cancelled step may still be
    talking to the outside on the key's behalf."""

    step_threads_max: Count = 64
    """Synchronous steps running at once. A thread costs some 100 KiB of touched stack; most steps only wait."""

    executions_max: Count = 1_000
    """Handlers kept in memory between their turns, the least recently driven dropped first. One costs some 8 KiB; one
    that was dropped is replayed when it is needed."""

    replay_always: bool = False
    """Run every handler from the start at every turn, to find non-determinism in development."""

    step_retry: RetryPolicy = RetryPolicy()
    """For steps that name no policy of their own: they never give up, because a step that fails for good is an
    outcome, and only its author can say that it may be one."""

    retry: RetryPolicy = RetryPolicy(max_attempts=20)
    """For invocations whose class and handler name no policy of their own. Twenty attempts are about a quarter of an
    hour: a restart of what the handler depends on is over by then, and a bug is paused with its key for an operator."""

    # --- all of them together: what the process can hold -------------------------------------------------------------

    mailbox_per_key_max: Count = 10_000
    """Queued for one key; more gets 429 with Retry-After, at the ingress only. One key works off a few thousand a
    second, so this is seconds of waiting."""

    mailbox_total_max: Count = 100_000
    """Queued in total, likewise. At 1 KiB of arguments, 100 MB."""

    running_handlers_max: Count | None = None
    """Handlers in a turn or with a step at work, of all classes; beyond, what is accepted waits to go on, each class in
    its turn. None: as many as there are. A class says `limits=Limits(running=…)` of itself."""

    running_steps_max: Count | None = None
    """Steps at work, likewise: `step_threads_max` holds back only the synchronous ones, and in their own order."""

    unsynced_bytes_max: Bytes = 32 * 1024 * 1024
    """With more than this not yet synced no turn is run. A disk that fell behind must slow us down, not fill memory;
    two records of the largest size must fit."""

    slice_turns_max: Count = 64
    """Turns run before the event loop gets its turn. A burst of ready handlers must not starve the ingress; each
    slice also ends in a hand-over to the journal, so it bounds the first one's latency (64 turns are about 4 ms).
    So many outcomes, too, are purged at once: fewer could not keep up with the turns that make them."""

    idempotency_retention_seconds: Seconds = 24 * 3600.0
    """An outcome is kept this long after its end, for clients that ask again with their idempotency key.
    A class that knows better says `retention=`; here stands what holds for the others, and for classes that are not
    served any more."""

    workflow_retention_seconds: Seconds = 30 * 24 * 3600.0
    """A workflow's outcome, state and promises are kept this long after its end; its id may be used again then.
    Much longer than an idempotency key lives: that a workflow runs once for its id is what its users count on."""

    retained_max: Count = 1_000_000
    """Outcomes kept for one class, whatever their age; the oldest go first.  On the disk some 500 bytes each.
    A workflow's runs count apart from what else its class keeps.  A class may say `retained_max=` itself; what is over
    is swept away every ten seconds, so there may be more for a moment."""

    # --- the store: what memory and a start cost ---------------------------------------------------------------------

    memory_bytes_max: Bytes = 20 * 1024 * 1024
    """What objects and waiting handlers that could leave memory may take of it, about. Beyond that the least recently
    used ones go; one lookup brings each back."""

    checkpoint_records_max: Count = 32_768
    """A checkpoint is made when the store is this many records behind: a start has to replay them, some 10 µs each."""

    checkpoint_changes_max: Count = 2_048
    """Or when this many objects and invocations have changed since, which can't leave memory until it is made."""

    # --- SQL: what one query may take ---------------------------------------------------------------------------------

    sql_seconds_max: Seconds = 10.0
    """A query that takes longer is ended with 504.  It reads the store as of one moment, and the store's WAL grows for
    as long; who needs more asks for less at a time."""

    sql_rows_max: Count = 100_000
    """More in an answer gets 413: a person reads fewer, and a program can ask page by page."""

    sql_answer_bytes_max: Bytes = 64 * 1024 * 1024
    """Likewise: the answer is held in memory until it is sent."""

    sql_memory_bytes_max: Bytes = 256 * 1024 * 1024
    """What SQLite may take to sort and group, in a process of its own; more gets 413."""

    sql_running_max: Count = 2
    """At a time; more gets 429. They give way to the serving process, but it has to take the processor back from
    them each time."""

    # --- the process -------------------------------------------------------------------------------------------------

    drain_grace_seconds: Annotated[float, Meta(ge=0, le=86_400)] = 8.0
    """After SIGTERM: for requests in flight and running steps. Less than the 10 s after which `docker stop` kills.
    What isn't done by then goes on after the next start."""


def load_settings(path: Path) -> Settings:
    """The settings of a TOML file; what it doesn't name keeps its default.

    Raises SettingsError: unreadable, not TOML, an unknown key, a value of the wrong type or out of range.
    """
    try:
        with path.open("rb") as file:
            table = tomllib.load(file)
        settings = msgspec.convert(table, Settings)
    except OSError as error:
        raise SettingsError(f"cannot read the settings file {path}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingsError(f"the settings file {path} is not TOML: {error}") from error
    except msgspec.ValidationError as error:
        raise SettingsError(f"settings file {path}: {error}") from error
    _refuse_unknown(table.get("retry", {}), path)
    return settings


def _refuse_unknown(retry: dict[str, object], path: Path) -> None:
    """RetryPolicy is a dataclass, of which msgspec would let unknown keys pass; a misspelt limit is no limit."""
    known = {field.name for field in dataclasses.fields(RetryPolicy)}
    for name in retry.keys() - known:
        raise SettingsError(f"settings file {path}: unknown field `{name}` - at `$.retry`")
