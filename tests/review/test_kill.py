"""A review that is killed at any moment loses no confirmed answer, and the next one completes it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conformance import violations
from tests.conftest import Lake
from tests.review.conftest import IMAGES
from tests.review.reviews import Browser, Review
from transforms.lake.apply_labels import apply_labels
from transforms.lake.labels import effective_labels, read_labels
from transforms.lake.layout import Layout
from transforms.lake.verify import verify_lake

pytestmark = [pytest.mark.kill, pytest.mark.slow]

KILLS = 20
DESTINATION = {"not_radiograph": "not_xray", "unreadable": "review"}


@pytest.fixture(scope="module")
def killed(waiting: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The lakes of sessions that were killed at 20 steps, and what they had confirmed."""
    folder = tmp_path_factory.mktemp("killed")
    done = subprocess.run(
        [sys.executable, "-m", "tests.review.kill_session", str(waiting / "lake"), str(folder),
         str(KILLS)],
        capture_output=True,
        text=True,
        check=True,
    )  # fmt: skip
    assert int(done.stdout) == KILLS
    return folder


def test_no_confirmed_answer_is_lost_and_the_next_review_applies_all(
    killed: Path, waiting: Path
) -> None:
    before = Lake(waiting / "lake")
    confirmed_at_all = applied_at_kill = 0
    for number in range(KILLS):
        lake, layout = Lake(killed / str(number)), Layout(str(killed / str(number)))
        lines = (killed / f"{number}.jsonl").read_text().splitlines()
        confirmed = [json.loads(line) for line in lines]
        labels = read_labels(layout)
        stored = {one.label_id for one in labels} | {one.retracts for one in labels}
        assert {one["label_id"] for one in confirmed} <= stored
        undone = {one.retracts for one in labels}
        assert {one["label_id"] for one in confirmed if one["answer"] == "undo"} <= undone
        applied_at_kill += sum(row["decided_by"] == "person" for row in lake.rows())
        apply_labels(layout)
        assert verify_lake(layout, deep=True).violations == []
        assert violations(lake.root) == []
        rows = {r["content_sha256"]: r for r in lake.rows() if r["status"] != "duplicate"}
        assert len(rows) == 2 * IMAGES
        assert len(lake.rows()) == len(before.rows())
        answered = {c: e.label for c, e in effective_labels(labels).items() if e.label}
        for content, row in rows.items():
            label = answered.get(content)
            assert (row["decided_by"] == "person") is (label is not None)
            if label is not None:
                assert row["destination"] == DESTINATION.get(label.answer, label.answer)
        confirmed_at_all += len(confirmed)
        assert apply_labels(layout).images == 0
    assert confirmed_at_all > KILLS
    assert applied_at_kill > 0


def test_a_killed_server_has_stored_what_it_has_confirmed(copied: Lake) -> None:
    with Review(copied.root, "--apply_interval=1000") as review:
        browser = Browser(review, "ann")
        contents = []
        for answer in ("spine", "abdominal", "others"):
            content = browser.next()
            assert content is not None
            browser.answer(content, answer)
            contents.append(content)
        review.process.kill()
    layout = Layout(str(copied.root))
    assert [one.content_sha256 for one in read_labels(layout)] == contents
    with Review(copied.root, "--apply_interval=1000") as review:
        printed = review.end()
    assert "not applied yet: 3" in printed
    assert "decisions changed: 3" in printed
    rows = {r["content_sha256"]: r for r in copied.rows() if r["status"] != "duplicate"}
    assert [rows[one]["destination"] for one in contents] == ["spine", "abdominal", "others"]
    assert verify_lake(layout, deep=True).violations == []
