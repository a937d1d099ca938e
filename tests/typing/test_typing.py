"""What users write right passes both type checkers; what they write wrong is flagged by both.

`good.py` and `more.py` must pass mypy strict and pyright strict. In `bad.py` each line marked E must be flagged by
both, P by pyright alone, M by mypy alone; X marks what no type can refuse (its run-time refusal is tested with the
rooms), and no other line may be flagged. The three files are for checkers only: nothing imports them.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import pytest

HERE = Path(__file__).parent
REPOSITORY = HERE.parents[1]
ROOMS = ("journal", "objects", "runtime")
RIGHT = ("good.py", "more.py")
WRONG = "bad.py"
SECONDS_MAX = 300

MYPY_CONFIG = """
[mypy]
strict = True
mypy_path = {names}
explicit_package_bases = True
namespace_packages = True
[mypy-perdure.*]
follow_imports = silent
"""

Flagged = dict[str, dict[int, str]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A user's project: the three files, and perdure where checkers find it."""
    folder = tmp_path_factory.mktemp("typing")
    for name in (*RIGHT, WRONG):
        shutil.copy(HERE / name, folder / name)
    names = folder / "names" / "perdure"
    names.mkdir(parents=True)
    for room in ROOMS:
        (names / room).symlink_to(REPOSITORY / room)
    return folder


@pytest.fixture(scope="module")
def mypy(folder: Path) -> Flagged:
    config = folder / "mypy.ini"
    config.write_text(MYPY_CONFIG.format(names=folder / "names"))
    cache = REPOSITORY / ".mypy_cache" / "typing"
    command = ["-m", "mypy", "--config-file", str(config), "--cache-dir", str(cache), *RIGHT, WRONG]
    output = _run([sys.executable, *command], folder)
    found = re.findall(r"^(\w+\.py):(\d+): error: (.*)$", output, re.MULTILINE)
    assert found or "Success" in output, output
    return _by_file((name, int(line), text) for name, line, text in found)


@pytest.fixture(scope="module")
def pyright(folder: Path) -> Flagged:
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    config = {"typeCheckingMode": "strict", "extraPaths": ["names"], "pythonVersion": version, "include": ["*.py"]}
    (folder / "pyrightconfig.json").write_text(json.dumps(config))
    output = _run([sys.executable, "-m", "pyright", "--outputjson", "--pythonpath", sys.executable], folder)
    report = json.loads(output[output.index("{") :])
    assert report["summary"]["filesAnalyzed"] >= len(RIGHT) + 1
    return _by_file(
        (Path(item["file"]).name, item["range"]["start"]["line"] + 1, item["message"])
        for item in report["generalDiagnostics"]
        if item["severity"] == "error"
    )


def _run(command: list[str], folder: Path) -> str:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=SECONDS_MAX, check=False)
    assert done.returncode in (0, 1), done.stdout + done.stderr  # 1: it flagged something; else it broke
    return done.stdout


def _by_file(found: Iterable[tuple[str, int, str]]) -> Flagged:
    flagged: Flagged = {}
    for name, line, text in found:
        flagged.setdefault(name, {})[line] = text
    return flagged


def _marked(marks: str) -> set[int]:
    lines = (HERE / WRONG).read_text().splitlines()
    return {number for number, line in enumerate(lines, 1) if re.search(rf"# [{marks}]( |$)", line)}


def _shown(numbers: set[int]) -> list[str]:
    lines = (HERE / WRONG).read_text().splitlines()
    return [f"{number}: {lines[number - 1].strip()}" for number in sorted(numbers)]


@pytest.mark.parametrize("name", RIGHT)
def test_mypy_passes_what_is_right(mypy: Flagged, name: str) -> None:
    assert mypy.get(name, {}) == {}


@pytest.mark.parametrize("name", RIGHT)
def test_pyright_passes_what_is_right(pyright: Flagged, name: str) -> None:
    assert pyright.get(name, {}) == {}


def test_mypy_flags_each_marked_line_and_no_other(mypy: Flagged) -> None:
    flagged = set(mypy.get(WRONG, {}))
    assert _shown(_marked("EM") - flagged) == []
    assert _shown(flagged - _marked("EM")) == []


def test_pyright_flags_each_marked_line_and_no_other(pyright: Flagged) -> None:
    flagged = set(pyright.get(WRONG, {}))
    assert _shown(_marked("EP") - flagged) == []
    assert _shown(flagged - _marked("EP")) == []


def test_the_wrong_uses_are_as_many_as_they_were() -> None:
    """A line that loses its mark would make the two tests above pass on less."""
    marks = Counter(re.findall(r"# ([EMPX])(?: |$)", (HERE / WRONG).read_text(), re.MULTILINE))
    assert marks == {"E": 118, "X": 8}
