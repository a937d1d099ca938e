"""Settings: what a file may change, and the line for each mistake in it."""

import ast
import inspect
from itertools import pairwise
from pathlib import Path

import msgspec
import pytest

from perdure.runtime import settings
from perdure.runtime.settings import Settings, SettingsError, load_settings


def refusal(file: Path, text: str) -> str:
    file.write_text(text)
    with pytest.raises(SettingsError) as caught:
        load_settings(file)
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 2
    assert str(file) in str(caught.value)
    return str(caught.value)


def test_a_file_changes_what_it_names(tmp_path: Path) -> None:
    """And the rest keeps its default; `[retry]` is the policy of invocations without one of their own."""
    file = tmp_path / "perdure.toml"
    file.write_text('mailbox_per_key_max = 5\ndrain_grace_seconds = 2\n[retry]\nmax_attempts = 3\nthen = "fail"\n')

    changed = load_settings(file)

    assert (changed.mailbox_per_key_max, changed.drain_grace_seconds) == (5, 2.0)
    assert (changed.retry.max_attempts, changed.retry.then) == (3, "fail")
    assert changed.retry.first_delay == Settings().retry.first_delay
    assert changed.body_bytes_max == Settings().body_bytes_max


def test_an_empty_file_changes_nothing(tmp_path: Path) -> None:
    """Every key is optional."""
    file = tmp_path / "perdure.toml"
    file.write_text("")

    assert load_settings(file) == Settings()


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("mailbox_per_key_maxx = 5", "mailbox_per_key_maxx"),
        ("mailbox_per_key_max = 'many'", "$.mailbox_per_key_max"),
        ("mailbox_per_key_max = 0", "$.mailbox_per_key_max"),
        ("header_timeout_seconds = 0", "$.header_timeout_seconds"),
        ("header_timeout_seconds = nan", "$.header_timeout_seconds"),
        ("header_timeout_seconds = inf", "$.header_timeout_seconds"),
        ("drain_grace_seconds = -1", "$.drain_grace_seconds"),
        ("body_bytes_max = 16777216", "$.body_bytes_max"),
        ("[retry]\nmax_attemps = 3", "max_attemps"),
        ("[retry]\nfactor = 0", "$.retry"),
        ("[retry]\nthen = 'stop'", "$.retry.then"),
        ("retry = 3", "$.retry"),
        ("[settings]\nretry = 3", "settings"),
        ("mailbox_per_key_max =", "is not TOML"),
        ("mailbox_per_key_max = 1\nmailbox_per_key_max = 2", "is not TOML"),
    ],
)
def test_a_mistake_is_named(tmp_path: Path, text: str, named: str) -> None:
    """The file and the key, in one line: a misspelt limit is no limit."""
    assert named in refusal(tmp_path / "perdure.toml", text)


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    """Missing, a folder, or not UTF-8."""
    binary = tmp_path / "binary.toml"
    binary.write_bytes(b"\xff\xfe")

    for path, text in [(tmp_path / "no.toml", "No such file"), (tmp_path, "Is a directory"), (binary, "not TOML")]:
        with pytest.raises(SettingsError, match=text):
            load_settings(path)


def test_every_limit_stands_with_its_reason() -> None:
    """Each field of Settings is followed by a string that says why."""
    body = next(
        node.body
        for node in ast.parse(inspect.getsource(settings)).body
        if isinstance(node, ast.ClassDef) and node.name == "Settings"
    )
    explained = {
        field.target.id
        for field, reason in pairwise(body)
        if isinstance(field, ast.AnnAssign)
        and isinstance(field.target, ast.Name)
        and isinstance(reason, ast.Expr)
        and isinstance(reason.value, ast.Constant)
        and len(str(reason.value.value)) > 30
    }

    assert explained == {field.name for field in msgspec.structs.fields(Settings)}
