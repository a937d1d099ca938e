"""The OpenAPI document against the process that publishes it: schemathesis sends what it allows, and what not."""

from __future__ import annotations

import asyncio
import json
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
    ingress, admin = await process.serving(), await process.admin()

    # Once it is sent with a delay, a call to the same workflow rightly waits as long.
    left_out = ["--exclude-path-regex", "/run/send$"]
    code, said = await sent(tmp_path, f"{admin}/openapi", ingress, "schemathesis_hooks", *left_out)

    assert code == 0, said
    assert " 0 selected" not in said


async def test_the_admin_port_does_what_its_document_says(perdure: Callable[..., Perdure], tmp_path: Path) -> None:
    """Of itself: with an object that has state, what has ended, and what is still to come."""
    process = perdure(str(HERE / "shop.py"))
    await process.start()
    admin = await process.admin()
    ended = [await process.call("/Shelf/a/put", {"sku": "lamp"}, key=f"k{number}") for number in range(30)]
    later = [await process.call("/Shelf/b/put/send?delay=1h", {"sku": "lamp"}) for _ in range(30)]
    ids = [answer.invocation_id for pair in zip(ended, later, strict=True) for answer in pair]
    # Beside those that it expects of itself: not begun yet, and in no state for it.
    (tmp_path / "schemathesis.toml").write_text(
        "[checks.positive_data_acceptance]\n"
        'expected-statuses = ["2xx", "401", "403", "404", "409", "422", "425", "429"]\n'
    )

    code, said = await sent(tmp_path, f"{admin}/openapi/admin", admin, "admin_hooks", CONTRACT_IDS=json.dumps(ids))

    assert code == 0, said
    assert " 0 selected" not in said
    assert "Missing test data" not in said


async def sent(
    directory: Path, document: str, url: str, hooks: str, *more: str, **environment: str
) -> tuple[int | None, str]:
    """What schemathesis says of the document and of the server at `url`."""
    command = ["run", document, "--url", url, "--seed", str(SEED), "--no-color"]
    phases = ["--phases", "examples,coverage,fuzzing", "--max-examples", str(EXAMPLES), "--continue-on-failure"]
    run = await asyncio.create_subprocess_exec(
        str(Path(sys.executable).with_name("st")),
        *command,
        *phases,
        *more,
        cwd=directory,
        env=os.environ | {"SCHEMATHESIS_HOOKS": hooks, "PYTHONPATH": str(HERE)} | environment,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    said = (await run.communicate())[0].decode()
    return run.returncode, said
