"""The OpenAPI document against the process that publishes it: schemathesis sends what it allows, and what not."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.conftest import Perdure

HERE = Path(__file__).parent
SEED = 1
EXAMPLES = 5


async def test_the_ingress_does_what_its_document_says(perdure: Callable[..., Perdure], tmp_path: Path) -> None:
    """Statuses, content types, schemas of answers, methods; nothing is a server error."""
    process = perdure(str(HERE / "shop.py"))
    await process.start()
    ingress = await process.serving()
    command = ["run", f"{await process.admin()}/openapi", "--url", ingress, "--seed", str(SEED), "--no-color"]
    phases = ["--phases", "examples,coverage,fuzzing", "--max-examples", str(EXAMPLES), "--continue-on-failure"]

    # Once it is sent with a delay, a call to the same workflow rightly waits as long.
    left_out = ["--exclude-path-regex", "/run/send$"]

    run = await asyncio.create_subprocess_exec(
        str(Path(sys.executable).with_name("st")),
        *command,
        *phases,
        *left_out,
        cwd=tmp_path,
        env=os.environ | {"SCHEMATHESIS_HOOKS": "schemathesis_hooks", "PYTHONPATH": str(HERE)},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    said = (await run.communicate())[0].decode()

    assert run.returncode == 0, said
    assert " 0 selected" not in said
