"""`perdure new`: a project to start from, as files that a person goes on with."""

from __future__ import annotations

import json
import re
import shlex
from importlib import resources
from importlib.metadata import distribution, version
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit
from urllib.request import url2pathname

from .exits import NOT_WRITABLE, USAGE
from .remote import CommandFailed
from .terminal import print_line

_FILES: Final = {"gitignore": ".gitignore", "project.toml": "pyproject.toml"}
_FILLED_IN: Final = ("project.toml", "README.md")


def new(directory: Path) -> int:
    """Writes the files of `template/` into `directory`, which is empty or not there.  Raises CommandFailed."""
    try:
        if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
            raise CommandFailed(f"{directory} is there and not empty: nothing was written, name a new one", USAGE)
        directory.mkdir(parents=True, exist_ok=True)
        for file in sorted(
            resources.files("perdure.runtime").joinpath("template").iterdir(), key=lambda file: file.name
        ):
            if not file.is_file():
                continue
            text = file.read_text(encoding="utf-8")
            if file.name in _FILLED_IN:
                text = text.replace("{name}", _name_of(directory)).replace("{version}", version("perdure"))
                text = text.replace("{perdure}", shlex.quote(_requirement()))
            path = directory / _FILES.get(file.name, file.name)
            with path.open("x", encoding="utf-8") as written:
                written.write(text)
            print_line(str(path))
    except OSError as error:
        why = f"{error.filename or directory} can't be written: {error.strerror}"
        raise CommandFailed(f"{why}; what was written before stays", NOT_WRITABLE) from error
    print_line(f"next: cd {shlex.quote(str(directory))} and read README.md")
    return 0


def _requirement() -> str:
    """What makes pip install this very perdure: where it came from, as pip notes it (PEP 610), or an index."""
    text = distribution("perdure").read_text("direct_url.json")
    if text is None:
        return f"perdure>={version('perdure')}"
    origin = json.loads(text)
    url: str = origin["url"]
    if "vcs_info" in origin:
        return f"perdure @ {origin['vcs_info']['vcs']}+{url}@{origin['vcs_info']['commit_id']}"
    return url2pathname(urlsplit(url).path) if url.startswith("file:") else f"perdure @ {url}"


def _name_of(directory: Path) -> str:
    """One that packages may have."""
    return re.sub(r"[^a-z0-9]+", "-", directory.resolve().name.lower()).strip("-") or "orders"
