"""The report in a real browser."""

from __future__ import annotations

from pathlib import Path

import pytest

from docs.make_screenshots import NARROW, SECTIONS, WIDTH, take_screenshots
from pipeline.report.database import Scope
from pipeline.report.write import write_report
from tests.browser import needs_browser, open_browser
from tests.lake.rows import lake_of
from tests.report.lakes import ROWS, summary, write_json, write_pictures

pytestmark = [needs_browser, pytest.mark.engine]


def test_the_page_is_shown_without_requests_errors_or_overflow(tmp_path: Path) -> None:
    layout = lake_of(tmp_path / "lake", ROWS)
    write_pictures(layout, 9, "2026-01-01", step=20)
    equation = "10 discovered = 7 routed + 2 review + 0 not_xray + 0 quarantined + 1 duplicate"
    write_json(layout.runs, "r", summary("r", equation=f"{equation} + 0 unchanged"))
    values = {"count": 3, "mean": 5.0, "min": 1, "max": 9, "sum": 15}
    write_json(layout.metrics, "r", {"distributions": {"decode_ms": values}})
    report = tmp_path / "report.html"
    write_report(report, Scope(layout))
    problems: list[str] = []
    with open_browser() as browser:
        for width in (WIDTH, NARROW):
            page = browser.new_page(viewport={"width": width, "height": 900})
            page.on("console", lambda message: problems.append(message.text))
            page.on("pageerror", lambda error: problems.append(str(error)))
            page.on(
                "request",
                lambda sent: (
                    problems.append(sent.url)
                    if sent.url.split(":")[0] not in ("file", "data")
                    else None
                ),
            )
            page.goto(report.as_uri())
            size = "[document.documentElement.scrollWidth, window.innerWidth]"
            scroll_width, window_width = page.evaluate(size)
            assert scroll_width <= window_width == width
            heights = "[...document.querySelectorAll('tbody tr')].map(e => e.offsetHeight)"
            assert max(page.evaluate(heights)) < 200, "no cell wraps at each word"
            right = "e => e.getBoundingClientRect().right"
            ends = page.evaluate(f"[...document.querySelectorAll('caption span')].map({right})")
            assert max(ends) <= width, "captions are not scrolled away"
            loaded = "[...document.images].map(i => i.complete && i.naturalWidth)"
            assert set(page.evaluate(loaded)) == {48}
            styled = "getComputedStyle(document.querySelector('section')).borderTopStyle"
            assert page.evaluate(styled) == "solid", "the policy must allow the style sheet"
            page.get_by_role("link", name="Header against pixels").click()
            assert page.url.endswith("#headers")
            page.close()
        taken = take_screenshots(browser, report, tmp_path)
        page = browser.new_page()
        page.goto(report.as_uri())
        assert page.pdf().startswith(b"%PDF")
    assert not problems
    assert len(taken) == len(SECTIONS) + 1
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in taken)
