"""Duplicates are resolved the same in whichever order the rows arrive."""

from __future__ import annotations

import random as random_module
from dataclasses import replace
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from tests.lake.rows import existing, index_row
from transforms.core.reasons import Status
from transforms.lake.resolve_duplicates import resolve
from transforms.lake.schema import IndexRow


def row(source: str, content: str = "a", **columns: Any) -> IndexRow:
    """Return a placed row; all have one SOP Instance UID."""
    return index_row(source, content, **columns)


def statuses(rows: list[IndexRow]) -> dict[str, tuple[str | None, bool | None]]:
    """Return status and conflict by source."""
    return {r.source_uri: (r.status, r.conflict) for r in rows}


def source_of(row: IndexRow) -> str:
    return row.source_uri


rows_of_one_identity = st.lists(
    st.builds(
        row,
        st.sampled_from([f"/s{i}" for i in range(6)]),
        st.sampled_from("abc"),
        status=st.sampled_from([Status.ROUTED, Status.QUARANTINED]),
        destination=st.sampled_from(["spine", "others"]),
    ),
    max_size=8,
    unique_by=source_of,
)


@given(rows_of_one_identity, rows_of_one_identity, st.randoms())
def test_order_does_not_matter(
    rows: list[IndexRow], earlier: list[IndexRow], random: random_module.Random
) -> None:
    in_index = [existing(r) for r in resolve(earlier, []).rows]
    expected = resolve(rows, in_index)
    random.shuffle(rows)
    random.shuffle(in_index)
    assert resolve(rows, in_index) == expected


@given(rows_of_one_identity)
def test_each_content_has_exactly_one_first(rows: list[IndexRow]) -> None:
    resolved = resolve(rows, []).rows
    for content in {r.content_sha256 for r in rows if r.status != Status.QUARANTINED}:
        group = [
            r for r in resolved if r.content_sha256 == content and r.status != Status.QUARANTINED
        ]
        firsts = [r for r in group if r.status != Status.DUPLICATE]
        assert [f.source_uri for f in firsts] == [min(r.source_uri for r in group)]
        assert {r.object_uri for r in group} == {f.object_uri for f in firsts}


@given(rows_of_one_identity, rows_of_one_identity)
def test_every_placed_object_has_a_row_or_is_an_orphan(
    rows: list[IndexRow], earlier: list[IndexRow]
) -> None:
    in_index = [existing(r) for r in resolve(earlier, []).rows]
    resolved = resolve(rows, in_index)
    assert sorted(r.source_uri for r in resolved.rows) == sorted(r.source_uri for r in rows)
    named = {r.object_uri for r in resolved.rows} | {r.object_uri for r in in_index}
    assert set(resolved.orphans) == {str(r.object_uri) for r in rows} - named


@given(rows_of_one_identity, rows_of_one_identity)
def test_existing_content_keeps_its_object(rows: list[IndexRow], earlier: list[IndexRow]) -> None:
    in_index = [existing(r) for r in resolve(earlier, []).rows]
    firsts = {r.content_sha256: r for r in in_index if r.status == Status.ROUTED}
    for resolved in resolve(rows, in_index).rows:
        first = firsts.get(str(resolved.content_sha256))
        if first is not None and resolved.status != Status.QUARANTINED:
            assert resolved.status == Status.DUPLICATE
            assert resolved.object_uri == first.object_uri


def test_a_second_source_of_the_same_bytes_is_a_duplicate_of_the_existing_object() -> None:
    old = existing(row("/a", destination="spine"))
    new = row("/b", destination="abdominal")
    resolved = resolve([new], [old])
    assert statuses(resolved.rows) == {"/b": (Status.DUPLICATE, False)}
    assert resolved.rows[0].object_uri == old.object_uri
    assert resolved.orphans == [new.object_uri]


def test_an_object_that_was_only_indexed_is_not_the_first_of_a_stored_one() -> None:
    old = existing(row("/a", object_uri="/a"))
    resolved = resolve([row("/b")], [old])
    assert statuses(resolved.rows) == {"/b": (Status.ROUTED, False)}
    assert resolved.orphans == []
    indexed = resolve([row("/b", object_uri="/b")], [old])
    assert statuses(indexed.rows) == {"/b": (Status.DUPLICATE, False)}


def test_a_version_that_a_retry_brings_twice_has_one_row() -> None:
    again = [row("/a", ingested_at=1), row("/b"), row("/a", ingested_at=2)]
    assert [(r.source_uri, r.status, r.ingested_at) for r in resolve(again, []).rows] == [
        ("/a", Status.ROUTED, 1),
        ("/b", Status.DUPLICATE, 0),
    ]
    other = row("/a", destination="spine", model_id="m2")
    resolved = resolve([other, row("/a", destination="others")], [])
    assert [r.destination for r in resolved.rows] == ["others"]
    assert resolved.orphans == [other.object_uri]


def test_two_decisions_on_one_content_leave_one_object() -> None:
    rows = [
        row("/a", destination="spine"),
        row("/b", destination="review", status=Status.REVIEW, model_id="m2"),
    ]
    resolved = resolve(rows, [])
    assert statuses(resolved.rows) == {
        "/a": (Status.ROUTED, False),
        "/b": (Status.DUPLICATE, False),
    }
    assert resolved.orphans == [rows[1].object_uri]


def test_quarantined_rows_of_one_content_share_an_identity_whatever_was_read_of_them() -> None:
    broken = row("/a", status=Status.QUARANTINED)
    unread = replace(broken, source_uri="/b", sop_instance_uid=None)
    assert broken.identity == unread.identity == existing(broken).identity
    assert row("/a").identity == "1.2.3"


def test_different_content_under_one_uid_is_a_conflict_on_every_new_row() -> None:
    resolved = resolve([row("/b", "b"), row("/c", "c")], [existing(row("/a", "a"))])
    assert statuses(resolved.rows) == {
        "/b": (Status.ROUTED, True),
        "/c": (Status.ROUTED, True),
    }


def test_quarantined_rows_are_neither_duplicates_nor_conflicts() -> None:
    broken = {"status": Status.QUARANTINED, "object_uri": "quarantine/aa/a.dcm"}
    resolved = resolve([row("/a", "a", **broken), row("/b", "a", **broken), row("/c", "c")], [])
    assert statuses(resolved.rows) == {
        "/a": (Status.QUARANTINED, False),
        "/b": (Status.QUARANTINED, False),
        "/c": (Status.ROUTED, False),
    }
