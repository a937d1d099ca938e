"""The hash seed: drawn once, kept beside the journal, the same at every start."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from perdure.runtime import hash_seed
from perdure.runtime.hash_seed import HashSeedError

# A process as `perdure serve` begins: settle the seed, then do what depends on it.
PROGRAM = """
import os, sys
from pathlib import Path
from perdure.runtime import hash_seed
directory = Path(sys.argv[1])
try:
    seed = hash_seed.settle(directory)
    if "keep" in sys.argv:
        directory.mkdir(exist_ok=True)
        hash_seed.keep(directory, seed)
except hash_seed.HashSeedError as error:
    sys.exit(f"{error.exit_code}: {error}")
print(seed, hash("perdure"), os.getpid(), os.environ.get("PYTHONHASHSEED"), os.environ.get(hash_seed.MARK))
"""


def run(directory: Path, *arguments: str, options: tuple[str, ...] = (), **environment: str) -> list[str]:
    clean = {name: value for name, value in os.environ.items() if name != "PYTHONHASHSEED"}
    process = subprocess.run(
        [sys.executable, *options, "-c", PROGRAM, str(directory), *arguments],
        env=clean | environment,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    return process.stdout.split() or [process.stderr]


def test_every_start_of_a_directory_hashes_alike(tmp_path: Path) -> None:
    """The second process finds the first one's seed, whatever its environment asks for."""
    seed, order, *_ = run(tmp_path, "keep")

    assert (tmp_path / "hash-seed").read_text() == f"{seed}\n"
    assert run(tmp_path, "keep")[:2] == [seed, order]
    assert run(tmp_path, "keep", PYTHONHASHSEED="0")[:2] == [seed, order]
    assert run(tmp_path, "keep", PYTHONHASHSEED="random")[:2] == [seed, order]
    assert run(tmp_path, "keep", PYTHONHASHSEED=seed)[:2] == [seed, order]


def test_each_directory_has_a_seed_of_its_own(tmp_path: Path) -> None:
    """It is drawn, not derived, and not taken from the environment: who knows it can make keys that collide."""
    one, two = run(tmp_path / "one", PYTHONHASHSEED="5"), run(tmp_path / "two", PYTHONHASHSEED="5")

    assert one[0] != two[0]
    assert "5" not in (one[0], two[0])
    assert one[1] != two[1]


def test_settling_touches_nothing(tmp_path: Path) -> None:
    """A start that is refused later leaves no directory behind."""
    run(tmp_path / "new")

    assert list(tmp_path.iterdir()) == []


def test_the_programs_that_steps_start_get_no_seed(tmp_path: Path) -> None:
    """Neither the variable nor its mark stays in the environment."""
    assert run(tmp_path)[3:] == ["None", "None"]


def test_only_the_owner_may_read_it(tmp_path: Path) -> None:
    """It is a secret of sorts."""
    hash_seed.keep(tmp_path, 7)

    assert (tmp_path / "hash-seed").stat().st_mode & 0o777 == 0o600
    assert [file.name for file in tmp_path.iterdir()] == ["hash-seed"]


@pytest.mark.parametrize("option", ["-E", "-I"])
def test_an_interpreter_that_ignores_the_variable_is_refused(tmp_path: Path, option: str) -> None:
    """Rather than re-executed for ever, or run under another seed than the one that was kept."""
    (text,) = run(tmp_path, options=(option,))

    assert text.startswith("2: python -E and -I ignore PYTHONHASHSEED")


@pytest.mark.parametrize("content", ["", "x", "0", "-1", "4294967296", "1" * 5000, "1.5", "\xff"])
def test_a_damaged_seed_is_refused(tmp_path: Path, content: str) -> None:
    """With the file's name and what to do, not guessed."""
    (tmp_path / "hash-seed").write_text(content, "latin-1")

    with pytest.raises(HashSeedError, match=r"hash-seed is damaged: .* Restore") as caught:
        hash_seed.read(tmp_path)

    assert caught.value.exit_code == 12


def test_two_that_began_at_once_do_not_both_win(tmp_path: Path) -> None:
    """The first under the lock keeps its seed; the other one starts again, under it."""
    hash_seed.keep(tmp_path, 7)

    with pytest.raises(HashSeedError, match="start again") as caught:
        hash_seed.keep(tmp_path, 8)

    assert caught.value.exit_code == 10
    assert hash_seed.read(tmp_path) == 7


def test_a_draft_left_by_a_crash_is_no_seed(tmp_path: Path) -> None:
    """The file appears whole or not at all."""
    (tmp_path / "hash-seed.new").write_text("12")

    assert hash_seed.read(tmp_path) is None
    hash_seed.keep(tmp_path, 9)
    assert hash_seed.read(tmp_path) == 9


def test_a_directory_that_cannot_be_written(tmp_path: Path) -> None:
    """Exit code 13, as for the journal."""
    with pytest.raises(HashSeedError, match="cannot write") as caught:
        hash_seed.keep(tmp_path / "missing", 7)

    assert caught.value.exit_code == 13
