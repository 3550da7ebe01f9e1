"""Changed decisions move objects and rows; after any kill, nothing is lost, and a repeat completes."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.lake.rows import append_rows, history, index_row, new_lake, place, rows_in, set_clock
from tests.leftovers import abandon, kill_at
from transforms.core.reasons import BY_PERSON, Reason, Status
from transforms.lake import change_decisions as change_module
from transforms.lake import supersede as supersede_module
from transforms.lake.change_decisions import ChangeResult, change_decisions, prepare_changes
from transforms.lake.index_files import list_index, read_table
from transforms.lake.journal import clear_journal
from transforms.lake.layout import Layout, partition_of
from transforms.lake.marker import write_marker
from transforms.lake.recovery import prepare_recovery
from transforms.lake.schema import IndexRow, from_table
from transforms.lake.verify import verify_lake
from transforms.storage.temporary import remove_abandoned

DAYS = ("2026-03-01", "2026-03-02")
SOURCES = {
    "/in/a": (b"content", "1.1"),
    "/in/b": (b"content", "1.1"),  # a duplicate
    "/in/c": (b"other content", "1.1"),  # a conflict
    "/in/d": (b"another image", "1.2"),
}
REVIEW: dict[str, Any] = {
    "destination": "review",
    "status": Status.REVIEW,
    "reason": Reason.LOW_CONFIDENCE,
    "policy_id": "p2",
}


@pytest.fixture(scope="module")
def routed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A lake of two days; the duplicate came a day after its first."""
    layout = new_lake(tmp_path_factory.mktemp("changes") / "lake")
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


def current(layout: Layout) -> list[IndexRow]:
    return [
        row for uri in list_index(layout) for row in from_table(read_table(uri), partition_of(uri))
    ]


def change(layout: Layout, run_id: str, *sources: str, **columns: Any) -> ChangeResult:
    """Decide the rows of some sources again as a command does."""
    prepare_changes(layout)
    overrule = columns.pop("overrule_people", False)
    given = {**REVIEW, **columns}
    decided = [replace(row, **given) for row in current(layout) if row.source_uri in sources]
    return change_decisions(layout, decided, run_id, overrule_people=overrule)


def objects(layout: Layout) -> set[str]:
    return {
        layout.relative(path.as_posix())
        for root in layout.object_roots
        for path in Path(root).glob("objects/**/*.dcm")
    }


def decisions(layout: Layout) -> dict[str, tuple[str, str]]:
    return {row["source_uri"]: (row["status"], row["destination"]) for row in rows_in(layout)}


def assert_sound(layout: Layout) -> None:
    assert verify_lake(layout, deep=True).violations == []
    assert objects(layout) == {row["object_uri"] for row in rows_in(layout)}
    assert not [*Path(layout.journal).glob("*"), *Path(layout.scratch()).glob("*")]


ALL_IN_REVIEW = {
    "/in/a": (Status.REVIEW, "review"),
    "/in/b": (Status.DUPLICATE, "review"),
    "/in/c": (Status.REVIEW, "review"),
    "/in/d": (Status.REVIEW, "review"),
}


@pytest.mark.slow
def test_objects_move_and_duplicates_follow(layout: Layout) -> None:
    before = {row["source_uri"]: row for row in rows_in(layout)}
    inode = (Path(layout.root) / str(before["/in/a"]["object_uri"])).stat().st_ino
    result = change(layout, "r2", *SOURCES)
    assert (len(result.changed), result.ignored, result.moved) == (3, 1, 3)
    assert_sound(layout)
    assert decisions(layout) == ALL_IN_REVIEW
    after = {row["source_uri"]: row for row in rows_in(layout)}
    assert (Path(layout.root) / str(after["/in/a"]["object_uri"])).stat().st_ino == inode
    assert after["/in/b"]["object_uri"] == after["/in/a"]["object_uri"]
    assert after["/in/b"]["run_id"] == before["/in/b"]["run_id"]
    assert {after[s]["run_id"] for s in ("/in/a", "/in/c", "/in/d")} == {"r2"}
    assert after["/in/a"]["conflict"] and after["/in/c"]["conflict"]
    superseded = {row["source_uri"]: row for row in history(layout.root)}
    for row in superseded.values():
        assert row.pop("superseded_at")
        assert row.pop("superseded_by") == "r2"
    assert superseded == before


def test_a_repeat_changes_nothing(layout: Layout) -> None:
    change(layout, "r2", *SOURCES)
    before = rows_in(layout)
    assert change(layout, "r2", *SOURCES).unchanged == 3
    assert change(layout, "r3", *SOURCES).unchanged == 3
    assert rows_in(layout) == before
    assert len(history(layout.root)) == 4


def test_a_changed_reason_keeps_the_object(layout: Layout) -> None:
    columns = {"destination": "spine", "status": Status.ROUTED, "reason": Reason.SETTLED_BY_AGE}
    result = change(layout, "r2", "/in/d", **columns)
    assert (len(result.changed), result.moved) == (1, 0)
    assert_sound(layout)


@pytest.mark.slow
def test_a_change_and_back_keeps_both_in_the_history(layout: Layout) -> None:
    before = decisions(layout)
    change(layout, "r2", *SOURCES)
    columns = {"destination": "spine", "status": Status.ROUTED, "policy_id": "p1"}
    with pytest.raises(ValueError, match="has decided it differently"):
        change(layout, "r2", *SOURCES, **columns)
    change(layout, "r3", *SOURCES, **columns)
    assert_sound(layout)
    assert decisions(layout) == before
    assert len(history(layout.root)) == 8


@pytest.mark.slow
def test_a_decision_by_a_person_is_kept_unless_asked(layout: Layout) -> None:
    person = {"destination": "abdominal", "status": Status.ROUTED, "decided_by": BY_PERSON}
    assert len(change(layout, "r2", "/in/a", **person).changed) == 1
    model = {"decided_by": "model"}
    assert change(layout, "r3", "/in/a", **model) == ChangeResult(protected=1)
    assert decisions(layout)["/in/a"] == (Status.ROUTED, "abdominal")
    assert len(change(layout, "r4", "/in/a", **{**person, "destination": "others"}).changed) == 1
    assert len(change(layout, "r5", "/in/a", overrule_people=True, **model).changed) == 1
    assert decisions(layout)["/in/a"] == (Status.REVIEW, "review")
    assert_sound(layout)


def test_a_lost_object_keeps_its_decision_and_is_reported(layout: Layout) -> None:
    (row,) = [row for row in rows_in(layout) if row["source_uri"] == "/in/d"]
    lost = Path(layout.root) / str(row["object_uri"])
    data = lost.read_bytes()
    lost.unlink()
    result = change(layout, "r2", *SOURCES)
    (failure,) = result.failures
    assert (failure.object_key, failure.reason) == (row["object_key"], Reason.DISAPPEARED)
    assert decisions(layout) == {**ALL_IN_REVIEW, "/in/d": (Status.ROUTED, "spine")}
    lost.write_bytes(data)
    assert_sound(layout)


@pytest.mark.slow
def test_objects_move_to_a_sink_outside_the_lake_and_back(layout: Layout, tmp_path: Path) -> None:
    elsewhere = Layout(layout.root, {"review": str(tmp_path / "review sink")})
    write_marker(elsewhere)
    change(elsewhere, "r2", *SOURCES)
    assert_sound(elsewhere)
    assert len(list((tmp_path / "review sink").rglob("*.dcm"))) == 3
    change(layout, "r3", *SOURCES, destination="others", status=Status.ROUTED)
    assert_sound(layout)
    assert not list((tmp_path / "review sink").rglob("*.dcm"))


def test_an_indexed_source_stays_where_it_is(tmp_path: Path) -> None:
    layout = new_lake(tmp_path / "lake")
    source = tmp_path / "source.dcm"
    source.write_bytes(b"x")
    row = index_row(str(source), object_uri=str(source))
    append_rows(layout, row)
    assert change(layout, "r2", str(source)).moved == 0
    (after,) = rows_in(layout)
    assert (after["destination"], after["object_uri"]) == ("review", str(source))
    assert source.exists()


def test_a_quarantined_row_is_ignored(layout: Layout) -> None:
    broken = place(
        layout, "/in/e", b"broken", status=Status.QUARANTINED, destination="spine", policy_id=None
    )
    append_rows(layout, broken)
    clear_journal(layout)
    assert change(layout, "r2", "/in/e") == ChangeResult(ignored=1)
    with pytest.raises(ValueError, match="cannot change to quarantined"):
        change(layout, "r2", "/in/d", status=Status.QUARANTINED)


STEPS = {
    "put_link": change_module,
    "put_if_absent": supersede_module,
    "_rewrite_partition": supersede_module,
}
"""See `test_reroute.py` for kills at every step."""


@pytest.mark.kill
@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("call", [0, 1])
@pytest.mark.parametrize("step", STEPS)
def test_a_kill_at_any_step_loses_and_doubles_nothing(
    layout: Layout, step: str, call: int, after: bool
) -> None:
    before = decisions(layout)
    assert kill_at(STEPS[step], step, call, after, lambda: change(layout, "r2", *SOURCES))
    assert verify_lake(layout).violations == []
    for source, decision in decisions(layout).items():
        assert decision in (before[source], ALL_IN_REVIEW[source])
    abandon(Path(layout.scratch()))
    remove_abandoned(layout.scratch())
    prepare_changes(layout)
    prepare_recovery(layout, "another run", "another fingerprint")
    assert_sound(layout)
    change(layout, "r3", *SOURCES)
    assert_sound(layout)
    assert decisions(layout) == ALL_IN_REVIEW
    assert sorted(row["source_uri"] for row in history(layout.root)) == list(SOURCES)
