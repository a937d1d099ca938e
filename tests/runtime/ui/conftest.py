"""The page in a real browser, in front of a day of the examples."""

from __future__ import annotations

import shutil
from base64 import b64decode
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import pytest
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.ui import Select, WebDriverWait

from tests.runtime.ui.day import Day, Diary, Server

CHROMIUM, DRIVER = Path("/usr/bin/chromium"), Path("/usr/bin/chromedriver")
FLAGS = (
    *("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--lang=en"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync", "--hide-scrollbars"),
)
SECONDS_MAX = 20.0
DESKTOP, PHONE = (1200, 800), (375, 740)

# Before any script of the page: what the policy stopped, what failed, and who asked for a dialog.
WATCH = """
window.seen = [];
addEventListener("securitypolicyviolation", (event) => seen.push(`policy: ${event.violatedDirective} ${event.sample}`));
addEventListener("error", (event) => seen.push(`error: ${event.message}`));
addEventListener("unhandledrejection", (event) => seen.push(`rejection: ${event.reason}`));
for (const name of ["alert", "confirm", "prompt"]) window[name] = () => seen.push(`dialog: ${name}`);
"""

Script = Callable[..., Any]


class Browser:
    """A tab, and what somebody does in it."""

    def __init__(self, driver: webdriver.Chrome) -> None:
        self.driver = driver
        self._control("Page.addScriptToEvaluateOnNewDocument", {"source": WATCH})

    def size(self, width: int, height: int) -> None:
        """Of what is seen; a window can't be as narrow as a phone."""
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
        self._control("Emulation.setDeviceMetricsOverride", metrics)

    def picture(self) -> bytes:
        """PNG of what is seen."""
        return b64decode(self._control("Page.captureScreenshot", {"format": "png"})["data"])

    def _control(self, command: str, arguments: dict[str, Any]) -> Any:
        execute = cast("Script", self.driver.execute_cdp_cmd)  # pyright: ignore[reportUnknownMemberType]
        return execute(command, arguments)

    def open(self, url: str, view: str = "") -> None:
        """The page from the start, until the view is drawn."""
        self.driver.get("about:blank")
        self.driver.get(f"{url}/ui#/{view}")
        self.drawn()

    def go(self, view: str) -> None:
        self.run("location.hash = arguments[0]", f"#/{view}")
        self.drawn()

    def drawn(self) -> None:
        self.until(
            lambda: self.run(
                "const main = document.getElementById('main');"
                "return main?.dataset.drawn === (location.hash || '#/') && main.querySelector('h1') !== null"
            )
        )

    def run(self, script: str, *arguments: object) -> Any:
        execute = cast("Script", self.driver.execute_script)  # pyright: ignore[reportUnknownMemberType]
        return execute(script, *arguments)

    def until(self, condition: Callable[[], object], what: str = "") -> None:
        """The browser, or the server behind it, brings it about."""
        WebDriverWait(self.driver, SECONDS_MAX, poll_frequency=0.02).until(lambda _: condition(), what)

    def all(self, selector: str) -> list[WebElement]:
        return self.driver.find_elements(By.CSS_SELECTOR, selector)

    def one(self, selector: str) -> WebElement:
        self.until(lambda: self.all(selector), f"there is no {selector}")
        return self.all(selector)[0]

    def click(self, selector: str) -> None:
        """By its place in the page of this moment: a live view may be drawn anew at any other."""
        self.one(selector)
        assert self.run("const found = document.querySelector(arguments[0]); found?.click(); return !!found", selector)

    def write(self, selector: str, text: str) -> None:
        field = self.one(selector)
        field.clear()
        field.send_keys(text)

    def put(self, selector: str, text: str) -> None:
        """As if it were pasted."""
        self.one(selector)
        self.run("const field = document.querySelector(arguments[0]); field.value = arguments[1]", selector, text)

    def choose(self, selector: str, value: str) -> None:
        Select(self.one(selector)).select_by_value(value)

    def press(self, *keys: str) -> None:
        self.driver.switch_to.active_element.send_keys(*keys)

    @property
    def focused(self) -> str:
        return str(self.run("return document.activeElement.textContent"))

    def text(self, selector: str = "main") -> str:
        """Empty while it isn't there."""
        return str(self.run("return document.querySelector(arguments[0])?.textContent ?? ''", selector))

    def value(self, selector: str) -> str:
        self.one(selector)
        return str(self.run("return document.querySelector(arguments[0]).value", selector))

    def says(self, text: str, selector: str = "#notice") -> None:
        self.until(lambda: text in self.text(selector), f"{selector} does not say {text!r}")

    def shows(self, text: str) -> None:
        self.says(text, "main")

    @property
    def seen(self) -> list[str]:
        return list(self.run("return window.seen"))

    @property
    def wide(self) -> int:
        """How far the page can be scrolled to the side."""
        return int(self.run("return document.documentElement.scrollWidth - document.documentElement.clientWidth"))


def start_browser(user_data: Path) -> webdriver.Chrome:
    options = webdriver.ChromeOptions()
    options.binary_location = str(CHROMIUM)
    for flag in (*FLAGS, f"--user-data-dir={user_data}", f"--window-size={DESKTOP[0]},{DESKTOP[1]}"):
        options.add_argument(flag)  # pyright: ignore[reportUnknownMemberType]
    return webdriver.Chrome(options=options, service=webdriver.ChromeService(str(DRIVER)))


@pytest.fixture(scope="session")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[webdriver.Chrome]:
    if not CHROMIUM.exists() or not DRIVER.exists() or shutil.which("chromium") is None:
        pytest.skip("the page needs a browser: apt-get install chromium chromium-driver")
    driver = start_browser(tmp_path_factory.mktemp("chromium"))
    yield driver
    driver.quit()


@pytest.fixture(scope="session")
def day(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Day]:
    with Server(tmp_path_factory.mktemp("data"), more=(Diary,)) as day:
        yield day


@pytest.fixture
def browser(driver: webdriver.Chrome) -> Iterator[Browser]:
    """At the end of each test: nothing ran that was not to, nothing was stopped that had to be, nothing failed."""
    browser = Browser(driver)
    browser.size(*DESKTOP)
    yield browser
    assert browser.seen == []
    assert browser.all("main img, main script, main iframe, main style, main object, main form[action]") == []


@pytest.fixture
def page(browser: Browser, day: Day) -> Browser:
    """Opened at the overview."""
    browser.open(day.url)
    return browser
