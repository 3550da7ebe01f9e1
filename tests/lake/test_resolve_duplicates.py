"""The keyed step names firsts, duplicates and conflicts whatever the order of its rows."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from transforms.core.reasons import Status
from transforms.lake.index_files import ExistingRow
from transforms.lake.resolve_duplicates import resolve
from transforms.lake.schema import IndexRow

BASE = IndexRow(
    run_id="r",
    object_key="k",
    ingest_date="2026-01-01",
    ingested_at=0,
    router_version="0",
    source_uri="/s",
    source_version="1",
    source_size_bytes=1,
    content_sha256="a",
    status=Status.ROUTED,
    stage="decide",
    reason="confident",
    destination="spine",
    object_uri="/lake/spine/a",
    conflict=False,
    model_id="m1",
    sop_instance_uid="1.2",
)


def row(source: str, content: str = "a", **changes: object) -> IndexRow:
    sink = str(changes.get("destination", "spine"))
    uri = f"/lake/{sink}/{content}"
    return replace(BASE, source_uri=source, content_sha256=content, object_uri=uri, **changes)


def held(of: IndexRow) -> ExistingRow:
    return ExistingRow(
        source_uri=of.source_uri,
        source_version=of.source_version,
        model_id=of.model_id,
        status=str(of.status),
        destination=str(of.destination),
        object_uri=str(of.object_uri),
        sop_instance_uid=of.sop_instance_uid,
        content_sha256=str(of.content_sha256),
    )


def statuses(rows: list[IndexRow]) -> dict[str, tuple[str | None, bool | None]]:
    return {r.source_uri: (r.status, r.conflict) for r in rows}


rows_of_a_group = st.lists(
    st.builds(
        row,
        st.sampled_from([f"/s{i}" for i in range(6)]),
        st.sampled_from("abc"),
        status=st.sampled_from([Status.ROUTED, Status.QUARANTINED]),
    ),
    max_size=8,
    unique_by=lambda r: r.source_uri,
)


@given(rows_of_a_group, rows_of_a_group, st.randoms())
def test_order_does_not_matter(rows, known, random) -> None:
    ledger = [held(r) for r in resolve(known, []).rows]
    expected = resolve(rows, ledger)
    random.shuffle(rows)
    random.shuffle(ledger)
    assert resolve(rows, ledger) == expected


@given(rows_of_a_group)
def test_each_content_has_exactly_one_first(rows) -> None:
    resolved = resolve(rows, []).rows
    for content in {r.content_sha256 for r in rows if r.status != Status.QUARANTINED}:
        group = [
            r for r in resolved if r.content_sha256 == content and r.status != Status.QUARANTINED
        ]
        firsts = [r for r in group if r.status != Status.DUPLICATE]
        assert [f.source_uri for f in firsts] == [min(r.source_uri for r in group)]


@given(rows_of_a_group)
def test_settling_again_adds_nothing(rows) -> None:
    first = resolve(rows, []).rows
    again = resolve([], [held(r) for r in first], held=rows, reprocess="all")
    assert again.rows == []
    named = {r.object_uri for r in first}
    assert again.orphans == sorted({r.object_uri for r in rows} - named)


def test_a_second_source_of_the_same_bytes_is_a_duplicate_of_the_lake_object() -> None:
    old = held(row("/a", destination="spine"))
    new = row("/b", destination="abdominal")
    resolved = resolve([new], [old])
    assert statuses(resolved.rows) == {"/b": (Status.DUPLICATE, False)}
    assert resolved.rows[0].object_uri == old.object_uri
    assert resolved.orphans == [new.object_uri]


def test_an_object_that_was_only_indexed_is_no_first_of_a_stored_one() -> None:
    old = held(replace(row("/a"), object_uri="/a"))
    resolved = resolve([row("/b")], [old])
    assert statuses(resolved.rows) == {"/b": (Status.ROUTED, False)}
    assert resolved.orphans == []
    indexed = resolve([replace(row("/b"), object_uri="/b")], [old])
    assert statuses(indexed.rows) == {"/b": (Status.DUPLICATE, False)}


def test_a_second_look_that_decides_otherwise_leaves_no_second_object() -> None:
    old = held(row("/a", destination="spine"))
    again = row("/a", destination="review", status=Status.REVIEW)
    resolved = resolve([], [old], held=[again], reprocess="all")
    assert resolved.rows == []
    assert resolved.orphans == [again.object_uri]


def test_quarantined_rows_of_one_content_meet_whatever_could_be_read_of_them() -> None:
    broken = row("/a", status=Status.QUARANTINED)
    unread = replace(broken, source_uri="/b", sop_instance_uid=None)
    assert broken.identity == unread.identity == held(broken).identity
    assert row("/a").identity == "1.2"


def test_other_bytes_under_the_same_uid_are_a_conflict_on_every_new_row() -> None:
    resolved = resolve([row("/b", "b"), row("/c", "c")], [held(row("/a", "a"))])
    assert statuses(resolved.rows) == {
        "/b": (Status.ROUTED, True),
        "/c": (Status.ROUTED, True),
    }


def test_a_new_model_decides_anew_only_when_asked() -> None:
    old = held(row("/a"))
    new = row("/a", destination="abdominal", model_id="m2")
    assert statuses(resolve([new], [old], reprocess="model").rows) == {"/a": (Status.ROUTED, False)}
    assert statuses(resolve([new], [old]).rows) == {"/a": (Status.DUPLICATE, False)}


def test_quarantined_rows_are_no_duplicates_and_no_conflicts() -> None:
    broken = {"status": Status.QUARANTINED, "destination": "quarantine"}
    resolved = resolve([row("/a", "a", **broken), row("/b", "a", **broken), row("/c", "c")], [])
    assert statuses(resolved.rows) == {
        "/a": (Status.QUARANTINED, False),
        "/b": (Status.QUARANTINED, False),
        "/c": (Status.ROUTED, False),
    }
