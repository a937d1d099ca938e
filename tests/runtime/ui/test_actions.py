"""What is done by the page: each button, and what it does to the runtime behind it."""

from __future__ import annotations

import pytest
from selenium.webdriver.common.keys import Keys

from tests.runtime.ui.conftest import Browser
from tests.runtime.ui.day import Day, Diary


def payment(day: Day, order: str) -> str:
    """One that is tried again and again."""
    return day.send(day.runtime.ref(day.modules["payments"].Order, order).pay, 100)


@pytest.mark.parametrize("action", ["cancel", "kill"])
def test_an_invocation_is_stopped_once_somebody_is_sure(page: Browser, day: Day, action: str) -> None:
    id = payment(day, f"stop-{action}")
    page.go(f"invocations/{id}")
    button = f'[data-action="{action}"]'

    page.click(button)
    page.click("#leave")
    page.until(lambda: not page.all("dialog"))
    assert day.status(id) != "completed"

    page.click(button)
    page.click("#sure")
    page.says("done")
    page.until(lambda: day.status(id) == "completed")


def test_it_is_paused_resumed_and_restarted_as_a_new_one(page: Browser, day: Day) -> None:
    id = payment(day, "pause")
    page.go(f"invocations/{id}")

    page.click('[data-action="pause"]')
    page.says("Pause: done")
    page.until(lambda: page.text(".lead .badge") == "paused")
    page.click('[data-action="resume"]')
    page.says("Resume: done")
    page.until(lambda: page.text(".lead .badge") == "backing-off")

    page.go(f"invocations/{day.ids['chat']}")
    page.click('[data-action="restart-as-new"]')
    page.says("Restart as new: done")
    new = str(page.run("return location.hash")).rpartition("/")[2]
    assert new != day.ids["chat"]
    page.until(lambda: day.status(new) == "completed")


def test_what_has_ended_is_purged_and_the_list_shown(page: Browser, day: Day) -> None:
    account = day.modules["bank"].Account
    id = day.send(day.runtime.ref(account, "purged").deposit.options(idempotency_key="p"), 1)
    page.until(lambda: day.status(id) == "completed")
    page.go(f"invocations/{id}")

    page.click('[data-action="purge"]')
    page.click("#sure")
    page.says("Purge: done")

    page.until(lambda: page.run("return location.hash") == "#/invocations")


def test_a_refused_action_says_why(page: Browser, day: Day) -> None:
    """It ended while somebody looked at it."""
    id = payment(day, "refused")
    page.go(f"invocations/{id}")
    page.run("document.activeElement.blur()")
    page.click('[data-action="cancel"]')
    page.one("#sure")
    day.do(_kill(day, id))
    page.click("#sure")

    page.says("has ended: it can't be stopped any more")


async def _kill(day: Day, id: str) -> None:
    await day.runtime.engine.operations.kill(id)


def test_a_state_is_edited_as_it_is_written(page: Browser, day: Day) -> None:
    """Also a number that JavaScript can't hold."""
    day.do(_deposit(day, "edited", 9007199254740993))
    page.go("objects/Account/edited")
    assert '"balance": 9007199254740993' in page.value("[name=state]")

    page.put("[name=state]", '{"balance": 9007199254740995, "frozen": true}')
    page.click("#save")
    page.says("Save: done")

    assert day.do(_look(day, "edited")) == 9007199254740995
    page.put("[name=state]", '{"balance": ')
    page.click("#save")
    page.says("This is no JSON")
    page.put("[name=state]", '{"balance": "much"}')
    page.click("#save")
    page.says("Account.balance")
    assert page.value("[name=state]") == '{"balance": "much"}'


async def _deposit(day: Day, key: str, amount: int) -> None:
    await day.runtime.ref(day.modules["bank"].Account, key).deposit(amount)


async def _look(day: Day, key: str) -> int:
    balance: int = await day.runtime.ref(day.modules["bank"].Account, key).look()
    return balance


def test_an_edit_of_what_was_changed_meanwhile_shows_both(page: Browser, day: Day) -> None:
    """Nothing is overwritten but by a second decision, and that too is refused if there is yet another change."""
    day.do(_deposit(day, "both", 10))
    page.go("objects/Account/both")
    page.put("[name=state]", '{"balance": 99}')
    day.do(_deposit(day, "both", 1))

    page.click("#save")
    page.says("was changed since version")
    page.says('"balance": 11', "#conflict")
    assert page.value("[name=state]") == '{"balance": 99}'
    assert day.do(_look(day, "both")) == 11

    day.do(_deposit(day, "both", 1))
    page.click("#overwrite")
    page.says('"balance": 12', "#conflict")
    assert day.do(_look(day, "both")) == 12

    page.click("#overwrite")
    page.says("Save: done")
    assert day.do(_look(day, "both")) == 99


def test_a_conflict_can_be_ended_by_what_is_there(page: Browser, day: Day) -> None:
    day.do(_deposit(day, "take", 10))
    page.go("objects/Account/take")
    page.put("[name=state]", '{"balance": 99}')
    day.do(_deposit(day, "take", 1))
    page.click("#save")
    page.click("#take")

    page.until(lambda: '"balance": 11' in page.value("[name=state]"))


def test_an_edit_that_leaves_no_field_asks_before_it_clears_a_list(page: Browser, day: Day) -> None:
    """To the admin API no field at all means all of it, Lists and Maps too."""
    day.do(_write(day, "ann", "first"))
    page.go("objects/Diary/ann")
    assert "pages: 1 entry" in page.text("#state")

    page.put("[name=state]", "{}")
    page.click("#save")
    page.says("pages would be cleared too", "dialog")
    page.click("#leave")
    assert day.do(_write(day, "ann", "second")) == 2


async def _write(day: Day, key: str, text: str) -> int:
    return await day.runtime.ref(Diary, key).write("ann", text)


def test_an_object_is_cleared(page: Browser, day: Day) -> None:
    day.do(_deposit(day, "cleared", 10))
    page.go("objects/Account/cleared")
    page.click("#clear")
    page.click("#sure")
    page.says("Clear: done")

    assert day.do(_look(day, "cleared")) == 0


def test_a_schedule_is_paused_resumed_and_triggered(page: Browser, day: Day) -> None:
    page.go("schedules")
    page.click('[data-action="pause Stock/look"]')
    page.says("Pause Stock/look: done")
    page.click('[data-action="resume Stock/look"]')
    page.says("Resume Stock/look: done")
    page.click('[data-action="trigger Stock/look"]')
    page.says("Triggered as")

    page.click("#notice a")
    page.shows("Stock/look")


def test_a_handler_is_called_by_the_form_of_its_schema(page: Browser, day: Day) -> None:
    """Required and optional fields, moments, numbers; the result is where the page goes."""
    page.go("call/Reminders/remind")
    assert [label.text for label in page.all("main form > label > span")] == [
        *["Handler", "Key", "name", "text", "at", "every (optional)", "Delay (optional)"],
    ]
    page.write("[name=key]", "eve")
    page.write("[name=name]", "tea")
    page.write("[name=text]", 'water "now"!')
    page.write("[name=at]", "2099-01-01T09:00:00Z")
    page.click("form [type=submit]")

    page.until(lambda: "#/invocations/inv_" in str(page.run("return location.hash")))
    page.until(lambda: "2099-01-01T09:00:00Z" in page.text("#values"))
    assert 'water \\"now\\"!' in page.text("#values")


def test_a_call_that_is_refused_says_why_and_keeps_what_was_written(page: Browser, day: Day) -> None:
    page.go("call/Account/deposit")
    page.write("[name=key]", "carl")
    page.write("[name=argument]", "-5")
    page.click("form [type=submit]")
    page.says("Not sent")
    page.write("[name=argument]", "five")
    page.click("form [type=submit]")
    page.says("This is no JSON")
    page.write("[name=argument]", "5")
    page.write("[name=key]", "..")
    page.click("form [type=submit]")
    page.says("no browser can ask for a key")

    assert page.value("[name=argument]") == "5"


def test_the_same_idempotency_key_is_the_same_call(page: Browser, day: Day) -> None:
    """Whoever goes back and sends the form again has not called twice."""
    went: list[object] = []
    for _ in range(2):
        page.go("call/Account/deposit")
        page.write("[name=key]", "once")
        page.write("[name=argument]", "9007199254740993")
        page.put("[name=idempotency-key]", "only-once")
        page.click("form [type=submit]")
        page.until(lambda: "#/invocations/inv_" in str(page.run("return location.hash")))
        page.drawn()
        went.append(page.run("return location.hash"))

    assert went[0] == went[1]
    assert day.do(_look(day, "once")) == 9007199254740993


def test_everything_is_done_by_keyboard_alone(page: Browser, day: Day) -> None:
    """From the skip link to a killed payment: Tab, Enter and Escape."""
    id = payment(day, "keyboard")
    page.open(day.url, "invocations?service=Order&key=keyboard")
    page.run("document.activeElement.blur(); getSelection().removeAllRanges()")

    page.press(Keys.TAB)
    assert page.focused == "Skip to the content"
    page.press(Keys.ENTER)
    assert page.run("return document.activeElement.id") == "main"
    page.until(lambda: _tab_to(page, f"{id[:16]}…"))
    page.press(Keys.ENTER)
    page.until(lambda: page.text("h1") == "Invocation" and page.text(".lead code") == id)
    page.until(lambda: page.run("return document.activeElement.id") == "main")
    page.until(lambda: _tab_to(page, "Kill"))
    page.press(Keys.ENTER)
    page.one("dialog[open]")
    page.press(Keys.ESCAPE)
    page.until(lambda: not page.all("dialog"))
    assert day.status(id) != "completed"

    page.until(lambda: _tab_to(page, "Kill"))
    page.press(Keys.ENTER)
    page.until(lambda: _tab_to(page, "Do it"))
    assert page.run("return getComputedStyle(document.activeElement).outlineStyle") != "none"
    page.press(Keys.ENTER)
    page.until(lambda: day.status(id) == "completed")


def _tab_to(page: Browser, text: str) -> bool:
    if page.focused == text:
        return True
    page.press(Keys.TAB)
    return page.focused == text


def test_whatever_can_be_reached_has_a_name(page: Browser, day: Day) -> None:
    """A link, a button, a field without one is silence to a screen reader."""
    for view in (
        "",
        "invocations",
        f"invocations/{day.ids['stuck']}",
        "objects/Account/alice",
        "schedules",
        "call",
        "sql",
    ):
        page.go(view)
        for element in page.all("a, button, input, select, textarea, summary, [tabindex='0']"):
            if element.is_displayed():
                assert element.accessible_name, element.get_attribute("outerHTML")  # pyright: ignore[reportUnknownMemberType]
