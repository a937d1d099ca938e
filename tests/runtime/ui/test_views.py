"""Each view, with what the examples left behind."""

from __future__ import annotations

from tests.runtime.ui.conftest import PHONE, Browser
from tests.runtime.ui.day import Day

VIEWS = [
    *["", "invocations", "invocations/{stuck}", "invocations/{video}", "invocations/{transfer}", "objects"],
    *["objects/Account/alice", "schedules", "call/Reminders/remind", "sql"],
]
HEIGHTS = "return [...document.querySelectorAll('nav a, main button')].map((one) => one.offsetHeight)"


def test_the_overview_says_what_is_stuck_and_why(page: Browser, day: Day) -> None:
    """The payment that finds no bank, who waits behind it, and each handler that is served."""
    stuck, handlers = page.text("#stuck"), page.text("#handlers")

    assert "Order/o-1007/pay" in stuck
    assert "backing-off" in stuck
    assert "the step charge" in stuck
    assert "Cannot connect to host" in stuck
    assert "Order/o-1007" in page.text("main section:nth-of-type(2)")
    assert page.all(f'#stuck a[href="#/invocations/{day.ids["stuck"]}"]')
    for handler in ("Account/transfer", "Signup/run", "Chat/stream", "Stock/look"):
        assert handler in handlers


def test_rates_are_told_from_the_second_look_on(page: Browser, day: Day) -> None:
    row = "#handlers tr:has(a[href='#/call/Account/deposit']) td:nth-child(3)"

    page.until(lambda: page.text(row) == "0.0", "there are no rates")


def test_invocations_are_filtered_and_the_filter_stands_in_the_address(page: Browser, day: Day) -> None:
    page.go("invocations")
    assert "Order/o-1007/pay" in page.text()
    assert "Signup/ann/run" in page.text()

    page.write("[name=service]", "Signup")
    page.choose("[name=status]", "suspended")
    page.click("form [type=submit]")
    page.until(lambda: "Order/o-1007/pay" not in page.text("table") and "Signup/ann/run" in page.text("table"))

    assert page.run("return location.hash") == "#/invocations?service=Signup&status=suspended"
    assert page.value("[name=service]") == "Signup"


def test_the_list_is_live(page: Browser, day: Day) -> None:
    """What comes while somebody looks appears by itself."""
    page.go("invocations?service=Account&key=live")
    assert "None" in page.text()

    account = day.modules["bank"].Account
    day.send(day.runtime.ref(account, "live").deposit.options(idempotency_key="live"), 5)

    page.shows("Account/live/deposit")


def test_one_invocation_is_a_picture_a_journal_a_tree_and_values(page: Browser, day: Day) -> None:
    """A video: steps side by side, a person who is waited for, messages that it sent."""
    page.go(f"invocations/{day.ids['video']}")
    lines = [line.text for line in page.all("svg.timeline g > text:first-of-type")]

    assert sum("Run encode" in line for line in lines) == 3
    assert any("Awakeable" in line for line in lines)
    assert page.all("svg.timeline .turn")
    assert page.all("svg.timeline .now")
    assert page.all("svg.timeline .ahead")  # the desk has seven days
    assert "given up" in page.text("svg.timeline")  # and the upload came before its day was over
    assert "OneWayCall" in page.text("#journal")
    assert "Desk/main/put" in page.text("#tree")
    assert '"Cats"' in page.text("#values")
    assert "an awakeable" in page.text("dl")


def test_a_step_that_fails_says_so_in_the_picture(page: Browser, day: Day) -> None:
    page.go(f"invocations/{day.ids['stuck']}")

    assert "failed tries" in page.text("svg.timeline")
    assert page.all("svg.timeline .bar.failure")
    assert "Cannot connect" in page.text("dl")
    page.go(f"invocations/{day.ids['queued']}")
    assert "its key, held by" in page.text("dl")
    assert "waits for its key" in page.text("svg.timeline")


def test_what_has_ended_shows_its_outcome_and_whom_it_called(page: Browser, day: Day) -> None:
    page.go(f"invocations/{day.ids['transfer']}")
    assert "7000" in page.text("#values")

    page.go(f"invocations/{day.ids['refused']}")
    assert "bob has" in page.text("#values")
    assert "failure" in page.text(".lead")


def test_an_object_shows_its_state_who_holds_it_and_who_waits(page: Browser, day: Day) -> None:
    page.go("objects/Account")
    assert "Account/alice" in page.text("table")

    page.go("objects/Account/alice")
    assert '"balance": 7000' in page.value("[name=state]")
    assert "Nobody holds it" in page.text()

    page.go("objects/Order/o-1007")
    assert "Held by" in page.text()
    assert page.all(f'#mailbox a[href="#/invocations/{day.ids["queued"]}"]')


def test_schedules_are_listed_with_their_next_tick(page: Browser) -> None:
    page.go("schedules")

    assert "Shop/report/berlin" in page.text()
    assert "0 8 * * MON-SAT" in page.text()
    assert "Stock/look" in page.text()


def test_sql_is_answered_and_a_query_is_kept_by_the_browser(page: Browser, day: Day) -> None:
    page.go("sql")
    page.write(
        "[name=statement]", "SELECT target, id, 9007199254740993 AS big FROM sys_invocation WHERE target LIKE 'Sig%'"
    )
    page.click("#run")
    page.says("Signup/ann/run", "#answer")
    assert page.all(f'#answer a[href="#/invocations/{day.ids["signup"]}"]')
    assert "9007199254740993" in page.text("#answer")

    page.write("[name=name]", "<b>mine</b>")
    page.click("#keep")
    page.open(day.url, "sql")
    page.click("main .pair:last-child button")
    page.says("Signup/ann/run", "#answer")

    page.click("main .pair:last-child button:last-child")
    assert "mine" not in page.text("main .buttons")


def test_sql_that_is_none_says_why(page: Browser) -> None:
    page.go("sql")
    page.write("[name=statement]", "DELETE FROM state")
    page.click("#run")

    page.until(lambda: page.text("#answer [role=alert]") != "")


def test_on_a_phone_nothing_is_scrolled_to_the_side(browser: Browser, day: Day) -> None:
    """The picture scrolls in itself, a row of a table is a card; what is touched is large enough."""
    browser.size(*PHONE)
    browser.open(day.url)

    for view in VIEWS:
        browser.go(view.format(**day.ids))
        assert browser.wide <= 0, view
        assert min(height for height in browser.run(HEIGHTS) if height) >= 24, view


def test_an_address_that_is_no_view_and_an_invocation_that_is_none(page: Browser, day: Day) -> None:
    page.go("invocations/inv_nonsense")
    assert "this is no invocation's id" in page.text("[role=alert]")

    page.run("location.hash = '#/constructor'")
    page.until(lambda: page.run("return location.hash") == "#/")
