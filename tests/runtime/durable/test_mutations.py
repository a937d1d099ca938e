"""Changed code against the journal of what the old code did: found before it does anything, by the runtime and by
`perdure check`."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from itertools import count
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

import pytest

from perdure.journal import Log, LogOptions
from perdure.runtime import cli
from perdure.runtime.invocations import Status
from perdure.runtime.registry import Registry
from perdure.runtime.targets import load_targets
from tests.runtime.kept_journal import KeptJournal

if TYPE_CHECKING:
    from tests.runtime.durable.conftest import World

    Worlds = Callable[..., World]

SHOP = """
import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta

from perdure.objects import RetryPolicy, Service, TerminalError, VirtualObject, handler, step

EFFECTS: list[str] = []


def done(what: str) -> str:
    EFFECTS.append(what)
    return what


def reserve(item: str, pieces: int) -> str:
    return done(f"reserved {pieces} {item}")


async def charge(item: str, *, amount: int) -> str:
    return done(f"charged {amount} for {item}")


def pack(box: str) -> str:
    return done(f"packed {box}")


def label(box: str) -> str:
    return done(f"labelled {box}")


async def words(text: str) -> AsyncIterator[str]:
    for word in text.split():
        yield done(word)


def ship(item: str) -> str:
    return done(f"shipped {item}")


def thank(item: str) -> str:
    return done(f"thanked for {item}")


class Mail(Service):
    @handler
    async def post(self, text: str) -> None:
        await self.ctx.run(done, f"posted {text}")


class Shop(VirtualObject):
    stage: str = ""
    notes: list[str]
    link: str = ""
    drawn: int = -1
    count: int = 0

    @handler
    async def open(self) -> None:
        self.count = 5

    @handler
    async def order(self, item: str) -> str:
        self.stage = "reserving"
        reserved = await self.ctx.run(reserve, item, 2)
        self.stage = "charging"
        self.notes.append(await self.ctx.run(charge, item, amount=7))
        await self.ctx.sleep(60)
        packed, labelled = await asyncio.gather(self.ctx.run(pack, "box"), self.ctx.run(label, "box"))
        self.notes += [packed, labelled]
        async for word in self.ctx.stream(words, "gift wrap"):
            self.notes.append(word)
        approval = self.ctx.awakeable(str)
        self.link = approval.id
        self.ctx.ref(Mail).post.send("please approve")
        self.notes.append(await approval)
        self.notes.append(await self.ctx.signal("go", str))
        self.drawn = self.ctx.random.randrange(1_000_000)
        if self.count > 3:
            self.stage = "shipping"
            await self.ctx.run(ship, item)
        later = self.ctx.ref(Mail).post.send_after(timedelta(days=9), "late")
        async with asyncio.timeout(600):
            await asyncio.sleep(30)
        later.cancel()
        self.count += 1
        await self.ctx.sleep(3_600)
        await self.ctx.run(thank, item)
        return reserved
"""

MUTATIONS = {
    "a step was renamed": ("self.ctx.run(reserve,", 'self.ctx.run(step(reserve, name="book"),'),
    "another function is the step": ("self.ctx.run(ship, item)", "self.ctx.run(thank, item)"),
    "a step was added at the start": (
        'self.stage = "reserving"',
        'self.stage = "reserving"; await self.ctx.run(done, "new")',
    ),
    "a step was added in the middle": (
        'self.stage = "shipping"',
        'self.stage = "shipping"; await self.ctx.run(done, "new")',
    ),
    "a step was added beside others": (
        'self.ctx.run(label, "box"))',
        'self.ctx.run(label, "box"), self.ctx.run(done, "new")); labelled = labelled[0]',
    ),
    "a step was removed": ("await self.ctx.run(ship, item)", "pass"),
    "the first step was removed": ("reserved = await self.ctx.run(reserve, item, 2)", 'reserved = "none"'),
    "a step has other arguments": ("reserve, item, 2)", "reserve, item, 3)"),
    "a step has other named arguments": ("amount=7", "amount=8"),
    "a step's named argument stands by its place": (
        "self.ctx.run(charge, item, amount=7)",
        "self.ctx.run(reserve, item, 7)",
    ),
    "two steps in another order": (
        'self.ctx.run(pack, "box"), self.ctx.run(label, "box")',
        'self.ctx.run(label, "box"), self.ctx.run(pack, "box")',
    ),
    "steps one after the other": (
        'await asyncio.gather(self.ctx.run(pack, "box"), self.ctx.run(label, "box"))',
        '(await self.ctx.run(pack, "box"), await self.ctx.run(label, "box"))',
    ),
    "a step is called directly": ("reserved = await self.ctx.run(reserve, item, 2)", 'reserved = item + "s"'),
    "a step became a stream": (
        'packed, labelled = await asyncio.gather(self.ctx.run(pack, "box"), self.ctx.run(label, "box"))',
        'packed, labelled = [w async for w in self.ctx.stream(words, "packed labelled")]',
    ),
    "a stream has another text": ('words, "gift wrap"', 'words, "no wrap"'),
    "a stream was removed": (
        'async for word in self.ctx.stream(words, "gift wrap"):\n            self.notes.append(word)',
        'self.notes += ["gift", "wrap"]',
    ),
    "a stream is left early": ("self.notes.append(word)", "self.notes.append(word); break"),
    "a stream's items are used otherwise": ("self.notes.append(word)", "self.notes.append(word.upper())"),
    "a longer sleep": ("self.ctx.sleep(60)", "self.ctx.sleep(61)"),
    "no sleep": ("await self.ctx.sleep(60)", "pass"),
    "a sleep was added": ("self.count += 1", "self.count += 1; await asyncio.sleep(1)"),
    "the timeout was removed": ("async with asyncio.timeout(600):", "if True:"),
    "another timeout": ("asyncio.timeout(600)", "asyncio.timeout(700)"),
    "an awakeable was dropped": (
        "approval = self.ctx.awakeable(str)\n        self.link = approval.id",
        "approval = asyncio.get_running_loop().create_future()",
    ),
    "an awakeable was added": (
        "approval = self.ctx.awakeable(str)",
        "self.ctx.awakeable(str); approval = self.ctx.awakeable(str)",
    ),
    "the awakeable is not awaited": ("await approval", '"approved"'),
    "another signal": ('self.ctx.signal("go", str)', 'self.ctx.signal("went", str)'),
    "the signal comes first": (
        'self.notes.append(await approval)\n        self.notes.append(await self.ctx.signal("go", str))',
        'self.notes.append(await self.ctx.signal("go", str))\n        self.notes.append(await approval)',
    ),
    "a message was added": ('self.stage = "charging"', 'self.ctx.ref(Mail).post.send("new"); self.stage = "charging"'),
    "a message was dropped": ('self.ctx.ref(Mail).post.send("please approve")', "pass"),
    "another message": ('"please approve"', '"kindly approve"'),
    "a message is sent later": ("timedelta(days=9)", "timedelta(days=10)"),
    "a message is not cancelled": ("later.cancel()", "pass"),
    "a call instead of a message": (
        'self.ctx.ref(Mail).post.send("please approve")',
        'await self.ctx.ref(Mail).post("please approve")',
    ),
    "another branch": ("if self.count > 3:", "if self.count > 30:"),
    "another value in the state": ('self.stage = "shipping"', 'self.stage = "sending"'),
    "a write was added": ("self.count += 1", "self.count += 1; self.drawn += 1"),
    "a write was dropped": ("self.link = approval.id", "pass"),
    "the state has another type": ("count: int = 0", 'count: str = "0"'),
    "a list in the state became a dict": ("notes: list[str]", "notes: dict[str, str]"),
    "a list is written in another order": ("[packed, labelled]", "[labelled, packed]"),
    "the arguments have another type": ("async def order(self, item: str)", "async def order(self, item: int)"),
    "chance is asked once more": ("self.drawn = self", "self.ctx.random.random(); self.drawn = self"),
    "chance of the process": ("self.ctx.random.randrange(1_000_000)", "id(object()) % 1_000_000 + 1_000_000"),
    "a patch without a look at it": ("reserve, item, 2)", 'reserve, item, 2 + (not self.ctx.patched("new")))'),
    "a patch the wrong way round": (
        'self.stage = "charging"',
        'self.stage = "charging"\n        if not self.ctx.patched("new"): await self.ctx.run(done, "new")',
    ),
    "it ends early": ('self.stage = "charging"', 'return "early"'),
    "it raises a terminal error": ('self.stage = "charging"', 'raise TerminalError("no")'),
    "it has a new bug": ('self.stage = "charging"', "self.notes[9]"),
    "a new saga undoes": (
        "self.drawn = self.ctx.random.randrange(1_000_000)",
        'async with self.ctx.saga() as saga:\n            saga.undo(done, "undone"); raise TerminalError("x")',
    ),
}
numbers = count(1)


def module_of(directory: Path, source: str) -> tuple[ModuleType, Registry, Path]:
    """The source as a file of its own, so that it is read as people's code is."""
    name = f"shop_{next(numbers)}"
    file = directory / f"{name}.py"
    file.write_text(source)
    registry = load_targets([str(file)])
    return sys.modules[registry.services["Shop"].cls.__module__], registry, file


def classes_of(registry: Registry) -> list[type]:
    return [service.cls for service in registry.services.values()]


def mutated(name: str) -> str:
    was, now = MUTATIONS[name]
    assert SHOP.count(was) == 1, f"{SHOP.count(was)} times: {was}"
    return SHOP.replace(was, now)


async def orders(worlds: Worlds, directory: Path, source: str = SHOP) -> tuple[World, str]:
    """Its journal has all turns of an order but the last, which sleeps."""
    module, registry, _ = module_of(directory, source)
    world = await worlds(*classes_of(registry)).start()
    shop = world.ref(registry.services["Shop"].cls, "s")
    await world.call(shop.open())
    id = await world.send(shop.order, "lamp")
    await world.advance(61)
    link = world.runtime.engine.kernel.entry("Shop", "s")
    assert link is not None
    await world.runtime.resolve_awakeable(link.fields["link"].decode().strip('"'), "approved")
    await world.runtime.engine.operations.resolve_signal(id, "go", b'"went"')
    await world.advance(120)
    assert world.invocation(id).last_turn >= 10, world.view(id)
    assert "shipped lamp" in module.EFFECTS
    assert "thanked for lamp" not in module.EFFECTS
    return world, id


@pytest.fixture
async def recorded(worlds: Worlds, tmp_path: Path) -> tuple[World, str]:
    return await orders(worlds, tmp_path)


def data_dir_of(world: World, directory: Path) -> Path:
    log = Log.open(directory, options=LogOptions(segment_bytes=1024 * 1024, spare_segments=0))
    for data in world.journal.records:
        log.reserve(len(data))
        log.append(data)
    log.close()
    return directory


async def run(arguments: list[str]) -> int:
    """As from the shell: beside the loop of the test."""
    return await asyncio.to_thread(cli.run, arguments)


def test_there_are_forty_mutations() -> None:
    assert len(MUTATIONS) >= 40


@pytest.mark.parametrize("name", MUTATIONS)
async def test_changed_code_is_stopped_before_it_does_anything(
    recorded: tuple[World, str], tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    """`perdure check` says so before, with exit code 1; the runtime pauses it with a message that names both sides."""
    world, id = recorded
    module, registry, file = module_of(tmp_path, mutated(name))

    assert await run(["check", str(file), "--data-dir", str(data_dir_of(world, tmp_path / "data"))]) == 1
    said = capsys.readouterr().out
    assert id in said
    assert "1 would diverge" in said

    before = dict(world.fields("Shop", "s"))
    count = len(world.journal.records)
    await world.restart(classes=classes_of(registry))
    await world.advance(4_000)

    invocation = world.invocation(id)
    assert invocation.status is Status.PAUSED
    assert invocation.last_failure is not None
    message = invocation.last_failure.message
    if invocation.last_failure.type == "ReplayMismatch":
        assert "the journal" in message
        assert "the code now" in message
        assert "Shop/s/order" in message
    else:
        assert invocation.last_failure.type in ("InvalidArguments", "UnreadableState")
    assert module.EFFECTS == []
    assert world.fields("Shop", "s") == before
    assert set(world.kinds()[count:]) <= {"Notified", "Paused"}


async def test_unchanged_code_goes_on(
    recorded: tuple[World, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Or the test above would prove nothing: exit code 0, and it ends with its one new effect."""
    world, id = recorded
    module, registry, file = module_of(tmp_path, SHOP.replace("self.count += 1", "self.count = self.count + 1"))

    assert await run(["check", str(file), "--data-dir", str(data_dir_of(world, tmp_path / "data"))]) == 0
    assert "1 open invocation with recorded turns: 0 would diverge" in capsys.readouterr().out

    await world.restart(classes=classes_of(registry))
    await world.advance(4_000)

    assert await world.result(id) == "reserved 2 lamp"
    assert module.EFFECTS == ["thanked for lamp"]


@pytest.mark.parametrize("kept", range(0, 40, 3))
async def test_any_prefix_of_the_journal_is_checked(recorded: tuple[World, str], tmp_path: Path, kept: int) -> None:
    """Wherever the old process stopped: unchanged code is never said to diverge."""
    world, _ = recorded
    world.journal = KeptJournal(world.journal.records[: kept + 1])
    _, _, file = module_of(tmp_path, SHOP)

    assert await run(["check", str(file), "--data-dir", str(data_dir_of(world, tmp_path / "data"))]) == 0


# --- patches --------------------------------------------------------------------------------------------------------


PATCHED = SHOP.replace(
    'self.stage = "shipping"',
    'self.stage = "shipping"\n            if self.ctx.patched("insure"): await self.ctx.run(done, "insured")',
)


async def test_a_patch_lets_old_invocations_go_the_old_way_and_new_ones_the_new(
    recorded: tuple[World, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """`perdure check` says when no open invocation goes the old way any more."""
    world, id = recorded
    module, registry, file = module_of(tmp_path, PATCHED)
    check = ["check", str(file), "--data-dir"]

    assert await run([*check, str(data_dir_of(world, tmp_path / "old"))]) == 0
    assert "may be removed" not in capsys.readouterr().out
    await world.restart(classes=classes_of(registry))
    await world.advance(4_000)
    assert await world.result(id) == "reserved 2 lamp"
    assert "insured" not in module.EFFECTS

    assert await run([*check, str(data_dir_of(world, tmp_path / "ended"))]) == 0
    assert "patch 'insure': no open invocation goes the old way; it may be removed" in capsys.readouterr().out


async def test_a_patch_is_kept_to_by_every_replay(worlds: Worlds, tmp_path: Path) -> None:
    """What a new invocation went through with the patch, it goes through again; without the patch it diverges."""
    world, id = await orders(worlds, tmp_path, PATCHED)
    module, registry, file = module_of(tmp_path, PATCHED)
    data = str(data_dir_of(world, tmp_path / "data"))

    assert await run(["check", str(file), "--data-dir", data]) == 0
    assert await run(["check", str(module_of(tmp_path, SHOP)[2]), "--data-dir", data]) == 1

    await world.restart(classes=classes_of(registry))
    await world.advance(4_000)
    assert await world.result(id) == "reserved 2 lamp"
    assert module.EFFECTS == ["thanked for lamp"]
