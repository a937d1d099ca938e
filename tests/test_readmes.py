"""Each folder's README lists what is in it, and the list is true."""

import asyncio
import importlib.util
import re
from pathlib import Path
from typing import Any

import pytest

from perdure.runtime import Runtime

ROOT = Path(__file__).parent.parent
ROOMS = ["journal", "objects", "runtime", "runtime/store"]
PLACES = ("README.md", "[!.]*/README.md", "[!.]*/*/README.md")
READMES = sorted(file.relative_to(ROOT) for place in PLACES for file in ROOT.glob(place))

# `log.py`, `runtime/log.py`, `tests/crash/storm.py`; not the middle of a longer word.
PYTHON_FILE = re.compile(r"(?<![\w./*-])((?:[\w-]+/)*\w+\.py)\b")
CODE = re.compile(r"^```python\n(.*?)^```", re.DOTALL | re.MULTILINE)
LINK = re.compile(r"\]\(([^)#]+)(?:#[^)]*)?\)")


def python_files(folder: Path) -> set[str]:
    """Without those of a folder in it that has a README of its own."""
    apart = {readme.parent for readme in folder.glob("*/README.md")}
    files = [file for file in folder.rglob("*.py") if file.name != "__init__.py" and file.parent not in apart]
    return {str(file.relative_to(folder)) for file in files}


def named_in(readme: Path) -> set[str]:
    return set(PYTHON_FILE.findall(readme.read_text()))


@pytest.mark.parametrize("room", ROOMS)
def test_a_rooms_readme_lists_its_files(room: str) -> None:
    """Every file of the room is named in its README."""
    assert python_files(ROOT / room) - named_in(ROOT / room / "README.md") == set()


@pytest.mark.parametrize("readme", READMES, ids=str)
def test_a_readme_names_only_files_that_exist(readme: Path) -> None:
    """A file that was renamed or removed is gone from the README too; names are relative to it or to the top."""
    folders = [ROOT, (ROOT / readme).parent]

    missing = {name for name in named_in(ROOT / readme) if not any((folder / name).is_file() for folder in folders)}

    assert missing == set()


@pytest.mark.parametrize("readme", READMES, ids=str)
def test_a_readmes_links_lead_somewhere(readme: Path) -> None:
    """Every relative link is to a file or folder in this tree."""
    links = [link for link in LINK.findall((ROOT / readme).read_text()) if "://" not in link]

    assert [link for link in links if not ((ROOT / readme).parent / link).exists()] == []


def test_each_room_has_a_readme() -> None:
    """Or the tests above would pass for want of one."""
    assert {Path(room) / "README.md" for room in ROOMS} <= set(READMES)


def module_of(source: str, tmp_path: Path) -> Any:
    """A piece of a README as a module: from a file, since a class's source is looked at."""
    file = tmp_path / "readme.py"
    file.write_text(source)
    spec = importlib.util.spec_from_file_location("readme", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


async def test_the_readmes_first_example_does_what_it_says(tmp_path: Path) -> None:
    """The debit and the message are both there."""
    source = CODE.findall((ROOT / "README.md").read_text())[0]
    account = module_of(source, tmp_path).Account

    async with Runtime([account], data_dir=None) as runtime:
        await runtime.ref(account, "alice").deposit(100)
        assert await runtime.ref(account, "alice").transfer("bob", 30) == 70
        assert await runtime.ref(account, "bob").deposit(1) == 31


async def test_the_readmes_rule_of_design_works(tmp_path: Path) -> None:
    """The reminder comes as a message of the object to itself."""
    mail = """
from perdure.objects import Service, VirtualObject, handler

delivered = []

class Mail(Service):
    @handler
    async def deliver(self, text: str) -> None:
        delivered.append(text)

"""
    source = mail + CODE.findall((ROOT / "README.md").read_text())[1]
    module = module_of(source, tmp_path)

    async with Runtime([module.Reminders, module.Mail], data_dir=None) as runtime, asyncio.timeout(10):
        await runtime.ref(module.Reminders, "alice").remind("1", "tea", 0.0)
        while not module.delivered:
            await asyncio.sleep(0)

    assert module.delivered == ["tea"]
