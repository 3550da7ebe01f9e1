"""Thumbnails: stored in few files, read by content with ordinary readers, decoded where none is stored."""

from __future__ import annotations

import hashlib
import io
from pathlib import Path

import duckdb
import numpy as np
import pytest
from PIL import Image

from pipeline.images import Renderer, thumbnails_of
from tests.conftest import Lake
from tests.synthetic import image
from transforms.core.reasons import Reason
from transforms.imaging.webp import crop_padding, encode_webp
from transforms.lake import thumbnails as thumbnails_module
from transforms.lake.layout import Layout
from transforms.lake.schema import IndexRow
from transforms.lake.thumbnails import Thumbnail, read_thumbnails, write_thumbnails

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
    monkeypatch.setattr(thumbnails_module, "MAX_FILE_ROWS", 40)
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
