"""Remove orphans: objects that this lake has placed and that no row of its index references."""

from __future__ import annotations

from collections.abc import Iterable

import pyarrow as pa

from transforms.lake.index_files import list_index, read_matching
from transforms.lake.layout import Layout
from transforms.storage.schemes import storage_of


def remove_unreferenced(layout: Layout, object_uris: Iterable[str]) -> int:
    """Remove those of some objects that no row of the index references; return their number.

    Args:
        layout: the lake.
        object_uris: as for `remove_orphans`.

    Raises:
        DamagedFile: an index file cannot be read.
        OSError: an object cannot be removed.
    """
    unreferenced = set(object_uris)
    if not unreferenced:
        return 0
    wanted = {"object_uri": pa.array(sorted(unreferenced), pa.string())}
    for uri in list_index(layout):
        for rows in read_matching(uri, ["object_uri"], wanted):
            unreferenced -= set(rows["object_uri"].to_pylist())
    return remove_orphans(layout, unreferenced)


def remove_orphans(layout: Layout, object_uris: Iterable[str]) -> int:
    """Remove objects and return their number.

    Args:
        layout: the lake.
        object_uris: URIs as in the column `object_uri`. Each must come from the journal of this lake,
            which shows that this lake has placed the object; none may be a source that is only indexed.

    Raises:
        OSError: an object cannot be removed.
    """
    uris = sorted(map(layout.absolute, set(object_uris)))
    for uri in uris:
        storage_of(uri).remove(uri)
    return len(uris)
