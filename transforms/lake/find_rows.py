"""Find the current rows of an object by its key."""

from __future__ import annotations

import pyarrow as pa

from transforms.lake.index_files import read_index, read_rows
from transforms.lake.layout import Layout
from transforms.lake.schema import IndexRow


def find_rows(layout: Layout, object_key: str) -> list[IndexRow]:
    """Return the current rows of a source object, one for each of its versions, the latest first.

    Raises:
        DamagedFile: an index file cannot be read.
        OSError: the index cannot be listed.
    """
    wanted = {"object_key": pa.array([object_key])}
    rows = read_index(layout, lambda files: list(read_rows(files, wanted)))
    return sorted(rows, key=lambda row: -row.ingested_at)
