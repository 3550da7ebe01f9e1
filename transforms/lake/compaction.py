"""Merges the small index files of days that are over, so that a reader finds every row exactly once.

On a file system the folder of a day is exchanged for one with the merged file, in one step
(renameat2(2), RENAME_EXCHANGE). Elsewhere no such step exists: a note says which files the merged one
replaces, `list_index` goes by it, and a plain reader may find rows twice (never fewer, never other
ones) until the replaced files are gone. Whatever is killed midway, the next compaction completes it.
"""

from __future__ import annotations

import ctypes
import errno
import hashlib
import json
import os
import shutil
import tempfile
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final

import pyarrow.parquet as pq

from transforms.lake.append import seal_before
from transforms.lake.files import exists, put_bytes, put_file
from transforms.lake.index_files import (
    COMPACTED,
    compaction_notes,
    is_compacted,
    list_index,
    number_of_rows,
    readable,
)
from transforms.lake.layout import PARTITION_PREFIX, Layout
from transforms.lake.schema import ROW_GROUP_ROWS, SCHEMA
from transforms.storage.local import uri_to_path
from transforms.storage.schemes import is_local, join, storage_of
from transforms.storage.temporary import temporary_name

_AT_FDCWD: Final = -100
_RENAME_EXCHANGE: Final = 2


@dataclass(frozen=True)
class Compacted:
    """What was done to one day.

    Attributes:
        ingest_date: the partition.
        files: that were merged into one.
        rows: in them.
    """

    ingest_date: str
    files: int
    rows: int


def compact(layout: Layout, before: str) -> list[Compacted]:
    """Merge the index files of each day before one.

    Only this, and streams, may write into the lake meanwhile: hold its `LOCK`.

    Args:
        layout: the lake.
        before: YYYY-MM-DD, UTC; at most today, since streams write into today's partition.

    Raises:
        RuntimeError: an index file is damaged; nothing of its day is changed.
        Unaccounted: the lake's storage refused.
    """
    _complete(layout)
    seal_before(layout, before)
    by_day: dict[str, list[str]] = defaultdict(list)
    for uri in list_index(layout):
        if (day := _day_of(uri)) < before and (is_compacted(uri) or number_of_rows(uri)):
            by_day[day].append(uri)
    return [_compact_day(layout, day, files) for day, files in sorted(by_day.items()) if files[1:]]


def _compact_day(layout: Layout, day: str, files: Sequence[str]) -> Compacted:
    names = sorted(uri.rpartition("/")[2] for uri in files)
    digest = hashlib.sha256("\n".join(names).encode()).hexdigest()
    merged_name = f"{COMPACTED}{digest[:20]}.parquet"
    with tempfile.TemporaryFile() as merged:
        rows = _merge(files, merged)
        sha256 = hashlib.file_digest(merged, "sha256").hexdigest()

        def put(uri: str) -> None:
            merged.seek(0)
            put_file(uri, merged, sha256, scratch=layout.scratch())

        if not (is_local(layout.root) and _exchange_day(layout, day, names, merged_name, put)):
            note = {"ingest_date": day, "merged": merged_name, "replaced": names}
            target = join(layout.compaction, f"{day}-{digest[:20]}.json")
            put_bytes(target, json.dumps(note).encode(), scratch=layout.scratch())
            put(join(layout.partition(day), merged_name))
            _complete(layout)
    return Compacted(day, len(files), rows)


def _merge(files: Sequence[str], merged: BinaryIO) -> int:
    """Write the rows of all files into one; returns how many."""
    rows = 0
    with pq.ParquetWriter(merged, SCHEMA, compression="zstd") as writer:
        for uri in files:
            with readable(uri) as file:
                for batch in file.iter_batches(ROW_GROUP_ROWS):
                    writer.write_batch(batch)
                    rows += len(batch)
    merged.seek(0)
    return rows


def _exchange_day(
    layout: Layout, day: str, replaced: Sequence[str], name: str, put: Callable[[str], None]
) -> bool:
    """Exchange a day's folder for one with the merged file; False where that cannot be done."""
    old, new = uri_to_path(layout.partition(day)), Path(layout.scratch(), temporary_name())
    put(str(new / name))
    for path in old.iterdir():  # empty files that close chains, and what is not ours
        if path.name not in replaced:
            os.link(path, new / path.name)
    done = _exchanged(old, new)
    shutil.rmtree(new)
    return done


def _exchanged(one: Path, other: Path) -> bool:
    libc = ctypes.CDLL(None, use_errno=True)
    if not hasattr(libc, "renameat2"):
        return False
    paths = os.fsencode(one), os.fsencode(other)
    if libc.renameat2(_AT_FDCWD, paths[0], _AT_FDCWD, paths[1], _RENAME_EXCHANGE) == 0:
        return True
    code = ctypes.get_errno()
    if code in (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP):
        return False
    raise OSError(code, os.strerror(code), str(one))


def _complete(layout: Layout) -> None:
    """Remove what merged files have replaced, and the notes of that."""
    for uri, note in compaction_notes(layout):
        partition = layout.partition(note["ingest_date"])
        if exists(join(partition, note["merged"])):
            for name in note["replaced"]:
                storage_of(partition).remove(join(partition, name))
        storage_of(uri).remove(uri)


def _day_of(uri: str) -> str:
    return uri.rpartition("/")[0].rpartition(PARTITION_PREFIX)[2]
