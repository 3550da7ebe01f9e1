"""Find the current rows of an object by its key."""

from __future__ import annotations

import pyarrow as pa

from transforms.lake.index_files import read_index, read_matching
from transforms.lake.layout import Layout, partition_of
from transforms.lake.schema import SCHEMA, IndexRow, from_table


def find_rows(layout: Layout, object_key: str) -> list[IndexRow]:
    """Return the current rows of a source object, one for each of its versions, the latest first.

    Raises:
        DamagedFile: an index file cannot be read.
        OSError: the index cannot be listed.
    """
    wanted = {"object_key": pa.array([object_key])}

    def read(files: list[str]) -> list[IndexRow]:
        return [
            row
            for uri in files
            if any(read_matching(uri, ("object_key",), wanted))
            for table in read_matching(uri, SCHEMA.names, wanted)
            for row in from_table(table, partition_of(uri))
        ]

    return sorted(read_index(layout, read), key=lambda row: -row.ingested_at)
