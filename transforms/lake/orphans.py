"""Orphans: objects that this lake has placed and that no row of its index names."""

from __future__ import annotations

from collections.abc import Iterable

import pyarrow as pa

from transforms.lake.index_files import list_index, matching
from transforms.lake.layout import Layout
from transforms.storage.schemes import storage_of


def remove_unnamed(layout: Layout, object_uris: Iterable[str]) -> int:
    """Remove those of some objects that no row of the index names; return how many.

    Args:
        layout: the lake.
        object_uris: as of `remove_orphans`.
    """
    unnamed = set(object_uris)
    if not unnamed:
        return 0
    wanted = {"object_uri": pa.array(sorted(unnamed), pa.string())}
    for uri in list_index(layout):
        for rows in matching(uri, ["object_uri"], wanted):
            unnamed -= set(rows["object_uri"].to_pylist())
    return remove_orphans(layout, unnamed)


def remove_orphans(layout: Layout, object_uris: Iterable[str]) -> int:
    """Remove objects; return how many.

    Args:
        layout: the lake.
        object_uris: as rows name them. Each is of a journaled row of this lake, so that this lake has
            placed it, and none is a source that was only indexed.
    """
    number = 0
    for object_uri in sorted(set(object_uris)):
        uri = layout.absolute(object_uri)
        storage_of(uri).remove(uri)
        number += 1
    return number
