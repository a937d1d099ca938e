"""One order: in each run, under each hash seed, on each Python."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any, Literal, cast

import pytest

from perdure.runtime.ordered_sets import OrderedSet
from perdure.runtime.turn_loop import TurnLoop

Drive = Any
Driven = Any

ROOT = Path(__file__).parents[3]
PROGRAM = Path(__file__).with_name("reference_program.py")
MINORS = ["3.11", "3.12", "3.13"]
SEEDS = [0, 4_000_000_000]


@cache
def traces(python: str, seed: int) -> dict[str, str]:
    """What the reference program prints: `common` and `minor`."""
    environment = {**os.environ, "PYTHONHASHSEED": str(seed)}
    run = subprocess.run(
        [python, str(PROGRAM)], env=environment, capture_output=True, text=True, timeout=60, check=True
    )
    return json.loads(run.stdout)  # type: ignore[no-any-return]


@cache
def pythons() -> dict[str, str]:
    """Interpreters that have Perdure's dependencies, by minor version: this one, the repository's, those on PATH."""
    on_path = [path for minor in MINORS if (path := shutil.which(f"python{minor}"))]
    candidates = [sys.executable, *map(str, sorted(ROOT.glob(".venv*/bin/python"))), *on_path]
    tell = (
        "import sys, importlib.util as u; print('%d.%d' % sys.version_info[:2]); "
        "sys.exit(not all(map(u.find_spec, ['perdure.runtime', 'structlog', 'msgspec', 'aiohttp'])))"
    )
    found: dict[str, str] = {}
    for python in candidates:
        run = subprocess.run([python, "-c", tell], capture_output=True, text=True, timeout=60, check=False)
        if run.returncode == 0:
            found.setdefault(run.stdout.strip(), python)
    return found


@pytest.mark.parametrize("minor", MINORS)
@pytest.mark.parametrize("seed", SEEDS)
def test_every_python_sees_one_order(minor: str, seed: int) -> None:
    """Sets of tasks, of futures and of gathers, groups, waits, timers and locks: the same trace everywhere."""
    if minor not in pythons():
        pytest.skip(f"no Python {minor} with Perdure's dependencies was found beside this one")
    assert traces(pythons()[minor], seed)["common"] == traces(sys.executable, SEEDS[0])["common"]


@pytest.mark.parametrize("minor", MINORS)
def test_wait_for_has_one_order_on_each_python(minor: str) -> None:
    """Its order may differ between minor versions, which is why a journal names the one that wrote it."""
    if minor not in pythons():
        pytest.skip(f"no Python {minor} with Perdure's dependencies was found beside this one")
    assert len({traces(pythons()[minor], seed)["minor"] for seed in SEEDS}) == 1


def test_hashes_come_from_the_identity_and_the_number(drive: Drive) -> None:
    """Two runs of one handler have equal hashes, two handlers don't."""

    async def handler(driven: Driven) -> None:
        driven.trace = [
            hash(asyncio.current_task()),
            hash(driven.loop.create_future()),
            hash(driven.loop.create_future()),
        ]

    first, again, other = drive(handler), drive(handler), drive(handler, identity=2)

    assert first.trace == again.trace
    assert not set(first.trace) & set(other.trace)
    assert len(set(first.trace)) == 3


@pytest.mark.parametrize("byteorder", ["big", "little"])
def test_hashes_of_many_handlers_are_spread(byteorder: Literal["big", "little"]) -> None:
    """asyncio keeps the tasks of all suspended handlers in one table: look-alike ids must not collide in it."""
    hashes = [TurnLoop(int.from_bytes(i.to_bytes(7, byteorder)), None).next_hash() for i in range(20_000)]  # type: ignore[arg-type]

    assert len(set(hashes)) == 20_000
    for bits in (12, 16, 20):
        assert len({value & ((1 << bits) - 1) for value in hashes}) > 0.6 * min(1 << bits, 20_000)


def test_asyncios_own_sets_keep_their_order_in_a_turn(drive: Drive) -> None:
    """What `wait` returns iterates and pops in the order of the tasks that were passed."""

    async def handler(driven: Driven) -> None:
        tasks = [asyncio.create_task(asyncio.sleep(0, index)) for index in range(40)]
        done, _ = await asyncio.wait(tasks)
        driven.trace += [task.result() for task in done]
        driven.trace.append(done.pop().result())

    assert drive(handler).trace == [*range(40), 0]


def test_other_users_of_asyncio_get_builtin_sets() -> None:
    """Outside of a turn nothing is different."""

    async def main() -> None:
        tasks = [asyncio.create_task(asyncio.sleep(0)) for _ in range(3)]
        done, pending = await asyncio.wait(tasks)
        gathered = asyncio.gather(*tasks)
        assert type(done) is type(pending) is set
        assert type(asyncio.TaskGroup()._tasks) is set
        assert type(gathered).__module__ == "asyncio.tasks"
        assert asyncio.all_tasks() == {asyncio.current_task()}
        await gathered

    asyncio.run(main())


def test_other_users_of_asyncio_can_run_and_chain() -> None:
    """`asyncio.run` in a running loop, and futures of threads, answer as they always did."""

    async def main() -> None:
        assert await asyncio.to_thread(lambda: 5) == 5
        coroutine = main()
        with pytest.raises(RuntimeError, match=r"^asyncio.run\(\) cannot be called from a running event loop$"):
            asyncio.run(coroutine)
        coroutine.close()

    asyncio.run(main())


def test_all_tasks_knows_only_the_handlers(drive: Drive) -> None:
    """A handler must not see what else runs in the process, as a replay would not."""

    async def handler(driven: Driven) -> None:
        driven.trace.append(asyncio.all_tasks())
        await driven.wait("a")

    other = drive(handler)
    driven = drive(handler)

    assert driven.trace == [{driven.main}]
    assert other.trace == [{other.main}]


async def _makes_scattered_tasks(driven: Driven) -> None:
    """With futures between them the hashes of the tasks collide in small tables."""
    for number in range(12):
        task = asyncio.create_task(asyncio.Event().wait(), name=str(number))
        driven.trace.append(task)
        for _ in range(31):
            driven.loop.create_future()
    await asyncio.sleep(0)
    driven.order = [task.get_name() for task in asyncio.all_tasks()]


def test_the_order_of_all_tasks_does_not_depend_on_other_handlers(drive: Drive) -> None:
    """They share a WeakSet, whose order does; a replay has other neighbours."""
    identities = range(60)
    alone = [drive(_makes_scattered_tasks, identity=identity) for identity in identities]
    orders = [driven.order for driven in alone]
    for driven in alone[:55]:
        driven.loop.drop()

    assert [drive(_makes_scattered_tasks, identity=identity).order for identity in identities] == orders


def test_a_task_group_cancels_in_the_order_of_creation(drive: Drive) -> None:
    """Not in the order of hashes, which is as good in a replay, but surprises people."""

    async def child(driven: Driven, name: int) -> None:
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            driven.trace.append(name)

    async def handler(driven: Driven) -> None:
        async with asyncio.TaskGroup() as group:
            for number in range(12):
                group.create_task(child(driven, number))
                for _ in range(37 * number % 101):
                    driven.loop.create_future()
            await asyncio.sleep(0)
            raise ValueError

    assert drive(handler).trace == list(range(12))


def test_an_ordered_set_is_a_set() -> None:
    """Each way to change it keeps both halves alike."""
    ordered = OrderedSet("cab")
    ordered.add("d")
    ordered.update("ex")
    ordered.discard("x")
    ordered.discard("x")
    ordered.remove("a")
    ordered |= {"f"}
    ordered -= {"e"}
    assert list(ordered) == ["c", "b", "d", "f"]
    assert ordered == {"c", "b", "d", "f"}
    assert list(reversed(ordered)) == ["f", "d", "b", "c"]
    ordered &= {"c", "d", "z"}
    ordered ^= {"d", "q"}
    assert list(ordered) == list(ordered.copy()) == ["c", "q"]
    ordered.difference_update("c")
    ordered.intersection_update("q")
    assert ordered.pop() == "q"
    with pytest.raises(KeyError):
        ordered.pop()
    with pytest.raises(KeyError):
        ordered.remove("nothing")
    assert ordered.__ior__(cast("set[str]", ["x"])) is NotImplemented
    ordered.add("y")
    ordered.clear()
    assert not ordered
    assert list(ordered) == []
