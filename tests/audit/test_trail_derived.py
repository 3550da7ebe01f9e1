"""The audit trail reports the studies from which objects are derived."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.audit.audit_messages import lines, summary_of
from tests.audit.trails import audited, change, instances, row_of
from tests.lake.rows import append_rows, new_lake
from transforms.core.run_id import new_run_id
from transforms.lake.derived import to_rows, write_derived
from transforms.lake.index_files import list_index
from transforms.lake.layout import Layout, partition_of
from transforms.lake.schema import IndexRow


def write_rows_of_derived(
    layout: Layout, rows: Sequence[IndexRow], run_id: str, at: int, statuses: Sequence[str]
) -> None:
    """Replace the table of derived objects."""
    written = [
        {
            "content_sha256": row.content_sha256,
            "destination": row.destination,
            "status": status,
            "run_id": run_id,
            "derived_at": at,
        }
        for row, status in zip(rows, statuses, strict=True)
    ]
    (day,) = {partition_of(uri) for uri in list_index(layout)}
    write_derived(layout, day, to_rows(written))


def test_studies_from_which_objects_are_derived_are_reported(tmp_path: Path) -> None:
    layout, file = new_lake(tmp_path / "lake"), tmp_path / "audit.xml"
    trail, run = audited(layout, file), new_run_id()
    rows = [
        row_of(number, run, content_sha256=f"{number:064x}", destination=destination)
        for number, destination in enumerate(("spine", "others", "spine"))
    ]
    append_rows(layout, *rows)
    trail.begin()

    def derive(run_id: str, at: int, *statuses: str) -> None:
        write_rows_of_derived(layout, rows, run_id, at, statuses)

    derive(new_run_id(), 1, "written", "refused", "written")
    assert trail.report() == 1
    (found,) = map(summary_of, lines(file))
    assert (found["event"], found["action"]) == ("DICOM Instances Accessed", "R")
    assert (found["types"], found["study"], found["instances"]) == (["derived"], "1.9.0", 2)
    assert found["details"]["destination:spine"] == "2"
    assert (trail.report(), audited(layout, file).report()) == (0, 0)
    second = new_run_id()
    derive(second, 2, "written", "failed", "failed")  # a batch
    assert (trail.report(), audited(layout, file).report()) == (1, 0)
    derive(second, 3, "written", "written", "refused")  # and the next one of the same run
    assert trail.report() == 2


def test_the_source_of_a_derived_object_is_found_while_its_decision_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    layout, file = new_lake(tmp_path / "lake"), tmp_path / "audit.xml"
    rows = [row_of(number, new_run_id(), content_sha256=f"{number:064x}") for number in range(3)]
    append_rows(layout, *rows)
    trail = audited(layout, file)
    trail.begin()
    write_rows_of_derived(layout, rows, new_run_id(), 1, ["written"] * 3)

    def killed(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("transforms.lake.supersede.remove_derived", killed)
    with pytest.raises(KeyboardInterrupt):
        change(layout, rows[0])
    trail.report()
    found = [one for one in map(summary_of, lines(file)) if "derived" in one["types"]]
    assert [(one["study"], one["instances"]) for one in found] == [("1.9.0", 2), ("1.9.1", 1)]
    assert instances(file, "rerouted") == 0


def test_a_derived_object_whose_source_is_lost_is_about_no_study(tmp_path: Path) -> None:
    layout, file = new_lake(tmp_path / "lake"), tmp_path / "audit.xml"
    rows = [row_of(number, new_run_id(), content_sha256=f"{number:064x}") for number in range(2)]
    append_rows(layout, rows[0])
    trail = audited(layout, file)
    trail.begin()
    write_rows_of_derived(layout, rows, new_run_id(), 1, ["written"] * 2)
    assert trail.report() == 1
    assert summary_of(lines(file)[0])["study"] == "1.9.0"
