"""Thumbnails: stored in few files, read by content, decoded where none is stored."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path

import duckdb
import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from models.bundle import read_info
from models.default_bundle import DEFAULT_BUNDLE
from pipeline.images import Renderer, thumbnails_of
from tests.conftest import Lake, Route
from tests.lake.rows import FINGERPRINT, append_rows, index_row, new_lake, place, replica_of
from tests.stores import Store
from tests.synthetic import dicom_bytes, image
from transforms.config.policy import Policy
from transforms.core.object_ref import object_key
from transforms.core.reasons import Reason
from transforms.imaging.webp import crop_padding, encode_webp
from transforms.lake import thumbnails as thumbnails_module
from transforms.lake.content_compaction import CompactedTable, compact_table
from transforms.lake.journal import clear_journal
from transforms.lake.layout import Layout
from transforms.lake.marker import write_marker
from transforms.lake.recovery import prepare_recovery, recover, sweep_journal
from transforms.lake.schema import IndexRow
from transforms.lake.thumbnails import THUMBNAILS, Thumbnail, read_thumbnails, write_thumbnails
from transforms.lake.verify import verify_lake

SIDE = read_info(DEFAULT_BUNDLE).input_size
DAY = "2026-01-31"


def thumbnail(number: int) -> Thumbnail:
    pixels = (image(number, (24, 16)) >> 4).astype(np.uint8)
    sha256 = hashlib.sha256(str(number).encode()).hexdigest()
    return Thumbnail(sha256, sha256[:12], encode_webp(pixels), 16, 24)


@pytest.fixture(scope="module")
def thumbnails() -> list[Thumbnail]:
    return [thumbnail(number) for number in range(150)]


def rows_of(lake: Path) -> list[tuple[str, bytes]]:
    """What DuckDB reads."""
    query = f"SELECT content_sha256, image FROM '{lake}/thumbnails/*/*.parquet' ORDER BY 1"
    return duckdb.connect().execute(query).fetchall()


def test_stored_thumbnails_are_read_by_content(tmp_path: Path, thumbnails: list[Thumbnail]) -> None:
    layout = Layout(str(tmp_path))
    write_thumbnails(layout, DAY, [*thumbnails[:100], thumbnails[0]])
    write_thumbnails(layout, "2026-02-01", thumbnails[100:])
    assert rows_of(tmp_path) == sorted((one.content_sha256, one.image) for one in thumbnails)
    wanted = [thumbnails[n].content_sha256 for n in (3, 99, 149)]
    found = read_thumbnails(layout, [*wanted, "0" * 64])
    assert found == {thumbnails[n].content_sha256: thumbnails[n].image for n in (3, 99, 149)}
    with Image.open(io.BytesIO(found[wanted[0]])) as opened:
        assert (opened.format, opened.size) == ("WEBP", (16, 24))


def test_writing_again_changes_nothing(tmp_path: Path, thumbnails: list[Thumbnail]) -> None:
    layout = Layout(str(tmp_path))
    first = write_thumbnails(layout, DAY, thumbnails)
    assert write_thumbnails(layout, DAY, thumbnails[::-1]) == first
    assert len(rows_of(tmp_path)) == len(thumbnails)


def test_files_are_bounded(
    tmp_path: Path, thumbnails: list[Thumbnail], monkeypatch: pytest.MonkeyPatch
) -> None:
    small = replace(THUMBNAILS, max_file_rows=40)
    monkeypatch.setattr(thumbnails_module, "THUMBNAILS", small)
    uris = write_thumbnails(Layout(str(tmp_path)), DAY, thumbnails)
    assert len(uris) == 4
    assert len(rows_of(tmp_path)) == len(thumbnails)


def test_a_damaged_file_is_skipped(tmp_path: Path, thumbnails: list[Thumbnail]) -> None:
    layout = Layout(str(tmp_path))
    (damaged,) = write_thumbnails(layout, DAY, thumbnails[:2])
    write_thumbnails(layout, DAY, thumbnails[2:4])
    Path(damaged).write_bytes(b"not Parquet")
    contents = [one.content_sha256 for one in thumbnails[:4]]
    assert read_thumbnails(layout, contents).keys() == set(contents[2:])


def test_padding_is_cropped() -> None:
    padded = np.zeros((8, 8), np.uint8)
    assert crop_padding(padded).shape == (8, 8)
    padded[2:5, 3:7] = 9
    assert crop_padding(padded).shape == (3, 4)


@pytest.mark.slow
def test_objects_without_thumbnails_are_decoded(copied: Lake) -> None:
    layout = Layout(str(copied.root))
    rows = [
        IndexRow(
            run_id="", object_key=row["object_key"], ingest_date="", ingested_at=0,
            router_version="", source_uri=row["source_uri"], source_version="",
            source_size_bytes=0, content_sha256=row["content_sha256"], object_uri=row["object_uri"],
        )
        for row in copied.rows()
    ]  # fmt: skip
    by_status = {row["content_sha256"]: row["status"] for row in copied.rows()}
    stored = thumbnail(1)
    first = next(row for row in rows if by_status[str(row.content_sha256)] == "routed")
    write_thumbnails(layout, DAY, [Thumbnail(str(first.content_sha256), "", stored.image, 16, 24)])
    with Renderer() as renderer:
        images = thumbnails_of(layout, rows, renderer=renderer)
        assert thumbnails_of(layout, rows, renderer=renderer, max_rendered=0).keys() == {
            first.content_sha256
        }
        assert renderer.image(str(copied.root / "missing")) == Reason.DISAPPEARED
    assert images.pop(str(first.content_sha256)) == stored.image
    assert images.keys() == {
        sha256
        for sha256, status in by_status.items()
        if status != "quarantined" and sha256 != first.content_sha256
    }
    for data in images.values():
        with Image.open(io.BytesIO(data)) as opened:
            assert opened.format == "WEBP"
            assert opened.height == 192


def test_compaction_merges_files_and_drops_what_no_row_references(
    tmp_path: Path, thumbnails: list[Thumbnail], monkeypatch: pytest.MonkeyPatch
) -> None:
    layout = new_lake(tmp_path / "lake")
    rows = [
        replace(index_row(f"/in/{n}"), content_sha256=one.content_sha256)
        for n, one in enumerate(thumbnails[:100])
    ]
    append_rows(layout, *rows)
    for start in range(0, 120, 20):
        write_thumbnails(layout, DAY, thumbnails[start : start + 30])
    write_thumbnails(layout, "2026-02-01", thumbnails[:10])
    removed: list[str] = []

    def kill(uris: Iterable[str]) -> None:
        removed.extend(uris)
        raise KeyboardInterrupt

    contents = [one.content_sha256 for one in thumbnails[:100]]
    expected = {one.content_sha256: one.image for one in thumbnails[:100]}
    with monkeypatch.context() as killing, pytest.raises(KeyboardInterrupt):
        killing.setattr("transforms.lake.content_compaction.remove_all", kill)
        compact_table(layout, THUMBNAILS, "2026-02-01")
    assert len(removed) == 6
    assert read_thumbnails(layout, contents) == expected
    compact_table(layout, THUMBNAILS, "2026-02-01")
    (merged,) = (tmp_path / "lake" / "thumbnails" / f"ingest_date={DAY}").iterdir()
    table = pq.read_table(merged)
    assert table["content_sha256"].to_pylist() == sorted(contents)
    assert read_thumbnails(layout, contents) == expected
    assert compact_table(layout, THUMBNAILS, "2026-02-01") == CompactedTable()
    report = verify_lake(layout, deep=True)
    assert not [found for found in report.violations if "thumbnail" in found.kind]
    data = bytearray(merged.read_bytes())
    data[len(data) // 3] ^= 1
    merged.write_bytes(data)
    report = verify_lake(layout, deep=True)
    assert "thumbnail file with other bytes" in [found.kind for found in report.violations]


def _sweep(layout: Layout) -> None:
    with replica_of(layout) as replica:
        sweep_journal(layout, replica)


def _recover(layout: Layout) -> None:
    with replica_of(layout) as replica:
        recover(layout, "r2", 1, replica)


@pytest.mark.parametrize(
    "end",
    [
        clear_journal,
        lambda layout: prepare_recovery(layout, "r2", FINGERPRINT),
        lambda layout: prepare_recovery(layout, "r2", "other"),
        _recover,
        _sweep,
    ],
    ids=["finish", "recover", "redo", "recover stream", "sweep"],
)
def test_journaled_thumbnails_are_stored_before_the_journal_is_removed(
    tmp_path: Path,
    thumbnails: list[Thumbnail],
    monkeypatch: pytest.MonkeyPatch,
    end: Callable[[Layout], None],
) -> None:
    layout = new_lake(tmp_path / "lake")
    first = place(layout, "/in/1", thumbnail=thumbnails[0].image)
    append_rows(layout, replace(first, thumbnail=None))
    place(layout, "/in/2", thumbnail=thumbnails[0].image)
    append_rows(layout, replace(first, source_uri="/in/2", object_key=object_key("/in/2")))

    def kill(layout: Layout, *args: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as killing, pytest.raises(KeyboardInterrupt):
        killing.setattr("transforms.lake.journal.store_journaled", kill)
        end(layout)
    end(layout)
    assert rows_of(tmp_path / "lake") == [(first.content_sha256, thumbnails[0].image)]


@pytest.mark.slow
def test_a_run_stores_the_thumbnails_that_its_policy_names(
    route: Route, lake: Lake, source: Path, tmp_path: Path
) -> None:
    pixels = np.zeros((96, 64), np.uint16) + np.arange(64, dtype=np.uint16) * 60
    for number in range(3):
        (source / f"{number}.dcm").write_bytes(dicom_bytes(pixels, name=str(number)))
    (source / "copy").write_bytes((source / "0.dcm").read_bytes())
    policy = tmp_path / "policy.yaml"
    policy.write_text("thumbnails: all\n")
    route("--policy", str(policy))
    stored = rows_of(lake.root)
    assert [sha256 for sha256, _ in stored] == sorted(
        {row["content_sha256"] for row in lake.rows()}
    )
    with Image.open(io.BytesIO(stored[0][1])) as opened:
        shown = np.asarray(opened.convert("L")).astype(int)
    assert shown.shape[0] == SIDE
    assert (np.diff(shown.mean(axis=0)) > -3).all(), "a gradient, compressed as WebP"
    assert [shown[:, 0].mean(), shown[:, -1].mean()] == pytest.approx([0, 255], abs=8)
    before = lake.tree()
    route("--policy", str(policy), "--reprocess", "all")
    assert lake.tree() == before


@pytest.mark.parametrize(
    ("thumbnails", "in_review", "header_agrees", "stores"),
    [
        ("all", False, True, True),
        ("review", True, None, True),
        ("review", False, False, True),
        ("review", False, None, False),
        ("none", True, False, False),
    ],
)
def test_the_policy_names_the_images_that_have_thumbnails(
    thumbnails: str, in_review: bool, header_agrees: bool | None, stores: bool
) -> None:
    policy = Policy(thumbnails=thumbnails)
    assert policy.stores_thumbnail(in_review=in_review, header_agrees=header_agrees) is stores
    assert policy.policy_id == Policy().policy_id


def test_thumbnails_in_a_store(store: Store, thumbnails: list[Thumbnail]) -> None:
    layout = Layout(f"{store.root}/lake")
    write_marker(layout)
    append_rows(layout, *(index_row(f"/in/{t.object_key}", t.content_sha256) for t in thumbnails))
    for start in (0, 70):
        write_thumbnails(layout, DAY, thumbnails[start : start + 80])
    expected = {one.content_sha256: one.image for one in thumbnails}
    assert read_thumbnails(layout, expected) == expected
    assert compact_table(layout, THUMBNAILS, "2026-02-01").merged_files == 2
    assert read_thumbnails(layout, expected) == expected
    assert sum(name.startswith("lake/thumbnails/") for name in store.read_all()) == 1
