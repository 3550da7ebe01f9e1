"""Store the thumbnails of images in a few Parquet files beside the index, and read them by content.

Thumbnails are a cache: an image that has none is decoded from its object. `lake.content_tables` writes
them.
"""

from __future__ import annotations

import logging
from bisect import bisect_left, bisect_right
from collections.abc import Collection, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Final

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from transforms.imaging.webp import size_of_webp
from transforms.lake.content_tables import READ_THREADS, ContentTable, list_table, write_rows
from transforms.lake.layout import Layout
from transforms.storage.base import ObjectInfo
from transforms.storage.seekable import open_seekable

LOG = logging.getLogger(__name__)


def _column(name: str, arrow_type: pa.DataType, description: str) -> pa.Field:
    return pa.field(name, arrow_type, metadata={"description": description})


SCHEMA: Final[pa.Schema] = pa.schema(
    [
        _column(
            "content_sha256", pa.string(), "sha256 of the object's bytes, hex, as in the index"
        ),
        _column("object_key", pa.string(), "object_key of a source with this content"),
        _column("image", pa.binary(), "The image in grayscale as the network sees it, WebP"),
        _column("width", pa.int32(), "Width of the thumbnail, pixels"),
        _column("height", pa.int32(), "Height of the thumbnail, pixels"),
    ]
)
"""Columns of a file of thumbnails; its rows are sorted by content_sha256."""


@dataclass(frozen=True)
class Thumbnail:
    """A small image of the content of an object.

    Attributes:
        content_sha256: sha256 of the object's bytes, hex.
        object_key: key of a source of the object.
        image: grayscale WebP.
        width: in pixels.
        height: in pixels.
    """

    content_sha256: str
    object_key: str
    image: bytes
    width: int
    height: int

    @classmethod
    def of(cls, content_sha256: str, object_key: str, image: bytes) -> Thumbnail:
        """Return a thumbnail with the size of its image."""
        return cls(content_sha256, object_key, image, *size_of_webp(image))


THUMBNAILS: Final = ContentTable(
    folder="thumbnails",
    what="thumbnail",
    schema=SCHEMA,
    value="image",
    journaled="thumbnail",
    journal_columns=("content_sha256", "object_key"),
    max_file_rows=16_384,  # about 50 MB
    group_rows=64,  # about 200 KB
    complete=lambda row: dict(vars(Thumbnail.of(**row))),
)
"""Thumbnails are a cache: an image that has none is decoded from its object."""


def write_thumbnails(
    layout: Layout, ingest_date: str, thumbnails: Iterable[Thumbnail]
) -> list[str]:
    """Write thumbnails to files of a partition; see `content_tables.write_rows`."""
    return write_rows(layout, THUMBNAILS, ingest_date, map(vars, thumbnails))


def list_thumbnail_files(layout: Layout) -> list[ObjectInfo]:
    """Return the files of thumbnails of a lake, sorted by URI."""
    return list_table(layout, THUMBNAILS)


def read_thumbnails(layout: Layout, contents: Collection[str]) -> dict[str, bytes]:
    """Return the stored thumbnails of some contents, WebP, by content_sha256.

    Contents without a thumbnail are absent. Files that cannot be read are skipped, with a warning.

    Args:
        layout: the lake.
        contents: values of content_sha256.

    Raises:
        OSError: the folder cannot be listed.
    """
    wanted = sorted(set(contents))
    if not wanted:
        return {}
    images: dict[str, bytes] = {}
    read: set[str] = set()
    while True:
        files = [info for info in list_thumbnail_files(layout) if info.uri not in read]
        with ThreadPoolExecutor(READ_THREADS) as pool:
            missing = False
            for found in pool.map(partial(_read_file, wanted=wanted), files):
                missing |= found is None
                images |= found or {}
        if not missing:
            return images
        read |= {info.uri for info in files}  # compaction has replaced some: list again


def _read_file(info: ObjectInfo, wanted: Sequence[str]) -> dict[str, bytes] | None:
    """Return the images of wanted contents, which are sorted, in a file; None if it is gone."""
    try:
        with open_seekable(info) as opened, pq.ParquetFile(opened) as file:
            return _read_wanted(file, wanted)
    except FileNotFoundError:
        return None
    except (pa.ArrowException, OSError) as error:
        LOG.warning("%s cannot be read (%s)", info.uri, type(error).__name__)
        return {}


def _read_wanted(file: pq.ParquetFile, wanted: Sequence[str]) -> dict[str, bytes]:
    metadata = file.metadata
    groups = [n for n in range(file.num_row_groups) if _may_have(metadata, n, wanted)]
    if not groups:
        return {}
    ids = file.read_row_groups(groups, columns=["content_sha256"])["content_sha256"]
    is_wanted = pc.is_in(ids, value_set=pa.array(wanted, pa.string())).to_numpy()
    images: dict[str, bytes] = {}
    start = 0
    for number in groups:
        rows = metadata.row_group(number).num_rows
        mask = pa.array(is_wanted[start : start + rows])
        if mask.true_count:
            found = file.read_row_group(number, columns=["image"])["image"].filter(mask)
            names = ids.slice(start, rows).filter(mask)
            images |= zip(names.to_pylist(), found.to_pylist(), strict=True)
        start += rows
    return images


def _may_have(metadata: pq.FileMetaData, group: int, wanted: Sequence[str]) -> bool:
    """Return whether a row group may have a wanted content, by the statistics of its first column."""
    column = metadata.row_group(group).column(0)
    if column.path_in_schema != "content_sha256" or not column.is_stats_set:
        return True
    low, high = column.statistics.min, column.statistics.max
    if low is None or high is None:
        return True
    return bisect_left(wanted, low) < bisect_right(wanted, high)
