"""Keys and payloads that want to be more than text, and the port that asks for a token."""

from __future__ import annotations

import json
from collections.abc import Iterator
from urllib.parse import quote, urlencode

import pytest

from tests.runtime.ui.conftest import Browser
from tests.runtime.ui.day import Day, Server

TOKEN = "0123456789abcdef-token"

SCRIPT = "</script><script>alert(1)</script><img src=x onerror=alert(2)>"
KEYS = [
    "<img src=x onerror=alert(1)>",
    "'\"><svg onload=alert(1)>",
    "javascript:alert(1)//",
    "\u202edlrow\u2066",
    "a/b?c=d#e%2Ff&g",
    "' OR '1'='1",
    "${alert(1)}{{7*7}}`",
    "\U0001f469\u200d\U0001f4bb e\u0301 \ufeff",
    "__proto__",
    "k" * 512,
]


async def _live_with(day: Day, key: str) -> str:
    """The key as an account, as a name in a value, and in what a failure says."""
    account, chat = day.modules["bank"].Account, day.modules["chat"].Chat
    await day.runtime.ref(account, key).deposit(7)
    refused = await day.runtime.send(day.runtime.ref(account, key).withdraw.options(idempotency_key="w"), 10**6)
    await day.runtime.ref(chat, "hostile").say(SCRIPT + key)
    return refused.id


@pytest.fixture(scope="module")
def failed(day: Day) -> dict[str, str]:
    """An invocation of each key that ended in a failure."""
    return {key: day.do(_live_with(day, key)) for key in KEYS}


@pytest.mark.parametrize("key", KEYS, ids=ascii)
def test_a_hostile_key_is_text_and_means_this_object_alone(
    page: Browser, day: Day, failed: dict[str, str], key: str
) -> None:
    path = quote(key, safe="")

    page.go(f"invocations/{failed[key]}")
    assert f"Account/{key}"[:40] in page.text("dl")
    assert f"{key} has 7"[:100] in page.text("#values")
    page.click("dl a")  # its object
    page.until(lambda: page.text("h1") == "Objects")
    page.drawn()
    assert page.run("return location.hash") == f"#/objects/Account/{_as_a_browser(path)}"
    assert key[:100] in page.text(".lead")
    page.put("[name=state]", '{"balance": 8}')
    page.click("#save")
    page.says("Save: done")
    assert day.do(_balance(day, key)) == 8


def _as_a_browser(path: str) -> str:
    """encodeURIComponent leaves a few more as they are."""
    for character in "!*'()":
        path = path.replace(quote(character, safe=""), character)
    return path


async def _balance(day: Day, key: str) -> int:
    balance: int = await day.runtime.ref(day.modules["bank"].Account, key).look()
    return balance


def test_hostile_keys_are_text_in_every_list(page: Browser, failed: dict[str, str]) -> None:
    page.go("objects/Account")
    objects = page.text("table")
    page.go("invocations?service=Account&result=failure")
    invocations = page.text("table")
    page.go("invocations?" + urlencode({"service": "Account", "key": KEYS[5]}))
    filtered = page.text("table")
    page.go("sql")
    page.put("[name=statement]", "SELECT * FROM state WHERE service_name = 'Account'")
    page.click("#run")
    page.says("balance", "#answer")

    for key in KEYS:
        assert key[:30] in objects
        assert key[:30] in invocations
        assert key[:30] in page.text("#answer")
    assert KEYS[5] in filtered
    assert KEYS[0] not in filtered


def test_hostile_payloads_are_text(page: Browser, day: Day) -> None:
    """Markup, marks of direction, NUL, and a megabyte of it."""
    chat = day.modules["chat"].Chat
    large = "x" * (1 << 20)
    for text in (SCRIPT, "a\0b\u202e\u2028", large):
        id = day.send(day.runtime.ref(chat, "payloads").say.options(idempotency_key=str(hash(text))), text)
        page.go(f"invocations/{id}")
        _until_it_has_ended(page, day, id)
        page.go("invocations?key=payloads")
        page.go(f"invocations/{id}")
        assert json.dumps(text, ensure_ascii=False)[1:2000].rstrip('"').replace("\0", "\\u0000") in page.text("#values")

    page.click("#values button")
    page.until(lambda: len(page.text("#values")) > 1 << 20)
    page.go("objects/Chat/payloads")
    assert len(page.value("[name=state]")) > 1 << 20
    page.go("sql")
    page.put("[name=statement]", f"SELECT '{SCRIPT}' AS \"{SCRIPT}\"")
    page.click("#run")
    page.says("alert(2)", "#answer th")
    page.click("main .buttons button")


def _until_it_has_ended(page: Browser, day: Day, id: str) -> None:
    page.until(lambda: day.status(id) == "completed")


def test_the_policy_would_stop_a_script_that_got_in(page: Browser, day: Day) -> None:
    """What the tests above rely on: it is there, and what it stops is seen."""
    assert (
        page.run("try { document.body.innerHTML = '<b>x</b>'; return 'done' } catch (error) { return error.name }")
        == "TypeError"
    )
    page.run(
        "const script = document.createElement('script'); script.id = 'planted';"
        "try { script.textContent = 'window.ran = true' } catch {} document.head.append(script);"
        "const image = document.createElement('img'); image.id = 'planted2'; image.src = 'https://example.com/x';"
        "document.head.append(image)"
    )
    page.until(lambda: any("img-src" in one for one in page.seen))

    assert page.run("return window.ran ?? null") is None
    page.run("window.seen.length = 0; for (const one of ['planted', 'planted2']) document.getElementById(one).remove()")


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Day]:
    with Server(tmp_path_factory.mktemp("guarded"), TOKEN.encode()) as day:
        yield day


def test_a_port_with_a_token_asks_for_it_and_only_this_tab_keeps_it(browser: Browser, guarded: Day) -> None:
    browser.driver.get("about:blank")
    browser.driver.get(f"{guarded.url}/ui#/invocations")
    browser.says("--admin-token-file", "dialog")
    browser.write("dialog input", "wrong-but-long-enough")
    browser.click("dialog [type=submit]")
    browser.says("That token does not open this port", "dialog")
    assert "Order/o-1007" not in browser.text("body")
    browser.write("dialog input", "nö such token")
    browser.click("dialog [type=submit]")
    browser.until(lambda: browser.all("dialog [role=alert]") and browser.value("dialog input") == "")

    browser.write("dialog input", TOKEN)
    browser.click("dialog [type=submit]")
    browser.shows("Order/o-1007/pay")
    browser.driver.refresh()
    browser.shows("Order/o-1007/pay")

    assert browser.run("return JSON.stringify(localStorage) + document.cookie").find(TOKEN) == -1
    assert browser.run("return Object.values(sessionStorage)") == [TOKEN]
    assert TOKEN not in str(browser.run("return location.href + document.documentElement.outerHTML"))
