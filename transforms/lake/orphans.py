"""Orphans: objects that this lake has placed and that no row of its index names."""

from __future__ import annotations

from collections.abc import Iterable

from transforms.lake.layout import Layout
from transforms.storage.schemes import storage_of


def remove_orphans(layout: Layout, object_uris: Iterable[str]) -> int:
    """Remove objects; returns how many.

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
