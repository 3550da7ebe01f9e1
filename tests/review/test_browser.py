"""A person reviews in a browser: from the key to the row and the moved object."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import pyarrow.dataset as ds
import pytest
from playwright.sync_api import Page, expect

from tests.browser import needs_browser
from tests.conformance import violations
from tests.conftest import Lake
from tests.review.browsers import enter, open_pages, wait_for_image
from tests.review.conftest import IMAGES
from tests.review.reviews import Review
from transforms.lake.layout import Layout
from transforms.lake.verify import verify_lake

pytestmark = [pytest.mark.engine, pytest.mark.slow, needs_browser]


def shade(page: Page) -> float:
    """The mean gray of the image as it is shown."""
    return float(
        page.evaluate(
            """() => { const c = document.getElementById("canvas");
            const d = c.getContext("2d").getImageData(0, 0, c.width, c.height).data;
            let sum = 0, count = 0;
            for (let i = 0; i < d.length; i += 4) if (d[i + 3]) { sum += d[i]; count += 1; }
            return sum / count; }"""
        )
    )


def row_of(lake: Lake, content: str) -> dict[str, Any]:
    (row,) = [
        r for r in lake.rows() if r["content_sha256"] == content and r["status"] != "duplicate"
    ]
    return row


def by_destination(lake: Lake) -> dict[str, int]:
    query = f"""select destination, count(*) from '{lake.root}/index/**/*.parquet'
        where status <> 'duplicate' group by 1"""
    return dict(duckdb.sql(query).fetchall())


def assert_sound(lake: Lake) -> None:
    assert verify_lake(Layout(str(lake.root)), deep=True).violations == []
    assert violations(lake.root) == []
    assert sum(by_destination(lake).values()) == 2 * IMAGES


def test_answers_reach_the_index_and_move_the_objects(copied: Lake) -> None:
    with Review(copied.root, "--apply_interval=1000") as review, open_pages() as (pages, problems):
        (page,) = pages
        enter(page, review, "ann")
        title = page.title()
        shown = [wait_for_image(page)]
        for key in ("4", "6", "7"):
            page.keyboard.press(key)
            shown.append(wait_for_image(page, shown[-1]))
        page.locator(".answer[data-answer=abdominal]").click()
        expect(page.locator("#toast")).to_contain_text("Stored: Abdomen")
        wait_for_image(page, shown[-1])
        page.keyboard.press("u")
        page.wait_for_function(
            "shown => document.getElementById('canvas').dataset.shown === shown", arg=shown[3]
        )
        wait_for_image(page)
        labels = ds.dataset(copied.root / "labels", format="parquet").to_table().to_pylist()
        assert len(labels) == 5, "stored before anything is applied"
        assert {label["reviewer"] for label in labels} == {"ann"}
        assert all(row_of(copied, one)["decided_by"] != "person" for one in shown)
        assert page.title() == title, "no script of a header ran"
        assert problems == []
        assert "decisions changed: 3, objects moved: 2" in review.end()
    spine, document, unclear, undone = (row_of(copied, one) for one in shown)
    assert (spine["status"], spine["destination"]) == ("routed", "spine")
    assert (spine["stage"], spine["reason"], spine["decided_by"]) == (
        "review",
        "reviewed",
        "person",
    )
    assert (document["status"], document["reason"]) == ("not_xray", "not_radiograph")
    assert (unclear["status"], unclear["reason"]) == ("review", "unreadable")
    assert undone["decided_by"] != "person"
    assert "body_part=spine" in spine["object_uri"]
    assert copied.path(spine).exists()
    assert_sound(copied)


def test_two_reviewers_see_different_images(copied: Lake) -> None:
    with Review(copied.root) as review, open_pages(2) as (pages, problems):
        for page, name in zip(pages, ("ann", "bob"), strict=True):
            enter(page, review, name)
        seen = [[wait_for_image(page)] for page in pages]
        for _ in range(2):
            for page, own in zip(pages, seen, strict=True):
                page.keyboard.press("1")
                own.append(wait_for_image(page, own[-1]))
        assert len(set(seen[0]) | set(seen[1])) == 6
        pages[0].reload()
        assert wait_for_image(pages[0]) == seen[0][-1], "a reload shows the same image"
        assert problems == []
        review.end()
    assert by_destination(copied)["abdominal"] >= 4
    assert_sound(copied)


def test_the_image_can_be_windowed_inverted_and_zoomed(review: Review) -> None:
    with open_pages() as (pages, problems):
        (page,) = pages
        enter(page, review, "ann")
        canvas = page.locator("#canvas")
        changes: list[tuple[str, Callable[[], object]]] = [
            ("i", lambda: page.keyboard.press("i")),
            ("i again", lambda: page.keyboard.press("i")),
            ("brighter", lambda: canvas.press("ArrowUp")),
            ("narrower", lambda: page.keyboard.press("ArrowLeft")),
            ("auto", lambda: page.keyboard.press("a")),
            ("reset", lambda: page.keyboard.press("r")),
        ]
        shades = {"": shade(page)}
        for name, change in changes:
            change()
            shades[name] = shade(page)
        assert shades["i"] == pytest.approx(255 - shades[""], abs=1)
        assert shades["i again"] == pytest.approx(shades[""])
        assert shades["brighter"] > shades[""] + 1
        assert shades["narrower"] != pytest.approx(shades["brighter"])
        assert shades["auto"] != pytest.approx(shades["narrower"])
        assert shades["reset"] == pytest.approx(shades[""])
        before = page.locator("#readout").inner_text()
        assert "C 2048 W 4096" in re.sub(r"\s+", " ", before)
        page.keyboard.press("+")
        assert page.locator("#readout").inner_text() != before
        box = canvas.bounding_box()
        assert box is not None
        page.mouse.move(box["x"] + 200, box["y"] + 200)
        page.mouse.down()
        page.mouse.move(box["x"] + 300, box["y"] + 200)
        page.mouse.up()
        assert "C 2048 W 4096" not in re.sub(r"\s+", " ", page.locator("#readout").inner_text())
        page.mouse.wheel(0, -300)
        page.keyboard.press("r")
        assert page.locator("#readout").inner_text() == before
        assert problems == []


def test_it_works_by_keyboard_and_in_narrow_windows(review: Review) -> None:
    with open_pages() as (pages, problems):
        (page,) = pages
        enter(page, review, "ann")
        page.keyboard.press("?")
        expect(page.locator("#help")).to_be_visible()
        page.keyboard.press("4")
        page.keyboard.press("Escape")
        expect(page.locator("#help")).to_be_hidden()
        first = wait_for_image(page)
        assert page.locator("#toast").inner_text() == "", "a key in a dialog answers nothing"
        page.keyboard.press("s")
        wait_for_image(page, first)
        named = page.evaluate(
            """() => [...document.querySelectorAll("button, canvas, input")]
            .filter(e => !(e.getAttribute("aria-label") || e.textContent.trim() || e.labels?.length))
            .map(e => e.id || e.outerHTML)"""
        )
        assert named == []
        reached = set()
        for _ in range(40):
            page.keyboard.press("Tab")
            reached.add(
                page.evaluate("document.activeElement.id || document.activeElement.dataset.answer")
            )
        assert {"canvas", "invert", "spine", "skip", "undo", "reviewer"} <= reached
        for width in (320, 390, 800, 1360):
            page.set_viewport_size({"width": width, "height": 844})
            assert page.evaluate("document.documentElement.scrollWidth") <= width
            assert page.locator(".answer").first.is_visible()
        assert problems == []


def test_the_page_says_when_the_review_has_ended(copied: Lake) -> None:
    with Review(copied.root) as review, open_pages() as (pages, _):
        (page,) = pages
        enter(page, review, "ann")
        review.end()
        page.keyboard.press("1")
        expect(page.locator("#toast")).to_contain_text("still running?")
        expect(page.locator(".answer").first).to_be_enabled()
    assert not (copied.root / "labels").exists()


def test_the_screenshot_of_the_documentation_can_be_made(tmp_path: Path) -> None:
    target = tmp_path / "review.png"
    subprocess.run([sys.executable, "-m", "tests.review.screenshot", str(target)], check=True)
    assert target.stat().st_size > 50_000
