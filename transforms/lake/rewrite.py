"""Rewrite: replace a set of index files of one partition by another file, safe to kill at every step.

On a file system the folder of the partition is exchanged for one with the new file, in one step
(renameat2(2), RENAME_EXCHANGE), so that every reader sees each row once. Where that does not exist, a
note says which files are replaced; see `lake.rewrite_notes`.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import hashlib
import os
import shutil
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import BinaryIO, Final

import pyarrow as pa
import pyarrow.parquet as pq

from transforms.core.error_reasons import TEMPORARY, write_failure
from transforms.core.reasons import Stage
from transforms.lake.files import put_file
from transforms.lake.layout import Layout
from transforms.lake.rewrite_notes import RewriteNote, finish_rewrites, write_note
from transforms.lake.schema import ROW_GROUP_ROWS
from transforms.storage.local import uri_to_path
from transforms.storage.schemes import is_local, join
from transforms.storage.temporary import temporary_name, unnamed_file

REWRITTEN: Final = "part-"
"""How the names of rewritten index files begin."""
_AT_FDCWD: Final = -100
_RENAME_EXCHANGE: Final = 2


def rewrite(
    layout: Layout, ingest_date: str, replaced: Sequence[str], tables: Iterable[pa.Table]
) -> int:
    """Replace index files of one partition by one file with these rows, or by none.

    Hold the lake's `LOCK`. Streams may append meanwhile: their segments stay.

    Args:
        layout: the lake.
        ingest_date: the partition, YYYY-MM-DD.
        replaced: URIs of the files that the rows come from.
        tables: the rows, of one schema; may be empty.

    Returns:
        Number of rows written.

    Raises:
        ProcessingFailure: the lake's storage refused; nothing is changed.
    """
    names = tuple(sorted(uri.rpartition("/")[2] for uri in replaced))
    with unnamed_file() as merged:
        try:
            rows = _write(tables, merged)
        except OSError as error:
            raise write_failure(error, Stage.INDEX, TEMPORARY) from error
        merged.seek(0)
        sha256 = hashlib.file_digest(merged, "sha256").hexdigest()
        digest = hashlib.sha256("\n".join((*names, sha256)).encode()).hexdigest()[:20]
        name = f"{REWRITTEN}{digest}.parquet" if rows else None

        def put(uri: str) -> None:
            merged.seek(0)
            put_file(uri, merged, sha256, scratch=layout.scratch())

        note = RewriteNote(ingest_date, name, names)
        if not (is_local(layout.root) and _exchange_partition(layout, note, put)):
            write_note(layout, f"{ingest_date}-{digest}", note)
            if name is not None:
                put(join(layout.partition(ingest_date), name))
            finish_rewrites(layout)
    return rows


def _write(tables: Iterable[pa.Table], sink: BinaryIO) -> int:
    """Write tables as one Parquet file; returns the number of rows."""
    rows, writer = 0, None
    try:
        for table in tables:
            if writer is None:
                writer = pq.ParquetWriter(sink, table.schema, compression="zstd")
            writer.write_table(table, row_group_size=ROW_GROUP_ROWS)
            rows += len(table)
    finally:
        if writer is not None:
            writer.close()
    sink.flush()
    return rows


def _exchange_partition(layout: Layout, note: RewriteNote, put: Callable[[str], None]) -> bool:
    """Exchange a partition's folder for one without the replaced files; False where unsupported."""
    old = uri_to_path(layout.partition(note.ingest_date))
    new = uri_to_path(layout.scratch()) / temporary_name()
    try:
        new.mkdir(parents=True)
        if note.merged is not None:
            put(str(new / note.merged))
        _link_missing(old, new, note.replaced)
        done = _exchanged(old, new)
        if done:
            _link_missing(new, old, note.replaced)  # appended between listing and exchange
            _move_folders(new, old)
        return done
    except OSError as error:
        raise write_failure(error, Stage.INDEX) from error
    finally:
        shutil.rmtree(new, ignore_errors=True)


def _link_missing(source: Path, target: Path, excluded: Sequence[str]) -> None:
    """Link the files of a folder, foreign ones too, into another one that lacks them."""
    for path in source.iterdir():
        if path.name not in excluded and path.is_file():
            with contextlib.suppress(FileExistsError):
                os.link(path, target / path.name)


def _move_folders(source: Path, target: Path) -> None:
    """Move the folders of other programs, which cannot be linked."""
    for path in source.iterdir():
        if path.is_dir():
            path.rename(target / path.name)


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
