"""`perdure new`: a project to start from, as files that a person goes on with."""

from __future__ import annotations

import re
from importlib import resources
from importlib.metadata import version
from pathlib import Path
from typing import Final

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
            path = directory / _FILES.get(file.name, file.name)
            with path.open("x", encoding="utf-8") as written:
                written.write(text)
            print_line(str(path))
    except OSError as error:
        why = f"{error.filename or directory} can't be written: {error.strerror}"
        raise CommandFailed(f"{why}; what was written before stays", NOT_WRITABLE) from error
    print_line(f"next: cd {directory} and read README.md")
    return 0


def _name_of(directory: Path) -> str:
    """One that packages may have."""
    return re.sub(r"[^a-z0-9]+", "-", directory.resolve().name.lower()).strip("-") or "orders"
