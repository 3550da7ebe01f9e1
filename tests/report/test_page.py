"""The page as a browser reads it: self-contained, escaped, accessible, and right for every lake."""

from __future__ import annotations

import base64
import hashlib
import io
import re
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from pipeline.cli import main
from pipeline.report import images
from pipeline.report.content import MAX_DAYS
from tests.lake.rows import append_rows, index_row, lake_of, new_lake, place
from tests.report.lakes import ROWS, row, summary, webp, write_json, write_pictures
from tests.report.pages import Page, read_page
from tests.synthetic import dicom_bytes, image
from transforms.core.reasons import BY_PERSON, Reason, Stage, Status
from transforms.lake.labels import append_label, new_label
from transforms.lake.layout import Layout
from transforms.lake.schema import SCHEMA, IndexRow, to_table
from transforms.lake.view_columns import VIEW_COLUMNS

EVIL: Final = "\"'><script>alert(1)</script><img src=x onerror=alert(1)>&amp;{{7*7}}"
PLAIN: Final = "'harmless"


def report(layout: Layout, *options: str, expect: int = 0) -> Page:
    """Write a report, and return the page."""
    target = Path(layout.root).parent / "report.html"
    assert main(["report", layout.root, "--out", str(target), *options]) == expect
    return read_page(target)


def write_index(layout: Layout, day: str, rows: list[IndexRow], **columns: str) -> None:
    """Write an index file of a day, in which columns have other texts."""
    table = to_table(rows)
    for name, text in columns.items():
        position = table.column_names.index(name)
        table = table.set_column(position, name, pa.array([text] * len(table), pa.string()))
    folder = Path(layout.index) / f"ingest_date={day}"
    folder.mkdir(parents=True, exist_ok=True)
    pq.write_table(
        table, folder / f"part-{hashlib.sha256(repr(columns).encode()).hexdigest()}.parquet"
    )


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> Page:
    """The page of a lake that has something for each section."""
    layout = new_lake(tmp_path_factory.mktemp("page") / "lake")
    many = [row(n + 100, confidence=0.5 + n / 200, ood_score=n / 10) for n in range(90)]
    bare = {"stage": Stage.HEADER, "predicted_label": None}
    broken = index_row(
        "/in/broken", "b" * 64, **bare,
        status=Status.QUARANTINED, reason=Reason.TRUNCATED, destination="quarantine",
    )  # fmt: skip
    ct = index_row(
        "/in/ct", "c" * 64, **bare,
        status=Status.NOT_XRAY, reason=Reason.SOP_CLASS, destination="not_xray",
    )  # fmt: skip
    write_index(layout, "2026-01-01", many[:60])
    write_index(layout, "2026-01-02", [*ROWS, *many[60:], broken, ct])
    for number, one in enumerate(many[:40]):
        append_label(layout, new_label(one, "spine" if number % 4 else "abdominal", "ann", number))
    write_pictures(layout, 9, "2026-01-02")
    write_json(layout.runs, "r", summary("r", started_at="2026-01-02T03:00:00Z"))
    values = {"count": 3, "mean": 5.0, "min": 1, "max": 9, "sum": 15}
    write_json(layout.metrics, "r", {"distributions": {"fetch_ms": values, "decode_ms": values}})
    return report(layout)


@pytest.mark.slow
def test_the_page_is_self_contained_and_has_no_script(full: Page) -> None:
    (policy,) = [m["content"] for m in full.named("meta") if "http-equiv" in m]
    digest = base64.b64encode(hashlib.sha256(full.style.encode()).digest()).decode()
    assert f"style-src 'sha256-{digest}'" in str(policy) and "default-src 'none'" in str(policy)
    assert not {"script", "link", "iframe", "object", "form"} & {tag for tag, _ in full.elements}
    for _, attributes in full.elements:
        assert not [name for name in attributes if name.startswith("on") or name == "style"]
        assert str(attributes.get("href", "#")).startswith("#")
        assert str(attributes.get("src", "data:")).startswith("data:image/webp;base64,") or (
            "src" not in attributes
        )
    assert "url(" not in full.style and "@import" not in full.style


def test_each_section_has_its_numbers(full: Page) -> None:
    for text in (
        "102 rows = 97 routed + 2 review + 1 not an X-ray + 1 quarantined + 1 duplicate",
        "3 of 97 routed images with a usable header",
        "3 of 3, those first to whose header",
        "2 of 2, those with the lowest confidence first",
        "the object ends before its data set does",
        "send it again from its source",
        "(queue Header disagrees); the objects are already in the sink of their pixels",
        "1 SOP Instance UID with different contents (2 objects): ask the sender which is right",
        "1 SOP Instance UID with different contents (2 objects). All contents are kept",
        "Baseline: the days before 2026-01-02, compared with 2026-01-02.",
        "Reviewers have answered about 40 images",
        "3 discovered = 3 routed",
        "time to parse and decode an object",
        "observed, 40 labels",
        "threshold 50.0 %",
    ):
        assert text in full.text


def test_pictures_are_the_stored_thumbnails(full: Page) -> None:
    pictures = full.named("img")
    assert len(pictures) == 5 and all(picture["alt"] for picture in pictures)
    encoded = "data:image/webp;base64," + base64.b64encode(webp(3)).decode()
    first = pictures[0]
    assert first["src"] == encoded, "the header that is most certainly wrong comes first"
    assert first["alt"] == "Radiograph, spine, confidence 90.0 %, header abdominal"


def test_the_page_is_accessible(full: Page) -> None:
    tags = [tag for tag, _ in full.elements]
    assert [tags.count(tag) for tag in ("header", "nav", "main", "footer", "h1")] == [1] * 5
    assert full.named("html") == [{"lang": "en"}]
    levels = [level for level, _ in full.headings]
    assert all(after <= before + 1 for before, after in pairwise(levels))
    ids = [str(attributes["id"]) for _, attributes in full.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    for name, attributes in full.elements:
        if name == "th":
            assert attributes["scope"] in ("col", "row")
        if name == "svg":
            assert (
                attributes.get("aria-label")
                or attributes.get("aria-hidden") == "true"
                or "class" not in attributes  # in a legend, which is hidden as a whole
            )
        if name == "section":
            assert attributes["aria-labelledby"] in ids
        if name == "a":
            assert str(attributes["href"]).removeprefix("#") in ids
    assert tags.count("table") == tags.count("caption")


def variables(block: str) -> dict[str, tuple[float, float, float]]:
    """Return the colours of a block of the style sheet, each channel 0..1."""
    found = re.findall(r"--([\w-]+): #([0-9a-f]{3,6})", block)
    wide = {name: h if len(h) == 6 else "".join(c * 2 for c in h) for name, h in found}
    return {
        name: (int(h[:2], 16) / 255, int(h[2:4], 16) / 255, int(h[4:], 16) / 255)
        for name, h in wide.items()
    }


def contrast(one: tuple[float, ...], other: tuple[float, ...]) -> float:
    """Return the contrast ratio of two colours (WCAG 2.2, section 1.4.3)."""

    def luminance(colour: tuple[float, ...]) -> float:
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in colour]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    lighter, darker = sorted((luminance(one), luminance(other)), reverse=True)
    return (lighter + 0.05) / (darker + 0.05)


@pytest.mark.parametrize("scheme", ["light", "dark", "print"])
def test_texts_have_enough_contrast(full: Page, scheme: str) -> None:
    blocks = re.findall(r":root \{(.+?)\}", full.style, re.S)
    colours = variables(blocks[["light", "dark", "print"].index(scheme)])
    for surface in ("surface", "page", "track"):
        for text in ("ink", "muted", "link", "quarantined", "review"):
            assert contrast(colours[text], colours[surface]) >= 4.5, (text, surface)
    for graphic in ("routed", "review", "not_xray", "quarantined", "curve", "observed", "current"):
        assert contrast(colours[graphic], colours["surface"]) >= 3, graphic


TEXTS: Final = [
    field.name
    for field in SCHEMA
    if field.type == pa.string() and field.name not in ("content_sha256", "source_state", "run_id")
]
"""Columns of the index that have texts."""


def tainted(root: Path, text: str) -> Layout:
    """Return a lake in which each text of the index, of labels and of summaries is a given one."""
    layout = new_lake(root)
    rows = [row(n, conflict=True) for n in range(30)]
    for number, name in enumerate(TEXTS, 1):  # no key twice, so that lists have one order
        own = [row(100 * number + n, conflict=True) for n in range(8)]
        write_index(layout, "2026-01-01", own, **{name: text})
    write_index(
        layout, "2026-01-02", rows, status="routed", **{n: text for n in TEXTS if n != "status"}
    )
    answered = new_label(rows[0], "spine", "ann", 1)
    for number, name in enumerate(("predicted_label", "answer", "reviewer", "header_label")):
        label: dict[str, Any] = {name: text, "label_id": f"{number:032x}"}
        one = replace(answered, content_sha256=f"{number:064x}", **label)
        append_label(layout, one)
    write_json(layout.runs, "a", summary("a", equation=text, finished_at=text))
    write_json(layout.runs, "b", summary(text, options={"policy_id": text, "thresholds": text}))
    write_json(layout.runs, "c", {"counts": {text: text}})
    return layout


@pytest.mark.slow
def test_every_string_is_escaped(tmp_path: Path) -> None:
    evil = report(tainted(tmp_path / "evil" / "lake", EVIL))
    plain = report(tainted(tmp_path / "plain" / "lake", PLAIN))
    assert [tag for tag, _ in evil.elements] == [tag for tag, _ in plain.elements]
    assert [set(a) for _, a in evil.elements] == [set(a) for _, a in plain.elements]
    assert evil.text.count(EVIL) == plain.text.count(PLAIN) > 50
    in_attributes = [
        sum(text in str(value) for _, attributes in page.elements for value in attributes.values())
        for page, text in ((evil, EVIL), (plain, PLAIN))
    ]
    assert in_attributes[0] == in_attributes[1] > 50
    assert evil.text.replace(EVIL, PLAIN).count("alert") == evil.style.count("alert") == 0


def test_the_name_of_the_lake_is_escaped(tmp_path: Path) -> None:
    layout = lake_of(tmp_path / "<b onclick=x>&'\"", ROWS)
    page = report(layout)
    assert layout.root in page.text and not page.named("b onclick=x")
    assert not [a for tag, a in page.elements if tag == "b" and a]


def test_an_empty_lake_has_a_page(tmp_path: Path) -> None:
    page = report(new_lake(tmp_path / "lake"))
    assert "there are no rows" in page.text and not page.named("img")


def test_a_run_without_rows_has_a_page_and_an_unknown_one_is_an_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    layout = lake_of(tmp_path / "lake", ROWS)
    counts: dict[str, int] = {"discovered": 9, **dict.fromkeys(map(str, Status), 0), "unchanged": 9}
    write_json(layout.runs, "nothing", summary("nothing", counts=counts, equation="9 = 9"))
    page = report(layout, "--run", "nothing")
    assert "9 discovered = 0 routed" in page.text and "+ 9 unchanged" in page.text
    assert main(["report", layout.root, "--run", "unknown"]) == 2
    assert "no such run" in capsys.readouterr().err


def test_a_run_in_progress_has_a_page_without_a_summary(tmp_path: Path) -> None:
    layout = lake_of(tmp_path / "lake", [row(1, run_id="stream.1"), row(2, run_id="stream.2")])
    page = report(layout, "--run", "stream")
    assert "The run has no summary: it is in progress" in page.text
    assert "2 rows = 2 routed" in page.text


@pytest.mark.slow
def test_a_baseline_is_a_lake_or_a_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    now = [row(n, run_id="now", confidence=0.99, ood_score=1 + n / 9) for n in range(40)]
    layout = lake_of(tmp_path / "lake", now)
    before = [
        row(n, run_id="before", destination="others", confidence=0.5 + n / 99, ood_score=n / 99)
        for n in range(40, 80)
    ]
    other = lake_of(tmp_path / "other", before)
    page = report(layout, "--baseline", other.root)
    assert "large change" in page.text and f"the lake {other.root}" in page.text
    append_rows(layout, *before)
    write_json(layout.runs, "before", summary("before"))
    page = report(layout, "--run", "now", "--baseline", "before")
    assert "Baseline: run before." in page.text and "large change" in page.text
    assert main(["report", layout.root, "--baseline", "neither"]) == 2
    assert "no such folder" in capsys.readouterr().err


def test_an_object_without_a_thumbnail_is_decoded(tmp_path: Path) -> None:
    layout = new_lake(tmp_path / "lake")
    found = place(layout, "/in/1", dicom_bytes(image(1, (96, 64))), confidence=0.9)
    missing = replace(found, object_key="k", source_uri="/in/2", content_sha256="d" * 64,
                      object_uri="objects/missing")  # fmt: skip
    append_rows(layout, found, missing)
    page = report(layout)
    (picture,) = page.named("img")
    data = base64.b64decode(str(picture["src"]).partition(",")[2])
    with Image.open(io.BytesIO(data)) as shown:
        assert shown.size == (128, 192)
    assert "it has no thumbnail and could not be decoded" in page.text
    assert not report(layout, "--images", "0").named("img")


@pytest.mark.slow
def test_many_days_are_drawn_as_months(tmp_path: Path) -> None:
    layout = new_lake(tmp_path / "lake")
    for number in range(MAX_DAYS + 1):
        day = f"2026-{1 + number // 28:02}-{1 + number % 28:02}"
        write_index(layout, day, [row(number)], region_code=str(number))
    page = report(layout)
    assert "By month" in page.text
    assert any("Images by month" in str(svg.get("aria-label")) for svg in page.named("svg"))


@pytest.mark.parametrize("target", ["missing/report.html", ".", "gs://bucket/report.html"])
def test_a_file_that_cannot_be_written_is_an_error_before_anything_is_read(
    tmp_path: Path, target: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    layout = new_lake(tmp_path / "lake")
    monkeypatch.chdir(tmp_path)
    assert main(["report", layout.root, "--out", target]) == 2
    assert target.replace("//", "/") in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["lake"]


def test_what_a_person_found_unreadable_does_not_wait(tmp_path: Path) -> None:
    review = {"status": Status.REVIEW, "destination": "review"}
    answered = row(2, **review, reason=Reason.UNREADABLE, decided_by=BY_PERSON)
    layout = lake_of(tmp_path / "lake", [row(1, **review, reason=Reason.TOO_SMALL), answered])
    page = report(layout)
    assert "1 image waits for review, most often for: too small" in page.text
    assert "1 image waits for an answer; 1 more is here by the answer of a person." in page.text


def test_confidences_are_of_images_that_no_person_decided(tmp_path: Path) -> None:
    by_person = [row(n, confidence=0.3, decided_by=BY_PERSON) for n in (2, 3)]
    layout = lake_of(tmp_path / "lake", [row(1, confidence=0.9), *by_person])
    page = report(layout)
    assert (
        "1 of 3 classified images were routed without a person; by their calibrated confidences, "
        "10.0 % of these are expected to be wrong. 2 were decided by people" in page.text
    )
    assert "spine 3 100 % 90.0 %" in page.text, "images, share and mean confidence of a destination"
    assert "spine 1 " in page.text, "images of the histogram"
    assert "100 % 10.0 %" in page.text, "the risk at full coverage"


def test_the_table_of_runs_says_what_each_was(tmp_path: Path) -> None:
    answers = [row(n, run_id="b", decided_by=BY_PERSON) for n in (1, 2)]
    layout = lake_of(tmp_path / "lake", [*answers, row(3, run_id="a")])
    write_json(layout.runs, "c", summary("c", kind="reroute"))
    write_json(layout.runs, "d", summary("d"))
    page = report(layout)
    for line in (
        "d route 2026-01-02 03:04:05 – complete",
        "c reroute 2026-01-02 03:04:05 – complete",
        "b review – – 2 answers applied 2",
        "a – – – no summary: in progress, or interrupted 1",
    ):
        assert line in page.text
    of_session = report(layout, "--run", "b").text
    assert "A session of reviewers: 2 answers applied." in of_session
    assert "no summary" not in of_session


def test_a_header_names_a_chest_and_no_age(tmp_path: Path) -> None:
    chests = [row(n, header_label=f"{age}_chest") for n, age in enumerate(("adult", "pediatric"))]
    wrong = [replace(one, header_agrees=False) for one in chests]
    page = report(lake_of(tmp_path / "lake", [*wrong, row(9)]))
    matrix = page.text.partition("Amber: another region.")[2].partition("Check them")[0]
    assert matrix.split("all ", 1)[1].strip() == "chest 0 0 0 2 0 0 2 spine 0 0 0 1 0 0 1"
    tiles = page.named("span")
    assert [t["title"] for t in tiles if "wrong" in str(t.get("class"))] == ["Header: chest"] * 4


def test_a_caption_has_the_threshold_that_the_confidence_misses(tmp_path: Path) -> None:
    waits = {"status": Status.REVIEW, "destination": "review", "reason": Reason.LOW_CONFIDENCE,
             "policy_id": "p1", "header_label": None}  # fmt: skip
    child = {"patient_age_years": 3.0}
    chest: dict[str, object] = {
        "predicted_label": "pediatric_chest", "prob_pediatric_chest": 0.5, "prob_spine": 0.05,
    }  # fmt: skip
    rows = [
        row(1, **waits, confidence=0.9861, prob_spine=0.9861),
        row(2, **waits, confidence=0.98997, prob_spine=0.98997),
        row(3, **waits, **chest, confidence=0.85, patient_age_years=30.0),
        row(9, **waits, **chest, confidence=0.75, **child),
        row(10, **waits, **{**chest, "prob_pediatric_chest": 0.77}, confidence=0.77, **child),
        row(4, **{**waits, "policy_id": "other"}, confidence=0.51),
        *(row(n, policy_id="p1") for n in range(5, 9)),
    ]
    layout = lake_of(tmp_path / "lake", rows)
    thresholds = {"spine": 0.99, "adult_chest": 0.9, "pediatric_chest": 0.99}
    options = {
        "policy_id": "p1", "thresholds": thresholds, "age_thresholds": {"pediatric_chest": 0.8},
    }  # fmt: skip
    write_json(layout.runs, "r", summary("r", options=options))
    page = report(layout)
    for caption in (
        "98.6 % < 99 %",
        "98.9 % < 99 %",
        "85.0 % < 90 %",
        "75.0 % < 80 %",
        "77.0 % < 80 %",
    ):
        assert caption in page.text, caption
    assert page.text.count(" < 9") == 3, "rows of another policy have no known threshold"
    assert (
        "Thresholds: spine 99 %, adult chest 90 %, pediatric chest 99 %. "
        "Where an age decides: pediatric chest 80 %." in page.text
    )
    assert "no header value" in page.text and " at decide" not in page.text
    assert "at most 24 of each list (48 of the wrong headers)" in page.text


def test_few_answers_are_counted_and_people_are_no_model(tmp_path: Path) -> None:
    layout = lake_of(tmp_path / "lake", [row(n, decided_by=BY_PERSON) for n in range(4)])
    for number, answer in enumerate(["others", "others", "others", "unreadable"]):
        append_label(layout, new_label(row(number), answer, "ann", number))
    text = report(layout).text
    assert "Not a radiograph: 0; cannot tell: 1." in text
    assert "spine 3 0 of 3, 0 % 0 % to " in text
    assert "Agreement by manufacturer and model" in text
    assert "people (model then: m1)" in text
    assert "unreadable" not in text.partition("Reviewers and the model")[2].partition("Quar")[0]


def test_objects_with_impossible_names_have_no_picture(tmp_path: Path) -> None:
    names = ["", "\0", "/etc/passwd", "../../etc/passwd", "nowhere://x", "a.zip!/b", str(tmp_path)]
    layout = lake_of(tmp_path / "lake", [row(n, object_uri=name) for n, name in enumerate(names)])
    page = report(layout)
    assert not page.named("img")
    assert page.text.count("could not be decoded") == len(names)


def test_pictures_stop_before_the_page_is_too_large(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    layout = lake_of(tmp_path / "lake", ROWS)
    write_pictures(layout, 9, "2026-01-01")
    monkeypatch.setattr(images, "MAX_IMAGE_BYTES", 2 * len("data:image/webp;base64,") + 200)
    page = report(layout)
    assert len(page.named("img")) == 2
    assert page.text.count("the page would be too large") == 3 + 2 + 7 - 2


def test_plates_are_counted_and_the_views_of_those_that_disagree_named(tmp_path: Path) -> None:
    views = dict(zip(VIEW_COLUMNS, ("spine", 0.97, "others", 0.95), strict=True))
    review = {"status": Status.REVIEW, "destination": "review", "reason": Reason.VIEWS_DISAGREE}
    layout = lake_of(tmp_path / "lake", [row(1, **views), row(2, **review, **views), row(3)])
    page = report(layout)
    assert "2 images show two views side by side; both together were classified." in page.text
    assert "views: spine, others" in page.text


def test_a_second_model_is_compared(tmp_path: Path) -> None:
    second = {"shadow_confidence": 0.95, "shadow_model_id": "second"}
    rows = [row(n, shadow_label="spine", **second) for n in range(3)]
    layout = lake_of(tmp_path / "lake", [*rows, row(3, shadow_label="others", **second), row(4)])
    page = report(layout)
    assert "second gave 3 of 4 images (75.0 %) the same label as m1" in page.text
    assert "1 of 1, those first of which both are most confident" in page.text
    assert "second model: others 95.0 %" in page.text
