"""Pages of a headless browser, each with a profile of its own, and what a reviewer does first."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator

from playwright.sync_api import ConsoleMessage, Page

from docs.browser import open_browser
from tests.review.reviews import Review


@contextlib.contextmanager
def open_pages(number: int = 1) -> Iterator[tuple[list[Page], list[str]]]:
    """Yield pages, and a list of what goes wrong in them."""
    problems: list[str] = []

    def on_console(message: ConsoleMessage) -> None:
        if message.type == "error":  # also what the Content-Security-Policy refuses
            problems.append(f"{message.text} {message.location}")

    with open_browser() as browser:
        pages = []
        for _ in range(number):
            page = browser.new_context(viewport={"width": 1360, "height": 860}).new_page()
            page.on("console", on_console)
            page.on("pageerror", lambda error: problems.append(str(error)))
            page.on("dialog", lambda dialog: problems.append(dialog.message))
            pages.append(page)
        yield pages, problems


def enter(page: Page, review: Review, name: str) -> str:
    """Open the address that was printed, give a nickname, and return the sha256 of the first image."""
    page.goto(review.url)
    page.wait_for_url(re.compile(r"/$"))
    page.get_by_label("Nickname").fill(name)
    page.get_by_role("button", name="Start").click()
    return wait_for_image(page)


def wait_for_image(page: Page, before: str | None = None) -> str:
    """Wait until another image can be answered about; return its sha256."""
    page.wait_for_function(
        """before => { const shown = document.getElementById("canvas").dataset.shown;
        const ready = document.querySelector(".answer:not([disabled])");
        return shown && shown !== before && ready; }""",
        arg=before,
    )
    return str(page.locator("#canvas").get_attribute("data-shown"))
