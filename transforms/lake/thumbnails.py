"""Store the thumbnails of images in a few Parquet files beside the index, and read them by content.

Thumbnails are a cache: an image that has none is decoded from its object. A run writes them to its
journal, from which they are stored when the journal is cleared. An image may have a thumbnail in several
files until `lake.thumbnail_compaction` merges them.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import itertools
import logging
from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Final

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from transforms.imaging.webp import size_of_webp
from transforms.lake.checksums import write_parquet
from transforms.lake.files import list_files, put_if_absent
from transforms.lake.index_files import DamagedFile, open_index_file
from transforms.lake.layout import PARTITION_PREFIX, Layout
from transforms.lake.schema import PARTITION
from transforms.storage.base import ObjectInfo
from transforms.storage.schemes import join
from transforms.storage.seekable import open_seekable

LOG = logging.getLogger(__name__)

MAX_FILE_ROWS: Final = 16_384
"""Maximum number of thumbnails in a file; about 50 MB."""
GROUP_ROWS: Final = 64
"""Number of thumbnails in a row group, all of which are read for one of them; about 200 KB."""
READ_THREADS: Final = 8
READ_FILES: Final = 256
"""Number of journal files whose thumbnails are in memory together."""
JOURNALED: Final = "thumbnail"
"""Column of a journal file: the thumbnail of the row, or null. Files without thumbnails lack it."""


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


def write_thumbnails(
    layout: Layout, ingest_date: str, thumbnails: Iterable[Thumbnail]
) -> list[str]:
    """Write thumbnails to files of a partition, one per content. Idempotent: names are digests.

    Args:
        layout: the lake.
        ingest_date: the partition, YYYY-MM-DD.
        thumbnails: in any order; the first of each content is written.

    Returns:
        URIs of the files.

    Raises:
        ProcessingFailure: the lake's storage refused a write.
    """
    by_content: dict[str, Thumbnail] = {}
    uris = []
    for one in thumbnails:
        by_content.setdefault(one.content_sha256, one)
        if len(by_content) == MAX_FILE_ROWS:
            uris.append(_write_file(layout, ingest_date, list(by_content.values())))
            by_content.clear()
    if by_content:
        uris.append(_write_file(layout, ingest_date, list(by_content.values())))
    return uris


def write_table(layout: Layout, ingest_date: str, table: pa.Table) -> str:
    """Write a table of `SCHEMA` as one file of a partition, sorted; return its URI.

    Raises:
        ProcessingFailure: the lake's storage refused the write.
    """
    table = table.sort_by("content_sha256").combine_chunks()
    digest = hashlib.sha256()
    for sha256, image in zip(
        table["content_sha256"].to_pylist(), table["image"].to_pylist(), strict=True
    ):
        digest.update(sha256.encode() + hashlib.sha256(image).digest())
    uri = join(layout.thumbnail_partition(ingest_date), f"{digest.hexdigest()[:20]}.parquet")
    data = io.BytesIO()
    write_parquet([table], data, GROUP_ROWS)
    put_if_absent(uri, data.getvalue(), scratch=layout.scratch(), file_mode=layout.file_mode)
    return uri


def store_journaled(
    layout: Layout, journal_files: Sequence[str], ingest_date: str | None = None
) -> None:
    """Store the thumbnails in journal files, which are about to be removed.

    Contents that have a thumbnail in the partition keep it.

    Args:
        layout: the lake.
        journal_files: URIs.
        ingest_date: the partition, YYYY-MM-DD; None takes that of the rows.

    Raises:
        DamagedFile: a journal file cannot be read.
        ProcessingFailure: the lake's storage refused a write.
    """
    found: dict[str, list[Thumbnail]] = defaultdict(list)
    stored: dict[str, set[str]] = {}
    with ThreadPoolExecutor(READ_THREADS) as pool:
        for start in range(0, len(journal_files), READ_FILES):
            uris = journal_files[start : start + READ_FILES]
            for day, thumbnail in itertools.chain.from_iterable(pool.map(_journaled, uris)):
                of_day = found[ingest_date or day]
                of_day.append(thumbnail)
                if len(of_day) == MAX_FILE_ROWS:
                    _write_new(layout, ingest_date or day, of_day, stored)
                    of_day.clear()
    for day, thumbnails in found.items():
        _write_new(layout, day, thumbnails, stored)


def list_thumbnail_files(layout: Layout) -> list[ObjectInfo]:
    """Return the files of thumbnails of a lake, sorted by URI."""
    prefix = join(layout.thumbnails, PARTITION_PREFIX)
    found = list_files(layout.thumbnails, ".parquet")
    return [info for info in found if info.uri.startswith(prefix)]


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


def _write_new(
    layout: Layout, day: str, thumbnails: Sequence[Thumbnail], stored: dict[str, set[str]]
) -> None:
    """Write the thumbnails of contents that have none in the partition, and add them to `stored`."""
    if day not in stored:
        stored[day] = _stored_contents(layout, day)
    write_thumbnails(layout, day, [t for t in thumbnails if t.content_sha256 not in stored[day]])
    stored[day].update(one.content_sha256 for one in thumbnails)


def _stored_contents(layout: Layout, day: str) -> set[str]:
    """Return the contents that have a thumbnail in a partition."""
    contents: set[str] = set()
    for info in list_files(layout.thumbnail_partition(day), ".parquet"):
        with contextlib.suppress(DamagedFile, FileNotFoundError), open_index_file(info.uri) as file:
            contents.update(file.read(columns=["content_sha256"])["content_sha256"].to_pylist())
    return contents


def _write_file(layout: Layout, ingest_date: str, thumbnails: Sequence[Thumbnail]) -> str:
    columns = {name: [getattr(one, name) for one in thumbnails] for name in SCHEMA.names}
    return write_table(layout, ingest_date, pa.Table.from_pydict(columns, schema=SCHEMA))


def _journaled(uri: str) -> list[tuple[str, Thumbnail]]:
    """Return the thumbnails in a journal file, each with the partition of its row."""
    with open_index_file(uri) as file:
        if JOURNALED not in file.schema_arrow.names:
            return []
        rows = file.read(columns=[JOURNALED, PARTITION, "content_sha256", "object_key"]).to_pylist()
    return [
        (row[PARTITION], Thumbnail.of(row["content_sha256"], row["object_key"], row[JOURNALED]))
        for row in rows
        if row[JOURNALED] is not None
    ]


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
