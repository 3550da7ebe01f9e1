"""The places of a lake where data about an object can be, and how it is erased from each.

`PLACES` is the only list of them: a new folder of the lake with data about objects adds one line. Each
place is erased by content, so that a step that was killed is completed by repeating it.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Set
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from transforms.lake import source_states
from transforms.lake.append import seal_logs_ending_in
from transforms.lake.checksums import write_parquet
from transforms.lake.derived import count_derived, remove_derived
from transforms.lake.files import (
    exists,
    list_files,
    put_file,
    read_json,
    remove_all,
    remove_objects,
    replace_file,
)
from transforms.lake.index_files import (
    list_index,
    open_index_file,
    read_matching,
    read_unified,
)
from transforms.lake.layout import Layout, partition_of
from transforms.lake.published_tables import remove_old_versions
from transforms.lake.rewrite import rewrite
from transforms.lake.schema import VersionKey
from transforms.lake.structured_reports import reports_of_objects
from transforms.lake.table_files import files_except, name_of
from transforms.lake.tombstones import Kind, read_tombstones
from transforms.storage.schemes import is_below, join
from transforms.storage.temporary import unnamed_file

CONTENT: Final = "content_sha256"
"""Column by which the rows of most places are erased."""
LIST_SUFFIX: Final = ".tmp"
"""Of the names of temporary files beside predictions; see `pipeline.reroute.classify`."""


@dataclass(frozen=True)
class Erasure:
    """What is erased.

    Attributes:
        contents: sha256 of the contents, hex.
        objects: paths or URIs of stored objects with these contents; never a source.
        versions: source versions of these contents.
        object_keys: keys of sources that have no other content in the lake.
    """

    contents: frozenset[str]
    objects: tuple[str, ...] = ()
    versions: frozenset[VersionKey] = frozenset()
    object_keys: frozenset[str] = frozenset()


EraseFrom: TypeAlias = Callable[[Layout, Erasure, bool], int]
"""Return how many rows or files of what is erased a place has; erase them if the last argument is true.

Idempotent, and safe to kill at every step. The caller holds the lake's locks.
"""


@dataclass(frozen=True)
class Place:
    """A place of a lake where data about an object can be.

    Attributes:
        name: of the place.
        unit: what is counted there.
        erase: how it is erased.
    """

    name: str
    unit: str
    erase: EraseFrom


def _only_digest(old: str, digest: str) -> str:
    """Return the name of a new file of tables whose files are named by a digest alone."""
    return digest


def rows_in(
    folder: Callable[[Layout], str],
    column: str = CONTENT,
    name: Callable[[str, str], str] = lambda old, digest: f"part-{digest}",
) -> EraseFrom:
    """Return what erases the rows of the Parquet files below a folder.

    Only files that have such rows are written again; the others stay as they are.

    Args:
        folder: of a lake.
        column: that has the sha256 of the content.
        name: name of a new file, without suffix, from that of the old one and 20 hex digits.
    """

    def erase(layout: Layout, erasure: Erasure, apply: bool) -> int:
        return sum(
            _erase_rows(layout, found.uri, column, erasure.contents, name, apply=apply)
            for found in list_files(folder(layout), ".parquet")
        )

    return erase


def _erase_rows(
    layout: Layout,
    uri: str,
    column: str,
    values: Set[str],
    name: Callable[[str, str], str],
    *,
    apply: bool,
) -> int:
    """Erase the rows of a file that have one of some values; return their number."""
    with open_index_file(uri) as file:
        if column not in file.schema_arrow.names:
            return 0
        wanted = pa.array(sorted(values), pa.string())
        found = file.read([column])[column]
        number = int(pc.sum(pc.is_in(found, value_set=wanted)).as_py() or 0)
        if not number or not apply:
            return number
        groups = [file.metadata.row_group(n).num_rows for n in range(file.num_row_groups)]
        with unnamed_file() as kept:
            if write_parquet(_kept(file, column, wanted), kept, max(groups)):
                kept.seek(0)
                sha256 = hashlib.file_digest(kept, "sha256").hexdigest()
                folder, _, old = uri.rpartition("/")
                new = f"{name(old.removesuffix('.parquet'), sha256[:20])}.parquet"
                kept.seek(0)
                put_file(
                    join(folder, new),
                    kept,
                    sha256,
                    scratch=layout.scratch(),
                    file_mode=layout.file_mode,
                )
    remove_all([uri])
    return number


def _kept(file: pq.ParquetFile, column: str, values: pa.Array) -> Iterator[pa.Table]:
    for group in range(file.num_row_groups):
        yield _without(file.read_row_group(group), column, values)


def _without(table: pa.Table, column: str, values: pa.Array) -> pa.Table:
    return table.filter(pc.invert(pc.is_in(table[column], value_set=values)))


def _from_index(layout: Layout, erasure: Erasure, apply: bool) -> int:
    """Rewrite the files of the index that have rows of erased contents, partition by partition."""
    wanted = pa.array(sorted(erasure.contents), pa.string())
    affected: dict[str, list[str]] = defaultdict(list)
    number = 0
    for uri in list_index(layout):
        if found := sum(map(len, read_matching(uri, [CONTENT], {CONTENT: wanted}))):
            affected[partition_of(uri)].append(uri)
            number += found
    if apply:
        for day, files in sorted(affected.items()):
            seal_logs_ending_in(layout, files)
            rewrite(layout, day, files, (_without(t, CONTENT, wanted) for t in read_unified(files)))
    return number


def _from_tables(layout: Layout, erasure: Erasure, apply: bool) -> int:
    """Remove the versions of published tables that have erased rows, after those of the index."""
    wanted = pa.array(sorted(erasure.contents), pa.string())
    current = {name_of(layout, uri) for uri in list_index(layout)}
    number = sum(
        any(read_matching(uri, [CONTENT], {CONTENT: wanted}))
        for uri in files_except(layout, current)
    )
    if apply:
        remove_old_versions(layout)
    return number


_erase_predictions: Final = rows_in(lambda layout: layout.predictions, name=_only_digest)


def _from_predictions(layout: Layout, erasure: Erasure, apply: bool) -> int:
    """Erase predictions, and lists of objects to classify that a killed `reroute` has left."""
    if apply:
        remove_all(found.uri for found in list_files(layout.predictions, LIST_SUFFIX))
    return _erase_predictions(layout, erasure, apply)


def erase_forgotten_predictions(layout: Layout) -> None:
    """Erase the predictions of contents that were erased while a model classified them.

    Call this after writing: an erasure writes its tombstones before it erases predictions.

    Raises:
        LostKey, DamagedFile, OSError: as `read_tombstones`.
        ProcessingFailure: the lake's storage refused a write.
    """
    tombstones = read_tombstones(layout)
    forgotten: set[str] = set()
    for found in list_files(layout.predictions, ".parquet") if tombstones else ():
        with open_index_file(found.uri) as file:
            contents = file.read([CONTENT])[CONTENT].to_pylist()
        forgotten.update(one for one in contents if tombstones.has(Kind.CONTENT, one))
    if forgotten:
        _erase_predictions(layout, Erasure(frozenset(forgotten)), True)


def _from_source_states(layout: Layout, erasure: Erasure, apply: bool) -> int:
    """Erase the states of erased sources: a cache that has digests of names, and versions."""
    versions: dict[int, set[str]] = defaultdict(set)
    for source_uri, version in erasure.versions:
        versions[source_states.group_of(source_uri)].add(version)
    return sum(
        _erase_rows(layout, found.uri, "source_version", of_group, _only_digest, apply=apply)
        for group, of_group in sorted(versions.items())
        for found in list_files(source_states.folder_of(layout, group), ".parquet")
    )


def _from_json(folder: Callable[[Layout], str]) -> EraseFrom:
    """Return what erases the failures of erased objects from JSON files: the summaries of runs."""

    def erase(layout: Layout, erasure: Erasure, apply: bool) -> int:
        number = 0
        for found in list_files(folder(layout), ".json") if erasure.object_keys else ():
            with contextlib.suppress(ValueError):  # not of this program
                summary = read_json(found.uri)
                if erased := _drop_failures(summary, erasure.object_keys):
                    number += erased
                    if apply:
                        data = (json.dumps(summary, indent=2) + "\n").encode()
                        replace_file(
                            found.uri, data, scratch=layout.scratch(), file_mode=layout.file_mode
                        )
        return number

    return erase


def _drop_failures(summary: Any, object_keys: Set[str]) -> int:
    """Drop the failures of some objects from the summary of a run; return their number."""
    failures = summary.get("failures") if isinstance(summary, dict) else None
    if not isinstance(failures, list):
        return 0
    kept = [f for f in failures if not (isinstance(f, dict) and f.get("object_key") in object_keys)]
    summary["failures"] = kept
    return len(failures) - len(kept)


def _from_dead_letters(layout: Layout, erasure: Erasure, apply: bool) -> int:
    """Remove the dead letters of erased objects."""
    letters = []
    for found in list_files(layout.dead_letters, ".json") if erasure.object_keys else ():
        with contextlib.suppress(ValueError):
            letter = read_json(found.uri)
            if isinstance(letter, dict) and letter.get("object_key") in erasure.object_keys:
                letters.append(found.uri)
    if apply:
        remove_all(letters)
    return len(letters)


def _from_derived(layout: Layout, erasure: Erasure, apply: bool) -> int:
    """Remove the objects that were derived from erased ones, with their rows."""
    if apply:
        return remove_derived(layout, erasure.contents)
    return count_derived(layout, erasure.contents)


def _from_objects(layout: Layout, erasure: Erasure, apply: bool) -> int:
    """Remove stored objects, and folders that are empty then."""
    return _remove_files(erasure.objects, apply=apply)


def _from_reports(layout: Layout, erasure: Erasure, apply: bool) -> int:
    """Remove the structured reports about erased objects."""
    return _remove_files(sorted(set(reports_of_objects(layout, erasure.objects))), apply=apply)


def _remove_files(uris: Iterable[str], *, apply: bool) -> int:
    listed = list(uris)
    found = [uri for uri in listed if exists(uri)]
    if apply:
        remove_objects(listed)
    return len(found)


def is_object_of(layout: Layout, uri: str) -> bool:
    """Return whether a path or URI is that of an object in a sink of a lake, which may be removed."""
    return any(
        is_below(uri, join(root, folder))
        for root in layout.object_roots
        for folder in ("objects", "quarantine")
    )


PLACES: Final = (
    Place("labels", "rows", rows_in(lambda layout: layout.labels)),
    Place("thumbnails", "rows", rows_in(lambda layout: layout.thumbnails, name=_only_digest)),
    Place("headers", "rows", rows_in(lambda layout: layout.headers, name=_only_digest)),
    Place("predictions", "rows", _from_predictions),
    Place("source states", "rows", _from_source_states),
    Place("run summaries", "failures", _from_json(lambda layout: layout.runs)),
    Place("dead letters", "files", _from_dead_letters),
    Place("derived objects", "rows", _from_derived),
    Place(
        "journal",
        "rows",
        rows_in(
            lambda layout: layout.journal,
            name=lambda old, digest: f"{old.partition('-')[0]}-{digest}",  # of the fingerprint
        ),
    ),
    Place("history", "rows", rows_in(lambda layout: layout.history)),
    Place("index", "rows", _from_index),
    Place("published tables", "files", _from_tables),
    Place("structured reports", "files", _from_reports),
    Place("objects", "files", _from_objects),
)
"""Every place, in the order in which they are erased: what refers to rows, rows, what rows refer to."""
