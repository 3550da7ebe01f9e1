"""Pages of a headless browser, each with a profile of its own."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from playwright.sync_api import ConsoleMessage, Page

from docs.browser import open_browser


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
