"""Remove orphans: objects that this lake has placed and that no row of its index references."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from transforms.lake.files import remove_all
from transforms.lake.index_files import list_index, open_index_file, read_matching
from transforms.lake.journal import list_journal
from transforms.lake.layout import Layout
from transforms.lake.structured_reports import remove_reports_of_objects


def journaled_objects(layout: Layout, segments: Iterable[str]) -> set[str]:
    """Return the journaled objects that no row of some index files references.

    A retried step that decides differently from its first attempt leaves such an object: it is placed
    twice, and has one row.

    Args:
        layout: the lake.
        segments: URIs of the index files that the run has written.

    Returns:
        URIs as in the column `object_uri`. Another index file may reference them; see
        `remove_unreferenced`.

    Raises:
        DamagedFile: a journal or index file cannot be read.
    """
    hashes = [_hashes(_read_uris(segment)) for segment in segments]
    referenced = np.concatenate([np.empty(0, np.int64), *hashes])
    found: set[str] = set()
    for journal_file in list_journal(layout):
        uris = _read_uris(journal_file)
        found.update(uris.filter(pa.array(~np.isin(_hashes(uris), referenced))).to_pylist())
    return {layout.relative(uri) for uri in found}


def _read_uris(uri: str) -> pa.ChunkedArray:
    """Return the URIs of the objects that the rows of an index or journal file have in sinks."""
    with open_index_file(uri) as file:
        rows = file.read(columns=["object_uri", "source_uri"])
    return rows["object_uri"].filter(pc.not_equal(rows["object_uri"], rows["source_uri"]))


def _hashes(uris: pa.ChunkedArray) -> npt.NDArray[np.int64]:
    return np.fromiter(map(hash, uris.to_pylist()), np.int64, len(uris))


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
    """Remove objects, with the structured reports about them, and return their number.

    Args:
        layout: the lake.
        object_uris: URIs as in the column `object_uri`. Each must come from the journal of this lake,
            which shows that this lake has placed the object; none may be a source that is only indexed.

    Raises:
        OSError: an object cannot be removed.
    """
    uris = sorted(map(layout.absolute, set(object_uris)))
    if uris:
        remove_reports_of_objects(layout, uris)
    remove_all(uris)
    return len(uris)
