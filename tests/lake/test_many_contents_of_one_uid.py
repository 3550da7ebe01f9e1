"""Some anonymizers give every object one UID: an identity may have as many rows as the lake."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Final

import pytest

from tests.lake.rows import append_rows, existing, index_row, new_lake, rows_in
from transforms.core.reasons import Status
from transforms.lake.resolve_duplicates import Resolution, resolve
from transforms.lake.schema import IndexRow
from transforms.lake.supersede import resolve_changes

pytestmark = pytest.mark.slow

ROWS: Final = 50_000
"""Took more than an hour when each row was compared with each other."""


def rows(number: int = ROWS) -> list[IndexRow]:
    """Return rows of one SOP Instance UID, of which every tenth repeats a content."""
    return [
        index_row(f"/in/{n:06d}", f"{n - (n % 10 == 9):064x}", run_id="r") for n in range(number)
    ]


@pytest.fixture(scope="module")
def resolution() -> Resolution:
    return resolve(rows(), [])


def counts(resolved: list[IndexRow]) -> Counter[tuple[str | None, bool | None]]:
    return Counter((row.status, row.conflict) for row in resolved)


def test_new_rows_are_resolved(resolution: Resolution) -> None:
    assert counts(resolution.rows) == {
        (Status.ROUTED, True): ROWS * 9 // 10,
        (Status.DUPLICATE, True): ROWS // 10,
    }
    assert resolution.orphans == []


def test_new_rows_are_resolved_with_existing_ones(resolution: Resolution) -> None:
    again = [replace(row, source_uri=f"{row.source_uri} again") for row in resolution.rows[::2]]
    resolved = resolve(again, [existing(row) for row in resolution.rows]).rows
    assert counts(resolved) == {(Status.DUPLICATE, True): ROWS // 2}


def test_rows_that_are_decided_again_are_resolved(resolution: Resolution) -> None:
    later = {
        row.version_key: replace(row, status=Status.REVIEW, destination="review", run_id="r2")
        for row in resolution.rows
    }
    changes = resolve_changes(resolution.rows, later)
    assert counts([change.new for change in changes if change.new]) == {
        (Status.REVIEW, True): ROWS * 9 // 10,
        (Status.DUPLICATE, True): ROWS // 10,
    }


def test_a_stream_appends_them(tmp_path: Path) -> None:
    layout = new_lake(tmp_path / "lake")
    number = 3_000
    for start in range(0, number, 1_000):
        assert append_rows(layout, *rows(number)[start : start + 1_000]) == 1_000
    found = Counter(row["status"] for row in rows_in(layout))
    assert found == {"routed": number * 9 // 10, "duplicate": number // 10}
