"""Derived objects follow decisions and erasures, and all are accounted for."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.cli import main
from pipeline.derived import AfterChanges, write_missing_derived
from tests.lake.derived.lakes import (
    ROOT,
    derivations_of,
    derived_rows,
    files_in,
    layout_of,
    problems,
    rows_of,
    small_lake,
)
from tests.lake.rows import append_rows, new_lake
from transforms.core.reasons import Status
from transforms.lake.apply_labels import apply_labels
from transforms.lake.change_decisions import change_decisions, prepare_changes
from transforms.lake.derived import count_derived, remove_derived
from transforms.lake.erasure_places import PLACES, Erasure
from transforms.lake.files import remove_all
from transforms.lake.labels import append_label, new_label
from transforms.lake.layout import Layout
from transforms.lake.schema import IndexRow


def test_derived_objects_follow_decisions(folder: Path) -> None:
    layout = layout_of(folder)
    (row,) = [r for r in rows_of(layout) if r.destination == "others"]
    append_label(layout, new_label(row, "spine", "ann", 1_000_000))
    assert apply_labels(layout).images == 1  # without the policy: removed, not written
    assert problems(folder) == []
    assert len(files_in(folder)) == 1
    append_label(layout, new_label(row, "others", "ann", 2_000_000))
    then = AfterChanges(derivations_of(str(folder / "key"), str(folder / "research")))
    assert apply_labels(layout, then=then).images == 1
    assert sorted(name.split("/")[0] for name in files_in(folder)) == ["lake", "research"]
    (routed,) = [r for r in rows_of(layout) if r.source_uri == row.source_uri]
    prepare_changes(layout)
    reviewed = replace(routed, status=Status.REVIEW, destination="review")
    change_decisions(layout, [reviewed], "review", overrule_people=True)
    assert [name.split("/")[0] for name in files_in(folder)] == ["research"]
    assert problems(folder) == []


def test_other_days_are_not_read_after_a_change(folder: Path) -> None:
    layout = layout_of(folder)
    rows = rows_of(layout)
    shutil.rmtree(folder / "lake" / "derived")  # everything is missing
    for table in ("index", "derived"):
        damaged = folder / "lake" / table / "ingest_date=2026-01-02"
        damaged.mkdir(parents=True)
        name = "derived.parquet" if table == "derived" else "log-002-001-000000001.parquet"
        (damaged / name).write_bytes(b"damaged: whoever reads it fails")
    changed = [row for row in rows if row.destination == "others"]
    derivations = derivations_of(str(folder / "key"), str(folder / "research"))
    for expected in ({"written": 1}, {}):
        found = write_missing_derived(layout, derivations, "again", threads=1, changed=changed)
        assert found == expected
    contents = [str(row.content_sha256) for row in rows]
    (day,) = {row.ingest_date for row in rows}
    assert remove_derived(layout, contents, changed_in=[day]) == 0
    assert remove_derived(layout, contents, changed_in=["2026-01-03"]) == 0


def test_the_first_change_of_a_review_derives_what_is_missing(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    layout = layout_of(folder)
    (row,) = [row for row in rows_of(layout) if row.destination == "others"]
    shutil.rmtree(folder / "lake" / "derived")
    then = AfterChanges(derivations_of(str(folder / "key"), str(folder / "research")))
    then(layout, [row])
    assert len(derived_rows(folder / "lake")) == 3
    shutil.rmtree(folder / "lake" / "derived")
    then(layout, [row])
    assert len(derived_rows(folder / "lake")) == 1  # only the changed row
    with monkeypatch.context() as full:
        full.setattr("pipeline.derived.write_derived", fail)
        with pytest.raises(OSError, match="no space"):
            shutil.rmtree(folder / "lake" / "derived")
            then(layout, [row])
    then(layout, [row])
    assert len(derived_rows(folder / "lake")) == 3


def fail(*args: object) -> None:
    raise OSError("no space")


def test_verify_finds_violations(folder: Path) -> None:
    layout = layout_of(folder)
    (inside,) = (folder / "lake" / "derived_objects").rglob("*.dcm")
    data = inside.read_bytes()
    inside.write_bytes(data[:-1] + b"x")
    assert problems(folder) == ["derived object with other bytes"]
    inside.write_bytes(data[:-1])
    assert set(problems(folder)) == {
        "derived object of another size",
        "derived object with other bytes",
    }
    inside.unlink()
    assert problems(folder) == ["derived row without an object"]
    (inside.parent / "other.dcm").write_bytes(b"")
    (folder / "research" / "derived_objects" / "orphan.dcm").write_bytes(b"")
    assert sorted(problems(folder))[:2] == ["derived object without a row"] * 2
    remove_all([str(inside.parent / "other.dcm"), f"{folder}/research/derived_objects/orphan.dcm"])
    (row,) = [r for r in rows_of(layout) if r.destination == "others"]
    shutil.rmtree(folder / "lake" / "index")
    append_rows(layout, *[r for r in small_lake_rows(folder) if r.source_uri != row.source_uri])
    assert "derived object of another decision" in problems(folder)


def small_lake_rows(folder: Path) -> list[IndexRow]:
    other = Layout(str(folder / "copy"))
    new_lake(folder / "copy")
    return small_lake(other)


def test_erasure_includes_derived_objects(folder: Path) -> None:
    layout = layout_of(folder)
    contents = frozenset(row["content_sha256"] for row in derived_rows(folder / "lake"))
    (place,) = [one for one in PLACES if one.name == "derived objects"]
    assert place.erase(layout, Erasure(contents), False) == count_derived(layout, contents) == 3
    assert place.erase(layout, Erasure(contents), True) == 3
    assert files_in(folder) == {}
    assert not list((folder / "lake" / "derived").rglob("*.parquet"))
    assert remove_derived(layout, contents) == 0


def test_forgetting_a_study_forgets_what_was_derived_and_is_audited(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lake, audit = str(folder / "lake"), folder / "audit.xml"
    (inside,) = (folder / "lake" / "derived_objects").rglob("*.dcm")
    forget = ["forget", lake, "--study", f"{ROOT}.1.2", "--apply", "--ordered_by", "order 7"]
    assert main([*forget, "--audit_syslog", "tcp://127.0.0.1:1"]) == 1
    assert "--audit_syslog" in capsys.readouterr().err
    assert inside.exists()
    assert main([*forget, "--audit_file", str(audit)]) == 0
    assert list((folder / "lake" / "derived_objects").rglob("*=2.25.*")) == []  # nor its folders
    assert len(derived_rows(folder / "lake")) == 2
    assert problems(folder) == []
    *_, message = audit.read_text().splitlines()
    assert 'csd-code="110105"' in message  # DICOM Study Deleted
    assert f"{ROOT}.1.2" in message
