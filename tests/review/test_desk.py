"""Who sees which image, and what becomes of answers."""

from __future__ import annotations

import time
import uuid
from pathlib import Path

import pyarrow.dataset as ds
import pytest

from models.bundle import read_info
from models.default_bundle import DEFAULT_BUNDLE
from pipeline.review.applier import Applier
from pipeline.review.desk import CLAIM_S, NothingToUndo, OtherAnswer, ReviewDesk, UnknownImage
from pipeline.review.options import ReviewOptions
from pipeline.review.queues import Queue, load_waiting
from tests.conftest import Lake
from tests.lake.rows import erase
from tests.review.conftest import IMAGES
from tests.review.reviews import Browser, Review
from transforms.core.labels import ADULT_CHEST, LABELS, OTHERS, SPINE
from transforms.lake.labels import UNDO, append_label, new_label, read_labels
from transforms.lake.layout import Layout
from transforms.lake.lock import lock_lake
from transforms.lake.verify import verify_lake

ANN, BOB = "a" * 32, "b" * 32


class Clock:
    """A clock that shows what a test sets."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def layout(copied: Lake) -> Layout:
    return Layout(str(copied.root))


@pytest.fixture
def desk(layout: Layout, clock: Clock) -> ReviewDesk:
    return ReviewDesk(layout, below=0.8, clock=clock)


def take(desk: ReviewDesk, client: str, queue: Queue = Queue.REVIEW) -> str:
    row = desk.next(client, queue)
    assert row is not None
    return str(row.content_sha256)


def answer(desk: ReviewDesk, content: str, what: str = "spine", reviewer: str = "ann") -> str:
    return desk.answer(reviewer, content, what, uuid.uuid4().hex).label_id


def test_no_answer_about_an_erased_image_is_stored(desk: ReviewDesk, layout: Layout) -> None:
    first, second = take(desk, ANN), take(desk, BOB)
    answer(desk, first)
    erase(layout, first, second)  # by another process, while this review is open
    for what in (lambda: answer(desk, second), lambda: desk.undo(ANN, "ann")):
        with pytest.raises(UnknownImage):
            what()
    assert read_labels(layout) == []
    assert verify_lake(layout).violations == []
    third = take(desk, BOB)
    assert third not in (first, second)
    answer(desk, third)
    assert [label.content_sha256 for label in read_labels(layout)] == [third]


def test_queues_have_the_images_that_wait_each_once(layout: Layout) -> None:
    waiting = load_waiting(layout, (), below=1.1)
    review, disagreements, uncertain = (waiting.order[queue] for queue in Queue)
    assert len(review) == IMAGES, "the duplicate is not shown again"
    assert waiting.totals[Queue.REVIEW] == IMAGES
    assert len({*review, *disagreements, *uncertain}) == 2 * IMAGES
    rows = [waiting.rows[content] for content in review]
    assert [r.confidence for r in rows] == sorted(float(r.confidence or 0) for r in rows)
    assert all(waiting.rows[content].header_agrees is False for content in disagreements)
    assert load_waiting(layout, (), below=0.0).totals[Queue.UNCERTAIN] == 0
    few = load_waiting(layout, review[:2], below=1.1, limit=3)
    assert (few.order[Queue.REVIEW], few.totals[Queue.REVIEW]) == (review[2:5], IMAGES - 2)


def test_a_sample_of_routed_images_waits_whatever_their_confidence(layout: Layout) -> None:
    every = load_waiting(layout, (), below=1.1)
    whole = load_waiting(layout, (), below=0.0, sample=1000)
    assert sorted(whole.order[Queue.UNCERTAIN]) == sorted(every.order[Queue.UNCERTAIN])
    assert whole.totals[Queue.REVIEW] == every.totals[Queue.REVIEW]
    rows = len(ds.dataset(layout.index, format="parquet").to_table())
    some = load_waiting(layout, (), below=0.0, sample=rows // 2).order[Queue.UNCERTAIN]
    share = {content: int(content, 16) / 16**64 for content in every.order[Queue.UNCERTAIN]}
    assert set(some) == {content for content in share if share[content] < rows // 2 / rows}
    rest = load_waiting(layout, some[:1], below=0.0, sample=rows // 2).order[Queue.UNCERTAIN]
    assert rest == some[1:]


def test_by_default_routed_images_near_their_threshold_wait() -> None:
    thresholds = read_info(DEFAULT_BUNDLE).thresholds
    effective = {label for label in LABELS if thresholds[label] < ReviewOptions().confidence_below}
    assert {ADULT_CHEST, SPINE, OTHERS} <= effective


def test_an_image_of_one_reviewer_is_kept_from_others_for_some_minutes(
    desk: ReviewDesk, clock: Clock
) -> None:
    first = take(desk, ANN)
    assert take(desk, ANN) == first, "as after a reload"
    assert take(desk, BOB) != first
    clock.now = CLAIM_S + 1
    assert take(desk, "c" * 32) == first


def test_all_images_are_handed_out_once_and_others_are_reported(desk: ReviewDesk) -> None:
    held = [take(desk, f"{number:032x}") for number in range(IMAGES)]
    assert len(set(held)) == IMAGES
    assert desk.next(ANN, Queue.REVIEW) is None
    assert desk.counts()[Queue.REVIEW] == IMAGES


def test_skipped_images_come_again_after_the_others(desk: ReviewDesk) -> None:
    seen = []
    for _ in range(IMAGES):
        seen.append(take(desk, ANN))
        desk.skip(ANN, seen[-1])
    assert len(set(seen)) == IMAGES
    assert take(desk, ANN) == seen[0]


def test_an_answered_image_leaves_the_queue_and_comes_back_by_undo(
    desk: ReviewDesk, layout: Layout
) -> None:
    content = take(desk, ANN)
    answer(desk, content)
    assert desk.counts()[Queue.REVIEW] == IMAGES - 1
    assert desk.answers_of("ann") == 1
    assert take(desk, ANN) != content
    assert desk.undo(ANN, "ann").content_sha256 == content
    assert take(desk, ANN) == content
    assert desk.counts()[Queue.REVIEW] == IMAGES
    with pytest.raises(NothingToUndo):
        desk.undo(ANN, "ann")
    with pytest.raises(NothingToUndo):
        desk.undo(BOB, "bob")
    times = [label.answered_at for label in read_labels(layout)]
    assert times == sorted(set(times))


def test_an_undo_takes_back_the_own_answers_one_by_one_also_of_earlier_reviews(
    desk: ReviewDesk, layout: Layout
) -> None:
    answered = []
    for reviewer in ("ann", "bob", "ann"):
        answered.append(take(desk, ANN))
        answer(desk, answered[-1], reviewer=reviewer)
    later = ReviewDesk(layout, below=0.8)
    assert later.undo(ANN, "ann").content_sha256 == answered[2]
    assert later.undo(ANN, "ann").content_sha256 == answered[0]
    assert later.answers_of("bob") == 1


def test_an_answer_that_is_sent_again_is_stored_once(desk: ReviewDesk, layout: Layout) -> None:
    content = take(desk, ANN)
    label_id = answer(desk, content)
    assert desk.answer("ann", content, "spine", label_id).label_id == label_id
    assert len(read_labels(layout)) == 1
    with pytest.raises(OtherAnswer):
        desk.answer("ann", content, "others", label_id)
    with pytest.raises(UnknownImage):
        answer(desk, "f" * 64)


def test_answers_of_another_process_are_found(
    desk: ReviewDesk, layout: Layout, clock: Clock
) -> None:
    first, *others = load_waiting(layout, (), 0.8).order[Queue.REVIEW]
    for content in others:
        append_label(layout, new_label(desk.row(content), "spine", "bob", 1))
    clock.now = 1000
    assert take(desk, ANN) == first
    assert desk.next(BOB, Queue.REVIEW) is None
    assert desk.counts()[Queue.REVIEW] == 1


@pytest.mark.slow
def test_answers_wait_for_another_run_and_are_applied_by_the_next_review(
    copied: Lake, layout: Layout
) -> None:
    desk = ReviewDesk(layout, below=0.8)
    applier = Applier(layout, desk.effective, interval=1000)
    content = take(desk, ANN)
    with lock_lake(layout):
        answer(desk, content, "abdominal")
        applier.add(content)
        progress = applier.apply()
        assert (progress.changed, progress.waiting) == (0, 1)
        assert "another run is writing" in progress.problem
        with Review(copied.root, "--apply_interval=0.1") as review:
            printed = review.end()
        assert "not applied yet: 1" in printed
        assert "answers that wait: 1" in printed
    with Review(copied.root, "--apply_interval=1000") as review:
        printed = review.end()
    assert "decisions changed: 1, objects moved: 1, answers that wait: 0" in printed
    (row,) = [
        r for r in copied.rows() if r["content_sha256"] == content and r["decided_by"] == "person"
    ]
    assert row["destination"] == "abdominal"
    assert verify_lake(layout, deep=True).violations == []


def wait_until_applied(browser: Browser, changes: int) -> None:
    while browser.post("reviewer", reviewer="ann")["changed"] < changes:
        time.sleep(0.05)


@pytest.mark.slow
def test_an_image_is_shown_after_its_object_was_moved(copied: Lake) -> None:
    with Review(copied.root, "--apply_interval=0.1") as review:
        browser = Browser(review, "ann")
        content = browser.next()
        assert content is not None
        browser.answer(content, "spine")
        wait_until_applied(browser, 1)
        assert browser.post("undo")["item"]["content"] == content
        wait_until_applied(browser, 2)
        response, pixels = browser.request("GET", f"/image/{content}")
        assert (response.status, len(pixels)) == (200, 2 * 96 * 64)
        (path,) = copied.root.rglob(f"*~{content[:16]}.dcm")
        path.write_bytes(b"other bytes")
        response, body = browser.request("GET", f"/image/{content}?full&frame=2")
        assert response.status == 422
        assert b"cannot be shown" in body


def test_labels_name_what_was_shown(copied: Lake, layout: Layout, desk: ReviewDesk) -> None:
    content = take(desk, ANN)
    answer(desk, content)
    desk.undo(ANN, "ann")
    shown = desk.row(content)
    first, second = read_labels(layout)
    assert second.answer == UNDO
    assert second.retracts == first.label_id
    for label in (first, second):
        assert label.object_key == shown.object_key
        assert (label.destination, label.reason) == ("review", "too_small")
        assert label.confidence == pytest.approx(shown.confidence)
        assert label.model_id == shown.model_id
    assert Path(copied.root / "labels").is_dir()
