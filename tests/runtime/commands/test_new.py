"""`perdure new`: the project it writes is tested, typed, and served as its README says."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

from perdure.runtime import cli, new_commands

ROOT = Path(__file__).parents[3]


@pytest.fixture
def project(tmp_path: Path) -> Path:
    assert cli.run(["new", str(tmp_path / "My Shop!")]) == 0
    return tmp_path / "My Shop!"


def run(project: Path, *arguments: str) -> str:
    environment = os.environ | {"MYPYPATH": str(ROOT / "build" / "names")}
    done = subprocess.run(
        [sys.executable, "-m", *arguments], cwd=project, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_its_tests_pass(project: Path) -> None:
    assert "3 passed" in run(project, "pytest", "-q", "-p", "no:cacheprovider")


def test_it_is_typed(project: Path) -> None:
    cache = str(ROOT / ".mypy_cache")
    assert "no issues" in run(project, "mypy", "--strict", "--cache-dir", cache, "orders.py", "test_orders.py")


def test_it_has_the_directorys_name(project: Path) -> None:
    """As packages are named."""
    assert 'name = "my-shop"' in (project / "pyproject.toml").read_text()
    assert "# my-shop\n" in (project / "README.md").read_text()
    assert ".venv/" in (project / ".gitignore").read_text()


def test_what_is_to_be_typed_next_can_be_typed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With a space and an exclamation mark in it, too."""
    cli.run(["new", str(tmp_path / "my shop!")])

    assert f"next: cd '{tmp_path}/my shop!' and read" in capsys.readouterr().out


COMMIT = "0" * 40


@pytest.mark.parametrize(
    ("origin", "installed"),
    [
        (None, f"'perdure>={metadata.version('perdure')}'"),
        ({"url": "file:///home/ann/a%20checkout", "dir_info": {"editable": True}}, "'/home/ann/a checkout'"),
        ({"url": "file:///tmp/perdure-1-py3-none-any.whl", "archive_info": {}}, "/tmp/perdure-1-py3-none-any.whl"),
        ({"url": "https://x.org/perdure.whl", "archive_info": {}}, "'perdure @ https://x.org/perdure.whl'"),
        (
            {"url": "https://x.org/p.git", "vcs_info": {"vcs": "git", "commit_id": COMMIT}},
            f"'perdure @ git+https://x.org/p.git@{COMMIT}'",
        ),
    ],
)
def test_it_says_how_to_install_the_perdure_that_made_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, origin: dict[str, object] | None, installed: str
) -> None:
    """Where that came from an index, so does the project's; a checkout or a wheel is on none."""

    class Installed:
        def read_text(self, name: str) -> str | None:
            assert name == "direct_url.json"
            return None if origin is None else json.dumps(origin)

    def distribution(_: str) -> Installed:
        return Installed()

    monkeypatch.setattr(new_commands, "distribution", distribution)

    assert cli.run(["new", str(tmp_path / "shop")]) == 0

    assert (
        f".venv/bin/pip install {installed} -e . pytest pytest-asyncio\n" in (tmp_path / "shop/README.md").read_text()
    )


def test_a_directory_that_is_empty_is_used(tmp_path: Path) -> None:
    (tmp_path / "shop").mkdir()

    assert cli.run(["new", str(tmp_path / "shop")]) == 0


@pytest.mark.parametrize("what", ["folder", "file"])
def test_what_is_there_stays_as_it_is(tmp_path: Path, capsys: pytest.CaptureFixture[str], what: str) -> None:
    target = tmp_path / "shop"
    if what == "folder":
        target.mkdir()
        (target / "orders.py").write_text("mine")
    else:
        target.write_text("mine")

    assert cli.run(["new", str(target)]) == 2

    assert "nothing was written" in capsys.readouterr().err
    assert [path.read_text() for path in [target, *target.glob("*")] if path.is_file()] == ["mine"]


def test_a_place_where_nothing_can_be(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["new", "/proc/shop"]) == 13

    assert capsys.readouterr().err.count("\n") == 1
