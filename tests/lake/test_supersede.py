"""Later decisions replace rows: at every moment, and after any kill, each version has one current row."""

from __future__ import annotations

import random as random_module
import shutil
from collections import defaultdict
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.lake.rows import (
    FINGERPRINT,
    append_rows,
    history,
    index_row,
    new_lake,
    place,
    rows_in,
    set_clock,
)
from tests.leftovers import abandon, kill_at
from transforms.core.reasons import Status
from transforms.lake import rewrite as rewrite_module
from transforms.lake import supersede as supersede_module
from transforms.lake.journal import clear_journal, list_journal
from transforms.lake.layout import Layout
from transforms.lake.migration import open_lake
from transforms.lake.orphans import remove_unreferenced
from transforms.lake.recovery import prepare_recovery
from transforms.lake.resolve_duplicates import resolve_all
from transforms.lake.schema import IndexRow
from transforms.lake.supersede import RowChange, resolve_changes, supersede
from transforms.lake.verify import verify_lake
from transforms.storage.temporary import remove_abandoned

DAYS = ("2026-03-01", "2026-03-02")
SOURCES = {
    "/in/a": (b"content", "1.1"),
    "/in/b": (b"content", "1.1"),  # a duplicate
    "/in/c": (b"other content", "1.1"),  # a conflict
    "/in/d": (b"another image", "1.2"),
}
REVIEW: dict[str, Any] = {"destination": "review", "status": Status.REVIEW, "policy_id": "p2"}


@pytest.fixture(scope="module")
def routed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A lake of two days; the duplicate came a day after its first."""
    layout = new_lake(tmp_path_factory.mktemp("supersede") / "lake")
    rows = {
        source: place(layout, source, data, sop_instance_uid=uid)
        for source, (data, uid) in SOURCES.items()
    }
    with pytest.MonkeyPatch.context() as monkeypatch:
        for day, sources in zip(DAYS, (("/in/a", "/in/c"), ("/in/b", "/in/d")), strict=True):
            set_clock(monkeypatch, day)
            assert append_rows(layout, *(rows[source] for source in sources)) == 2
    clear_journal(layout)
    return Path(layout.root)


@pytest.fixture
def layout(routed: Path, tmp_path: Path) -> Layout:
    """A copy of `routed`."""
    shutil.copytree(routed, tmp_path / "lake")
    return Layout(str(tmp_path / "lake"))


def decide_again(layout: Layout, run_id: str, *sources: str, **columns: Any) -> int:
    """Decide again as a run does: place, supersede, remove orphans; return the unchanged ones."""
    columns = {**REVIEW, **columns}
    placed = [
        place(
            layout,
            source,
            SOURCES[source][0],
            run_id=run_id,
            sop_instance_uid=SOURCES[source][1],
            **columns,
        )
        for source in sources
    ]
    unchanged = len(supersede(layout, placed, run_id))
    remove_unreferenced(layout, [str(row.object_uri) for row in placed])
    clear_journal(layout)
    return unchanged


def objects(layout: Layout) -> set[str]:
    root = Path(layout.root)
    return {p.relative_to(root).as_posix() for p in root.glob("objects/**/*.dcm")}


def decisions(layout: Layout) -> dict[str, tuple[str, str]]:
    return {row["source_uri"]: (row["status"], row["destination"]) for row in rows_in(layout)}


def assert_sound(layout: Layout) -> None:
    assert verify_lake(layout, deep=True).violations == []
    assert objects(layout) == {row["object_uri"] for row in rows_in(layout)}


ALL_IN_REVIEW = {
    "/in/a": (Status.REVIEW, "review"),
    "/in/b": (Status.DUPLICATE, "review"),
    "/in/c": (Status.REVIEW, "review"),
    "/in/d": (Status.REVIEW, "review"),
}


@pytest.mark.slow
def test_rows_move_to_the_history_and_objects_to_their_sink(layout: Layout) -> None:
    before = {row["source_uri"]: row for row in rows_in(layout)}
    assert decide_again(layout, "r2", *SOURCES) == 0
    assert_sound(layout)
    assert decisions(layout) == ALL_IN_REVIEW
    rows = rows_in(layout)
    assert [row["run_id"] for row in rows] == ["r2"] * 4
    assert [row["conflict"] for row in rows] == [True, True, True, False]
    superseded = {row["source_uri"]: row for row in history(layout.root)}
    assert len(history(layout.root)) == 4
    for row in superseded.values():
        assert row.pop("superseded_at")
        assert row.pop("superseded_by") == "r2"
    assert superseded == before


def test_equal_decisions_change_nothing(layout: Layout) -> None:
    before = sorted(p.name for p in Path(layout.root).rglob("*.parquet"))
    same = {"destination": "spine", "status": Status.ROUTED, "policy_id": "p1"}
    assert decide_again(layout, "r2", "/in/a", "/in/d", **same) == 2
    assert sorted(p.name for p in Path(layout.root).rglob("*.parquet")) == before
    assert_sound(layout)


def test_a_repeat_changes_nothing(layout: Layout) -> None:
    decide_again(layout, "r2", *SOURCES)
    before = rows_in(layout)
    assert decide_again(layout, "r3", *SOURCES) == 4
    assert decide_again(layout, "r2", *SOURCES) == 0, "an engine runs a step again"
    assert rows_in(layout) == before
    assert len(history(layout.root)) == 4


def test_duplicates_follow_their_first(layout: Layout) -> None:
    duplicate = rows_in(layout)[1]
    assert decide_again(layout, "r2", "/in/a") == 0
    assert_sound(layout)
    follower = rows_in(layout)[1]
    moved = {"destination": "review", "object_uri": follower["object_uri"]}
    assert follower == {**duplicate, **moved}, "nothing else of it was decided again"
    assert {row["source_uri"] for row in history(layout.root)} == {"/in/a", "/in/b"}


def test_a_first_that_is_unreadable_now_leaves_its_content_to_a_duplicate(layout: Layout) -> None:
    """As a limit is lower, or a codec is no longer installed."""
    unreadable = {"destination": "spine", "status": Status.QUARANTINED, "policy_id": None}
    assert decide_again(layout, "r2", "/in/a", **unreadable) == 0
    found = decisions(layout)
    assert found["/in/a"] == (Status.QUARANTINED, "spine")
    assert found["/in/b"] == (Status.ROUTED, "spine")


STEPS = {
    "_write_intent": supersede_module,
    "put_if_absent": supersede_module,
    "_rewrite_partition": supersede_module,
    "seal_logs_ending_in": supersede_module,
    "rewrite": supersede_module,
    "remove_unreferenced": supersede_module,
    "exchange": rewrite_module,
}


@pytest.mark.slow
@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("call", [0, 1])
@pytest.mark.parametrize("step", STEPS)
def test_a_kill_at_any_step_leaves_one_current_row_for_each_version(
    layout: Layout, tmp_path: Path, step: str, call: int, after: bool
) -> None:
    def again() -> object:
        return decide_again(layout, "r2", *SOURCES)

    if not kill_at(STEPS[step], step, call, after, again):
        assert (step, call) in {("_write_intent", 1), ("remove_unreferenced", 1)}
        return
    assert verify_lake(layout, deep=True).violations == []
    abandon(Path(layout.scratch()))
    remove_abandoned(layout.scratch())

    repeated = Layout(str(tmp_path / "repeated"))
    shutil.copytree(layout.root, repeated.root)
    for plain in (layout, repeated):
        open_lake(plain)
        prepare_recovery(plain, "second", FINGERPRINT)
        assert not list_journal(plain)
        assert not list(Path(plain.journal).iterdir())
        assert not list(Path(plain.scratch()).iterdir())
        assert verify_lake(plain, deep=True).violations == []
        assert objects(plain) == {row["object_uri"] for row in rows_in(plain)}
        rows, old = set(map(state_of, rows_in(plain))), list(map(state_of, history(plain.root)))
        assert not rows.intersection(old), "a row is current or superseded"
        assert len(old) == len(set(old))
    decide_again(repeated, "r3", *SOURCES)
    assert_sound(repeated)
    assert decisions(repeated) == ALL_IN_REVIEW
    old = list(map(state_of, history(repeated.root)))
    assert len(old) == len(set(old))
    assert {source for source, *_ in old} == set(SOURCES)
    follower = [source for source, *_ in old if source == "/in/b"]
    assert len(old) - len(follower) == len(SOURCES) - 1


def state_of(row: dict[str, Any]) -> tuple[str, ...]:
    return tuple(row[name] for name in ("source_uri", "policy_id", "status", "destination"))


def one_row(source: str, content: str, destination: str, *, readable: bool) -> IndexRow:
    status = Status.ROUTED if readable else Status.QUARANTINED
    return index_row(source, content, destination=destination, status=status)


def source_of(row: IndexRow) -> str:
    return row.source_uri


current_rows = st.lists(
    st.builds(
        one_row,
        st.sampled_from([f"/s{n}" for n in range(6)]),
        st.sampled_from("ab"),
        st.just("spine"),
        readable=st.booleans(),
    ),
    min_size=1,
    max_size=6,
    unique_by=source_of,
)


@given(current_rows, st.data(), st.randoms())
def test_regrouped_rows_have_one_first_for_each_content(
    rows: list[IndexRow], data: st.DataObject, random: random_module.Random
) -> None:
    """Whichever rows are decided again and however; the order of rows does not matter."""
    current = resolve_all(rows, []).rows
    chosen = data.draw(st.lists(st.sampled_from(current), unique_by=source_of))
    later = {
        row.version_key: replace(
            one_row(
                row.source_uri,
                str(row.content_sha256),
                data.draw(st.sampled_from(["spine", "review"])),
                readable=data.draw(st.booleans()),
            ),
            run_id="r2",
        )
        for row in chosen
    }
    changes = resolve_changes(current, later)
    after = {row.version_key: row for row in current}
    for change in changes:
        assert after[change.old.version_key] is change.old
        assert change.new is not None
        after[change.old.version_key] = change.new
    assert {version for version, row in after.items() if row.run_id == "r2"} == later.keys()

    contents: dict[str, list[IndexRow]] = defaultdict(list)
    for row in after.values():
        if row.status != Status.QUARANTINED:
            contents[str(row.content_sha256)].append(row)
    for group in contents.values():
        (first,) = [row for row in group if row.status != Status.DUPLICATE]
        assert {(row.object_uri, row.destination) for row in group} == {
            (first.object_uri, first.destination)
        }
    assert all(row.conflict for row in after.values() if is_new_conflict(row, contents))

    def key(change: RowChange) -> str:
        return change.old.source_uri

    random.shuffle(current)
    assert sorted(resolve_changes(current, later), key=key) == sorted(changes, key=key)


def is_new_conflict(row: IndexRow, contents: dict[str, list[IndexRow]]) -> bool:
    return row.run_id == "r2" and row.status != Status.QUARANTINED and len(contents) > 1
