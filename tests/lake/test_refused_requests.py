"""A store that refuses a request is not taken for one that lacks the file."""

from __future__ import annotations

import pytest

from tests.lake.rows import (
    FINGERPRINT,
    append_rows,
    index_row,
    place,
    replica_of,
)
from tests.stores import Store
from transforms.lake import rewrite as rewrite_module
from transforms.lake.existing_rows import read_existing_rows
from transforms.lake.index_files import list_index, read_table
from transforms.lake.journal import list_journal
from transforms.lake.layout import Layout
from transforms.lake.migration import open_lake
from transforms.lake.recovery import prepare_recovery, recover
from transforms.lake.rewrite import rewrite
from transforms.lake.rewrite_intents import finish_rewrites, list_intents

REFUSED = 403
"""Clients do not repeat such a request."""


@pytest.fixture
def layout(store: Store) -> Layout:
    """A lake of two rows in a store."""
    layout = Layout(f"{store.root}/lake")
    open_lake(layout)
    for name in "ab":
        append_rows(layout, index_row(f"/in/{name}", sop_instance_uid=f"1.{ord(name)}"))
    return layout


def sources(layout: Layout) -> list[str]:
    return sorted(r.source_uri for uri in list_index(layout) for r in read_existing_rows(uri, None))


@pytest.mark.slow
def test_a_lake_whose_marker_cannot_be_read_is_not_migrated(store: Store, layout: Layout) -> None:
    before = store.read_all()
    store.fault(r"lake\.json", status=REFUSED)
    with pytest.raises(OSError):
        open_lake(layout)
    store.clear_faults()
    assert store.read_all() == before


@pytest.mark.slow
def test_a_rewrite_whose_merged_file_cannot_be_looked_up_is_kept(
    store: Store, layout: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = list_index(layout)
    day = files[0].partition("ingest_date=")[2][:10]
    with monkeypatch.context() as killed:
        killed.setattr(rewrite_module, "finish_rewrites", lambda layout: None)
        rewrite(layout, day, files, (read_table(uri) for uri in files))
    (merged,) = list_index(layout)
    store.fault(merged.rpartition("/")[2].replace(".", r"\."), status=REFUSED)
    with pytest.raises(OSError):
        finish_rewrites(layout)
    store.clear_faults()
    assert list_index(layout) == [merged], "the replaced files are hidden still"
    finish_rewrites(layout)
    assert list_index(layout) == [merged]
    assert not list_intents(layout)
    assert sources(layout) == ["/in/a", "/in/b"]
    assert not [name for name in store.read_all() if "/log-" in name]


@pytest.mark.slow
@pytest.mark.parametrize("batch", [True, False], ids=["batch", "stream"])
def test_a_placed_object_that_cannot_be_looked_up_is_kept(
    store: Store, layout: Layout, batch: bool
) -> None:
    row = place(layout, "/in/c", sop_instance_uid="1.3")
    name = f"lake/{row.object_uri}"

    def recover_all() -> None:
        if batch:
            prepare_recovery(layout, "run", FINGERPRINT)
        else:
            with replica_of(layout) as replica:
                recover(layout, "run", 1, replica)

    store.fault(str(row.content_sha256)[:16], status=REFUSED)
    with pytest.raises(OSError):
        recover_all()
    store.clear_faults()
    assert name in store.read_all()
    assert len(list_journal(layout)) == 1
    recover_all()
    assert name in store.read_all()
    assert sources(layout) == ["/in/a", "/in/b", *([] if batch else ["/in/c"])]


def test_a_new_lake_in_a_bucket_that_refuses_is_not_made(store: Store) -> None:
    store.fault(".", status=REFUSED)
    with pytest.raises(OSError):
        open_lake(Layout(f"{store.root}/lake"))
    store.clear_faults()
    assert store.read_all() == {}
