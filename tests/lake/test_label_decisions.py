"""Answers of reviewers decide rows, once, whatever happens in between."""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pipeline.cli import main
from tests.lake.rows import append_rows, erase, new_lake, place, rows_in
from tests.leftovers import kill_at
from tests.stores import Store
from transforms.core.reasons import BY_MODEL, BY_PERSON, Reason, Status
from transforms.lake import supersede as supersede_module
from transforms.lake.apply_labels import LakeInUse, apply_labels
from transforms.lake.change_decisions import change_decisions, prepare_changes
from transforms.lake.index_files import list_history, list_index, read_table
from transforms.lake.journal import clear_journal
from transforms.lake.label_decisions import contents_to_decide, decide_by_person
from transforms.lake.labels import (
    NOT_RADIOGRAPH,
    UNDO,
    UNREADABLE,
    Label,
    append_label,
    list_labels,
    merge_labels,
    new_label,
    read_labels,
)
from transforms.lake.layout import Layout
from transforms.lake.lock import lock_lake
from transforms.lake.marker import write_marker
from transforms.lake.schema import IndexRow
from transforms.lake.verify import verify_lake

IMAGES = {"/in/a": b"a", "/in/copy of a": b"a", "/in/b": b"b"}
WAITING: dict[str, Any] = {
    "destination": "review",
    "status": Status.REVIEW,
    "reason": Reason.LOW_CONFIDENCE,
    "header_label": "spine",
    "header_agrees": False,
    "region_code": "818981001",
}


@pytest.fixture(scope="module")
def waiting(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, IndexRow]]:
    """A lake with two images in review, of which one has a duplicate; and their rows."""
    layout = new_lake(tmp_path_factory.mktemp("labels") / "lake")
    rows = {
        source: place(layout, source, data, sop_instance_uid=f"1.{data.hex()}", **WAITING)
        for source, data in IMAGES.items()
    }
    append_rows(layout, *rows.values())
    clear_journal(layout)
    return Path(layout.root), rows


@pytest.fixture
def layout(waiting: tuple[Path, dict[str, IndexRow]], tmp_path: Path) -> Layout:
    shutil.copytree(waiting[0], tmp_path / "lake")
    return Layout(str(tmp_path / "lake"))


@pytest.fixture
def a(waiting: tuple[Path, dict[str, IndexRow]]) -> IndexRow:
    return waiting[1]["/in/a"]


_clock: Iterator[int] = itertools.count(1_000_000)


def answer(
    layout: Layout, row: IndexRow, what: str, reviewer: str = "ann", retracts: str | None = None
) -> Label:
    label = new_label(row, what, reviewer, next(_clock), retracts=retracts)
    append_label(layout, label)
    return label


def undo(layout: Layout, row: IndexRow, label: Label) -> None:
    answer(layout, row, UNDO, label.reviewer, label.label_id)


def state(layout: Layout) -> dict[str, tuple[str, str, str, str]]:
    return {
        row["source_uri"]: (row["status"], row["destination"], row["reason"], row["decided_by"])
        for row in rows_in(layout)
    }


def assert_sound(layout: Layout) -> None:
    report = verify_lake(layout, deep=True)
    assert report.violations == []
    objects = {p.as_posix() for p in Path(layout.root).glob("objects/**/*.dcm")}
    assert objects == {layout.absolute(row["object_uri"]) for row in rows_in(layout)}
    assert not report.journal_files
    assert not contents_to_decide(layout)


BEFORE = (Status.REVIEW, "review", Reason.LOW_CONFIDENCE, BY_MODEL)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("what", "expected", "agrees", "region"),
    [
        ("spine", (Status.ROUTED, "spine", Reason.REVIEWED, BY_PERSON), True, "421060004"),
        ("others", (Status.ROUTED, "others", Reason.REVIEWED, BY_PERSON), False, None),
        (NOT_RADIOGRAPH, (Status.NOT_XRAY, "not_xray", NOT_RADIOGRAPH, BY_PERSON), None, None),
        (UNREADABLE, (Status.REVIEW, "review", Reason.UNREADABLE, BY_PERSON), False, "818981001"),
    ],
)
def test_an_answer_decides_the_image_and_its_duplicates(
    layout: Layout,
    a: IndexRow,
    what: str,
    expected: tuple[str, str, str, str],
    agrees: bool | None,
    region: str | None,
) -> None:
    label = answer(layout, a, what)
    applied = apply_labels(layout)
    assert (applied.images, applied.failures) == (1, ())
    assert state(layout)["/in/a"] == expected
    assert state(layout)["/in/copy of a"][:2] == (Status.DUPLICATE, expected[1])
    assert state(layout)["/in/b"] == BEFORE
    (row, *_) = rows_in(layout)
    assert (row["header_agrees"], row["region_code"]) == (agrees, region)
    assert row["predicted_label"] == a.predicted_label, "what the model said stays known"
    assert round(row["decided_at"].timestamp() * 1e6) == label.answered_at
    assert_sound(layout)
    assert apply_labels(layout).images == 0
    undo(layout, a, label)
    assert apply_labels(layout).images == 1
    (row, *_) = rows_in(layout)
    assert state(layout)["/in/a"] == BEFORE
    assert (row["header_agrees"], row["region_code"]) == (False, "818981001")
    assert_sound(layout)


@pytest.mark.slow
def test_the_latest_answer_counts_in_any_order_of_applying(layout: Layout, a: IndexRow) -> None:
    first = answer(layout, a, "spine")
    second = answer(layout, a, "others", "bob")
    apply_labels(layout)
    assert state(layout)["/in/a"][1] == "others"
    undo(layout, a, second)
    apply_labels(layout)
    assert state(layout)["/in/a"][1] == "spine", "an answer that was never applied before"
    third = answer(layout, a, "abdominal", "bob")
    apply_labels(layout)
    undo(layout, a, third)
    apply_labels(layout)
    assert state(layout)["/in/a"][1] == "spine", "an answer that was applied before"
    assert_sound(layout)
    undo(layout, a, first)
    apply_labels(layout)
    assert state(layout)["/in/a"] == BEFORE
    assert_sound(layout)


def test_the_same_answer_of_two_reviewers_is_applied_once(layout: Layout, a: IndexRow) -> None:
    first = answer(layout, a, "spine")
    apply_labels(layout)
    answer(layout, a, "spine", "bob")
    assert not contents_to_decide(layout)
    undo(layout, a, first)
    apply_labels(layout)
    assert state(layout)["/in/a"][1] == "spine"
    assert_sound(layout)


@pytest.mark.parametrize("reader", ["label_decisions", "verify"])
def test_history_from_which_rows_are_erased_is_listed_again(
    layout: Layout,
    waiting: tuple[Path, dict[str, IndexRow]],
    a: IndexRow,
    monkeypatch: pytest.MonkeyPatch,
    reader: str,
) -> None:
    b = waiting[1]["/in/b"]
    for row in (a, b):
        answer(layout, row, "spine")
    apply_labels(layout)
    answer(layout, a, "others", "bob")
    apply_labels(layout)
    answer(layout, a, "spine", "cleo")
    erased = [str(b.content_sha256)]

    def list_and_erase(of: Layout) -> list[str]:
        files = list_history(of)
        if erased:
            erase(of, erased.pop())
        return files

    monkeypatch.setattr(f"transforms.lake.{reader}.list_history", list_and_erase)
    if reader == "verify":
        superseded = verify_lake(layout).superseded_rows
        assert superseded == verify_lake(layout).superseded_rows > 0
    else:
        assert set(contents_to_decide(layout)) == {a.content_sha256}
    assert erased == []


def test_an_undone_answer_that_was_not_applied_changes_nothing(layout: Layout, a: IndexRow) -> None:
    undo(layout, a, answer(layout, a, "spine"))
    assert apply_labels(layout).images == 0
    assert state(layout)["/in/a"] == BEFORE


@pytest.mark.slow
def test_an_overruled_answer_is_not_applied_again(layout: Layout, a: IndexRow) -> None:
    label = answer(layout, a, "spine")
    apply_labels(layout)
    with lock_lake(layout):
        prepare_changes(layout)
        current = replace(decide_by_person(a, label), decided_by=BY_MODEL, destination="others")
        change_decisions(layout, [current], "later", overrule_people=True)
    assert not contents_to_decide(layout)
    assert state(layout)["/in/a"][1] == "others"
    again = answer(layout, a, "spine")
    apply_labels(layout)
    assert state(layout)["/in/a"][1] == "spine"
    undo(layout, a, again)
    apply_labels(layout)
    assert state(layout)["/in/a"][1] == "others", "the decision before"
    assert_sound(layout)


def test_a_model_that_decides_before_an_answer_is_applied_does_not_lose_it(
    layout: Layout, a: IndexRow
) -> None:
    answer(layout, a, "spine")
    with lock_lake(layout):
        prepare_changes(layout)
        later = replace(a, decided_at=next(_clock) * 2, destination="others", status=Status.ROUTED)
        change_decisions(layout, [later], "later")
    apply_labels(layout)
    assert state(layout)["/in/a"] == (Status.ROUTED, "spine", Reason.REVIEWED, BY_PERSON)


def test_answers_wait_while_another_run_writes(layout: Layout, a: IndexRow) -> None:
    answer(layout, a, "spine")
    with lock_lake(layout), pytest.raises(LakeInUse, match="another run is writing"):
        apply_labels(layout)
    assert state(layout)["/in/a"] == BEFORE
    assert apply_labels(layout, wait=True, timeout=5).images == 1


@pytest.mark.slow
@pytest.mark.parametrize("step", ["put_if_absent", "_rewrite_partition", "remove_unreferenced"])
def test_a_kill_while_answers_are_applied_loses_nothing(
    layout: Layout, a: IndexRow, step: str
) -> None:
    answer(layout, a, "spine")
    assert kill_at(supersede_module, step, 0, False, lambda: apply_labels(layout))
    assert len(read_labels(layout)) == 1
    apply_labels(layout)
    with lock_lake(layout):
        prepare_changes(layout)
    assert state(layout)["/in/a"][1] == "spine"
    assert_sound(layout)


def damage_answer(layout: Layout) -> None:
    append_label(layout, replace(read_labels(layout)[0], label_id="1" * 32, answer="lung"))


def forget_image(layout: Layout) -> None:
    append_label(
        layout, replace(read_labels(layout)[0], label_id="2" * 32, content_sha256="f" * 64)
    )


def undo_nothing(layout: Layout) -> None:
    wrong = replace(read_labels(layout)[0], label_id="3" * 32, answer=UNDO, retracts="4" * 32)
    append_label(layout, wrong)


def flip_a_bit(layout: Layout) -> None:
    path = Path(list_labels(layout)[0])
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def cut(layout: Layout) -> None:
    path = Path(list_labels(layout)[0])
    path.write_bytes(path.read_bytes()[:-20])


def answer_twice(layout: Layout) -> None:
    other = replace(read_labels(layout)[0], answered_at=90_000_000_000, answer="others")
    append_label(layout, other)


@pytest.mark.parametrize(
    ("damage", "kind"),
    [
        (damage_answer, "unknown answer"),
        (forget_image, "answer about an image without a row"),
        (undo_nothing, "undo of an answer that does not exist"),
        (flip_a_bit, "label file with other bytes"),
        (cut, "unreadable label file"),
        (answer_twice, "two answers of one label_id"),
    ],
)
def test_verify_finds_damaged_labels(
    layout: Layout, a: IndexRow, damage: Callable[[Layout], None], kind: str
) -> None:
    answer(layout, a, "spine")
    report = verify_lake(layout, deep=True)
    assert (report.labels, report.violations) == (1, [])
    damage(layout)
    assert {
        v.kind for v in verify_lake(layout, deep=kind != "unreadable label file").violations
    } == {kind}


def test_compact_merges_the_labels_of_past_days(
    layout: Layout, a: IndexRow, capsys: pytest.CaptureFixture[str]
) -> None:
    for what in ("spine", "others", "spine"):
        answer(layout, a, what)
    before = read_labels(layout)
    assert main(["compact", layout.root]) == 0
    assert "labels: 3 files merged" in capsys.readouterr().out
    assert len(list_labels(layout)) == 1
    assert read_labels(layout) == before
    assert verify_lake(layout, deep=True).violations == []


@pytest.mark.slow
def test_answers_in_an_object_store(store: Store) -> None:
    layout = new_lake_in(f"{store.root}/lake")
    row = place(layout, "/in/a", b"a", **WAITING)
    append_rows(layout, row)
    clear_journal(layout)
    labels = [answer(layout, row, what) for what in ("others", "spine")]
    assert read_labels(layout) == labels
    assert apply_labels(layout).moved == 1
    (current,) = [one for uri in list_index(layout) for one in read_table(uri).to_pylist()]
    assert (current["destination"], current["decided_by"]) == ("spine", BY_PERSON)
    assert merge_labels(layout, "1970-01-02") == 2
    assert len(list_labels(layout)) == 1
    undo(layout, row, labels[1])
    apply_labels(layout)
    (current,) = [one for uri in list_index(layout) for one in read_table(uri).to_pylist()]
    assert current["destination"] == "others", "the answer before"
    assert verify_lake(layout, deep=True).violations == []


def new_lake_in(root: str) -> Layout:
    layout = Layout(root)
    write_marker(layout)
    return layout
