"""`perdure replay` and `perdure check`: what is printed, what is written (nothing), and the exit codes."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path

import pytest

from perdure.runtime import Runtime, cli
from perdure.runtime.hash_seed import FILE
from perdure.runtime.targets import load_targets

SHOP = """
from perdure.objects import VirtualObject, handler, shared


def charge(amount: int) -> int:
    return amount


class Shop(VirtualObject):
    total: int = 0

    @handler
    async def buy(self, amount: int) -> int:
        self.total += await self.ctx.run(charge, amount)
        await self.ctx.sleep(3_600)
        return self.total

    @shared
    async def look(self) -> int:
        await self.ctx.sleep(1)
        return self.total
"""
CHANGED = SHOP.replace("charge, amount)", "charge, amount + 1)")
OTHER = SHOP.replace("class Shop", "class Stall")


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    return tmp_path / "data"


@pytest.fixture
def id(tmp_path: Path, data_dir: Path) -> str:
    """Of an order that sleeps, in `data_dir`."""
    shop = load_targets([written(tmp_path, "recorded", SHOP)]).services["Shop"].cls

    async def order() -> str:
        async with Runtime([shop], data_dir=data_dir) as runtime:
            handle = await runtime.send(runtime.ref(shop, "a").buy, 5)  # pyright: ignore[reportUnknownMemberType, reportAttributeAccessIssue]
            await runtime.engine.settled()
            return handle.id

    return asyncio.run(order())


def written(directory: Path, name: str, source: str) -> str:
    file = directory / f"replay_{name}_{directory.name}.py"
    file.write_text(source)
    return str(file)


def content_of(directory: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in sorted(directory.iterdir())}


def test_check_of_unchanged_code_is_quiet_and_exits_with_0(
    tmp_path: Path, data_dir: Path, id: str, capsys: pytest.CaptureFixture[str]
) -> None:
    before = content_of(data_dir)

    assert cli.run(["check", written(tmp_path, "same", SHOP), "--data-dir", str(data_dir)]) == 0

    out, err = capsys.readouterr()
    assert out == "1 open invocation with recorded turns: 0 would diverge, 0 are not served here\n"
    assert err == ""
    assert content_of(data_dir) == before


def test_check_names_what_would_diverge_and_exits_with_1(
    tmp_path: Path, data_dir: Path, id: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """The invocation, the turn, and both sides."""
    before = content_of(data_dir)

    assert cli.run(["check", written(tmp_path, "changed", CHANGED), "--data-dir", str(data_dir)]) == 1

    first, last = capsys.readouterr().out.splitlines()
    assert first == (
        f"{id} Shop/a/buy: diverges at turn 1 of Shop/a/buy: "
        'the journal has Run {"name": "charge", "arguments": [[5]]}, '
        'the code now does Run {"name": "charge", "arguments": [[6]]}'
    )
    assert last == "1 open invocation with recorded turns: 1 would diverge, 0 are not served here"
    assert content_of(data_dir) == before


def test_check_names_what_is_not_served_and_exits_with_1(
    tmp_path: Path, data_dir: Path, id: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """A class that was renamed, or a target that was forgotten: nothing of it would go on after the deploy."""
    assert cli.run(["check", written(tmp_path, "other", OTHER), "--data-dir", str(data_dir)]) == 1

    first, last = capsys.readouterr().out.splitlines()
    assert first == (f"{id} Shop/a/buy: not served by these targets: it would wait until its class is served again")
    assert last == "1 open invocation with recorded turns: 0 would diverge, 1 are not served here"


def test_check_counts_what_has_not_begun_and_is_not_served(
    tmp_path: Path, data_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A message that is due later has no turns, and is no less lost."""
    shop = load_targets([written(tmp_path, "recorded", SHOP)]).services["Shop"].cls

    async def order_later() -> None:
        async with Runtime([shop], data_dir=data_dir) as runtime:
            await runtime.send_after(3600, runtime.ref(shop, "a").buy, 5)  # pyright: ignore[reportUnknownMemberType, reportAttributeAccessIssue]

    asyncio.run(order_later())

    assert cli.run(["check", written(tmp_path, "same", SHOP), "--data-dir", str(data_dir)]) == 0
    capsys.readouterr()
    assert cli.run(["check", written(tmp_path, "other", OTHER), "--data-dir", str(data_dir)]) == 1

    first, last = capsys.readouterr().out.splitlines()
    assert first.startswith("Shop/buy: 1 open invocation not begun yet; not served by these targets")
    assert last == "0 open invocations with recorded turns: 0 would diverge, 0 are not served here"


def test_replay_says_how_far_it_gets(
    tmp_path: Path, data_dir: Path, id: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.run(["replay", written(tmp_path, "same", SHOP), id, "--data-dir", str(data_dir)]) == 0
    assert capsys.readouterr().out == f"{id} Shop/a/buy: 2 turns replayed as recorded\n"

    assert cli.run(["replay", written(tmp_path, "changed", CHANGED), id, "--data-dir", str(data_dir)]) == 1
    assert "diverges at turn 1" in capsys.readouterr().out


def test_replay_of_what_is_not_served_exits_with_1(
    tmp_path: Path, data_dir: Path, id: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.run(["replay", written(tmp_path, "other", OTHER), id, "--data-dir", str(data_dir)]) == 1
    assert "not served by these targets" in capsys.readouterr().out


def test_replay_of_an_unknown_invocation_names_the_open_ones(
    tmp_path: Path, data_dir: Path, id: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.run(["replay", written(tmp_path, "same", SHOP), "inv_x", "--data-dir", str(data_dir)]) == 2

    out, err = capsys.readouterr()
    assert out == ""
    assert err == f"perdure: {data_dir} has no open invocation inv_x; some with recorded turns: {id}\n"


@pytest.mark.parametrize("command", [["check", "TARGET"], ["replay", "TARGET", "inv_x"]])
def test_a_directory_without_a_journal_is_one_line(
    tmp_path: Path, command: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """And none is made."""
    target = written(tmp_path, "same", SHOP)
    arguments = [target if word == "TARGET" else word for word in command]

    assert cli.run([*arguments, "--data-dir", str(tmp_path / "missing")]) == 2

    err = capsys.readouterr().err
    assert err.startswith("perdure: ")
    assert err.count("\n") == 1
    assert not (tmp_path / "missing").exists()


def test_a_damaged_journal_exits_with_12(
    tmp_path: Path, data_dir: Path, id: str, capsys: pytest.CaptureFixture[str]
) -> None:
    segment = max(data_dir.iterdir(), key=lambda file: file.read_bytes().count(b"charge"))
    content = bytearray(segment.read_bytes())
    content[content.index(b"charge")] ^= 1
    segment.write_bytes(content)

    assert cli.run(["check", written(tmp_path, "same", SHOP), "--data-dir", str(data_dir)]) == 12
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize("command", ["check", "replay"])
def test_a_command_explains_itself_with_an_example(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run([command, "--help"]) == 0

    out = capsys.readouterr().out
    assert f"Example: perdure {command} " in out
    assert "Exit code" in out
    assert "--data-dir" in out


@pytest.mark.parametrize("arguments", [["check"], ["replay", "x.py"], ["replay", "x.py", "inv_x", "more"]])
def test_a_wrong_command_line_exits_with_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(arguments) == 2
    assert capsys.readouterr().err.startswith("perdure: ")


def test_pdb_stops_in_the_line_of_the_handler(tmp_path: Path, data_dir: Path, id: str) -> None:
    """With the handler's own names at hand, and what the journal has on stderr."""
    target = written(tmp_path, "changed", CHANGED)

    done = subprocess.run(
        [sys.executable, "-m", "perdure.runtime", "replay", target, id, "--data-dir", str(data_dir), "--pdb"],
        input="p self.key, amount, self.total\nlist\nc\n",
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert done.returncode == 1
    assert "('a', 5, 0)" in done.stdout
    assert "->" in done.stdout
    assert "charge, amount + 1" in done.stdout
    assert "diverges: the journal has Run {" in done.stderr


def test_it_runs_under_the_hash_seed_of_the_directory(tmp_path: Path, data_dir: Path, id: str) -> None:
    """Sets of strings iterate as they did when the journal was written."""
    (data_dir / FILE).write_text("12345\n")
    target = written(tmp_path, "seed", "import sys\nprint(sys.flags.hash_randomization, hash('x'))\n" + SHOP)

    said = {
        subprocess.run(
            [sys.executable, "-m", "perdure.runtime", "check", target, "--data-dir", str(data_dir)],
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        ).stdout
        for _ in range(2)
    }

    assert len(said) == 1
