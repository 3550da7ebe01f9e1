"""Some anonymizers give every object one UID: an identity may have as many rows as the lake."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Final

from tests.lake.rows import append_rows, existing, index_row, new_lake, rows_in
from transforms.core.reasons import Status
from transforms.lake.resolve_duplicates import resolve
from transforms.lake.schema import IndexRow
from transforms.lake.supersede import resolve_changes

ROWS: Final = 50_000
"""Took more than an hour when each row was compared with each other."""


def rows(number: int = ROWS) -> list[IndexRow]:
    """Return rows of one SOP Instance UID, of which every tenth repeats a content."""
    return [
        index_row(f"/in/{n:06d}", f"{n - (n % 10 == 9):064x}", run_id="r") for n in range(number)
    ]


def counts(resolved: list[IndexRow]) -> Counter[tuple[str | None, bool | None]]:
    return Counter((row.status, row.conflict) for row in resolved)


def test_new_rows_are_resolved() -> None:
    resolution = resolve(rows(), [])
    assert counts(resolution.rows) == {
        (Status.ROUTED, True): ROWS * 9 // 10,
        (Status.DUPLICATE, True): ROWS // 10,
    }
    assert resolution.orphans == []


def test_new_rows_are_resolved_with_existing_ones() -> None:
    first = [existing(row) for row in resolve(rows(), []).rows]
    again = [replace(row, source_uri=f"{row.source_uri} again") for row in rows()]
    assert counts(resolve(again, first).rows) == {(Status.DUPLICATE, True): ROWS}


def test_rows_that_are_decided_again_are_resolved() -> None:
    current = resolve(rows(), []).rows
    later = {
        row.version_key: replace(
            index_row(
                row.source_uri, str(row.content_sha256), destination="review", status=Status.REVIEW
            ),
            run_id="r2",
        )
        for row in current
    }
    changes = resolve_changes(current, later)
    assert counts([change.new for change in changes if change.new]) == {
        (Status.REVIEW, True): ROWS * 9 // 10,
        (Status.DUPLICATE, True): ROWS // 10,
    }


def test_a_stream_appends_them(tmp_path: Path) -> None:
    layout = new_lake(tmp_path / "lake")
    number = 5_000
    for start in range(0, number, 1_000):
        assert append_rows(layout, *rows(number)[start : start + 1_000]) == 1_000
    found = Counter(row["status"] for row in rows_in(layout))
    assert found == {"routed": number * 9 // 10, "duplicate": number // 10}
