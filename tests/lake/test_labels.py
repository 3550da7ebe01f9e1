"""Answers of reviewers: durable, never changed, each once whatever a merge is doing."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest

from tests.lake.rows import index_row, new_lake
from tests.leftovers import Killed
from transforms.core.reasons import ProcessingFailure
from transforms.lake import files
from transforms.lake import labels as labels_module
from transforms.lake.labels import (
    LABEL_SCHEMA,
    UNDO,
    Label,
    append_label,
    effective_labels,
    list_labels,
    merge_labels,
    new_label,
    read_labels,
)
from transforms.lake.layout import Layout

DAY = 86_400_000_000
ROW = index_row("/in/a", "a" * 64, confidence=0.5, prob_spine=0.5, ood_score=1.5)


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    return new_lake(tmp_path / "lake")


def label(answer: str, at: int, reviewer: str = "ann", retracts: str | None = None) -> Label:
    return new_label(ROW, answer, reviewer, at, label_id=f"{at:032x}", retracts=retracts)


def test_a_plain_reader_finds_what_was_answered_and_shown(layout: Layout) -> None:
    assert append_label(layout, label("spine", 2 * DAY))
    assert not append_label(layout, label("spine", 2 * DAY)), "sent again"
    (found,) = (
        ds.dataset(Path(layout.labels), format="parquet", partitioning="hive")
        .to_table()
        .to_pylist()
    )
    assert found["answered_date"] == "1970-01-03"
    assert (found["reviewer"], found["answer"], found["confidence"]) == ("ann", "spine", 0.5)
    assert found["content_sha256"] == "a" * 64
    assert found["reason"] == "confident"
    assert read_labels(layout) == [label("spine", 2 * DAY)]
    (uri,) = list_labels(layout)
    assert all(b"description" in field.metadata for field in pq.read_schema(uri))
    with pytest.raises(ProcessingFailure):
        append_label(layout, label("others", 2 * DAY))


def test_columns_of_later_releases_are_ignored(layout: Layout) -> None:
    append_label(layout, label("spine", 1))
    (uri,) = list_labels(layout)
    table = pq.read_table(uri, partitioning=None)
    later = table.drop_columns(["header_label"]).append_column("later", [[1]])
    pq.write_table(later, uri)
    assert read_labels(layout) == [label("spine", 1)]


@pytest.mark.parametrize(
    ("answer", "reviewer", "retracts"),
    [
        ("lung", "ann", None),
        ("spine", "", None),
        ("spine", "=cmd|'/c calc'!A1", None),
        ("spine", "ann\n", None),
        ("spine", "a" * 41, None),
        ("spine", "ann", "0" * 32),
        (UNDO, "ann", None),
    ],
)
def test_invalid_answers_are_refused(answer: str, reviewer: str, retracts: str | None) -> None:
    with pytest.raises(ValueError):
        new_label(ROW, answer, reviewer, 1, retracts=retracts)


def test_the_latest_answer_counts_and_disagreement_stays_visible() -> None:
    first, second = label("spine", 1), label("others", 2, "bob")
    (found,) = effective_labels([second, first]).values()
    assert found.label == second
    assert found.answers == {"ann": "spine", "bob": "others"}
    assert found.disagrees
    (found,) = effective_labels([first, second, label(UNDO, 3, "bob", second.label_id)]).values()
    assert found.label == first
    assert not found.disagrees
    assert found.retracted == {2}
    undone = [first, label(UNDO, 2, "ann", first.label_id)]
    (found,) = effective_labels(undone).values()
    assert found.label is None
    assert not found.answers


def many() -> Iterator[Label]:
    return (label("spine", at) for at in (1, 2, 3, DAY, DAY + 1, 2 * DAY))


@pytest.mark.parametrize("kill_at", range(1, 9))
def test_a_merge_can_be_killed_after_each_step(
    layout: Layout, monkeypatch: pytest.MonkeyPatch, kill_at: int
) -> None:
    for one in many():
        append_label(layout, one)
    before = read_labels(layout)
    assert before == list(many())
    steps = 0

    def stop() -> None:
        nonlocal steps
        steps += 1
        if steps == kill_at:
            raise Killed

    put, remove = files.put_bytes, files.remove_all

    def put_then_stop(*args: Any, **kwargs: Any) -> bool:
        new = put(*args, **kwargs)
        stop()
        return new

    def remove_one_by_one(uris: Iterator[str]) -> None:
        for uri in uris:
            remove([uri])
            stop()

    with monkeypatch.context() as killing:
        killing.setattr(labels_module, "put_bytes", put_then_stop)
        killing.setattr(labels_module, "remove_all", remove_one_by_one)
        with contextlib.suppress(Killed):
            merge_labels(layout, "1970-01-03")
            assert kill_at == 8
    assert read_labels(layout) == before
    merge_labels(layout, "1970-01-03")
    assert read_labels(layout) == before
    days = [uri.rpartition("/")[0].rpartition("=")[2] for uri in list_labels(layout)]
    assert days == ["1970-01-01", "1970-01-02", "1970-01-03"]


def test_labels_of_a_merged_day_are_merged_later(layout: Layout) -> None:
    for one in (label("spine", 1), label("others", 2)):
        append_label(layout, one)
    assert merge_labels(layout, "1970-01-02") == 2
    assert merge_labels(layout, "1970-01-02") == 0, "nothing more to do"
    late = label("others", 3)
    append_label(layout, late)
    assert merge_labels(layout, "1970-01-02") == 2
    assert late in read_labels(layout)
    (uri,) = list_labels(layout)
    found = pq.read_schema(uri)
    assert found.equals(LABEL_SCHEMA)
    assert [field.metadata for field in found] == [field.metadata for field in LABEL_SCHEMA]
