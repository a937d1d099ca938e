"""Takes the pictures of `runtime/ui/README.md` again, with the data of the examples.

python -m tests.runtime.ui.screenshots
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from tests.runtime.ui.conftest import DESKTOP, PHONE, Browser, start_browser
from tests.runtime.ui.day import Day, Server

SHOTS = Path(__file__).parents[3] / "runtime" / "ui" / "screenshots"
HEIGHT_MAX = 1500

VIEWS = {
    "overview": "",
    "invocations": "invocations",
    "invocation": "invocations/{video}",
    "stuck": "invocations/{stuck}",
    "objects": "objects/Account",
    "object": "objects/Order/o-1007",
    "schedules": "schedules",
    "call": "call/Reminders/remind",
    "sql": "sql",
}
PHONES = {"phone-overview": "", "phone-invocation": "invocations/{stuck}"}


def take(browser: Browser, day: Day) -> None:
    for views, size in ((VIEWS, DESKTOP), (PHONES, PHONE)):
        for name, view in views.items():
            browser.size(*size)
            browser.open(day.url, view.format(**day.ids))
            show(browser, name)
            shoot(browser, name, size[0])
    browser.size(*DESKTOP)
    browser.open(day.url, "objects/Account/alice")
    browser.put("[name=state]", '{\n  "balance": 5000\n}')
    day.do(_deposit(day))
    browser.click("#save")
    browser.says("As it is by now", "#conflict")
    shoot(browser, "conflict", DESKTOP[0])


def show(browser: Browser, name: str) -> None:
    """What makes the view say more."""
    if name == "overview":
        browser.until(lambda: "…" not in browser.text("#handlers td:nth-child(3)"))
    if name == "sql":
        browser.click("#run")
        browser.says("rows in", "#answer")
    if name == "call":
        for field, value in (("key", "ann"), ("name", "tea"), ("text", "water!"), ("at", "2027-01-31T09:00:00Z")):
            browser.write(f"[name={field}]", value)


def shoot(browser: Browser, name: str, width: int) -> None:
    """The whole page, unless it is very long."""
    height = min(HEIGHT_MAX, max(300, browser.run("return document.body.scrollHeight")))
    browser.size(width, height)
    (SHOTS / f"{name}.png").write_bytes(browser.picture())


async def _deposit(day: Day) -> None:
    await day.runtime.ref(day.modules["bank"].Account, "alice").deposit(1_00)


def main() -> None:
    SHOTS.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as folder, Server(Path(folder) / "data") as day:
        driver = start_browser(Path(folder) / "chromium")
        try:
            take(Browser(driver), day)
        finally:
            driver.quit()


if __name__ == "__main__":
    main()
