"""Rewrite the index: replace a set of files of one partition by one file; safe to kill at every step.

A write-ahead intent comes first; see `lake.rewrite_intents`. On a file system, the partition's folder is
then exchanged atomically for one with the new file (renameat2(2), RENAME_EXCHANGE), so that every reader
sees each row once. In object stores and on other file systems, files are written and removed one by one.
"""

from __future__ import annotations

import hashlib
import shutil
import uuid
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

import pyarrow as pa

from transforms.core.reasons import ProcessingFailure, Stage
from transforms.core.storage_failures import TEMPORARY, write_failure
from transforms.lake.checksums import write_parquet
from transforms.lake.files import put_file
from transforms.lake.layout import Layout
from transforms.lake.published_tables import keep_in_step
from transforms.lake.rewrite_intents import (
    EXCHANGED,
    RewriteIntent,
    finish_rewrites,
    write_intent,
)
from transforms.lake.schema import ROW_GROUP_ROWS
from transforms.storage.folders import make_folders, sync_folder, sync_folders
from transforms.storage.local import uri_to_path
from transforms.storage.permissions import PRIVATE_FOLDER_MODE, private_folder_mode
from transforms.storage.renames import exchange, link_missing
from transforms.storage.schemes import is_local, join, storage_of
from transforms.storage.temporary import unnamed_file

REWRITTEN: Final = "part-"
"""Prefix of the names of rewritten index files."""


def rewrite(
    layout: Layout, ingest_date: str, replaced: Sequence[str], tables: Iterable[pa.Table]
) -> int:
    """Replace index files of one partition by one file, or by none if there are no rows.

    The caller holds the lake's `LOCK`. Streams may append at the same time: their segments are kept.

    Args:
        layout: the lake.
        ingest_date: the partition, YYYY-MM-DD.
        replaced: URIs of the files to replace.
        tables: rows of the new file, all of one schema.

    Returns:
        Number of rows written.

    Raises:
        ProcessingFailure: the lake's storage refused a write; the index is unchanged.
    """
    names = tuple(sorted(uri.rpartition("/")[2] for uri in replaced))
    with unnamed_file() as merged:
        try:
            rows = write_parquet(tables, merged, ROW_GROUP_ROWS)
        except OSError as error:
            raise write_failure(error, Stage.INDEX, TEMPORARY) from error
        merged.seek(0)
        sha256 = hashlib.file_digest(merged, "sha256").hexdigest()
        digest = hashlib.sha256("\n".join((*names, sha256)).encode()).hexdigest()[:20]
        name = f"{REWRITTEN}{digest}.parquet" if rows else None

        def put(uri: str) -> None:
            merged.seek(0)
            put_file(uri, merged, sha256, scratch=layout.scratch(), file_mode=layout.file_mode)

        intent = RewriteIntent(ingest_date, name, names)
        note = f"{ingest_date}-{digest}"
        if not (is_local(layout.root) and _exchange_partition(layout, intent, note, put)):
            write_intent(layout, note, intent)
            if name is not None:
                put(join(layout.partition(ingest_date), name))
            finish_rewrites(layout)
    keep_in_step(layout)
    return rows


def _exchange_partition(
    layout: Layout, intent: RewriteIntent, note: str, put: Callable[[str], None]
) -> bool:
    """Exchange a partition's folder for one without the replaced files.

    Returns:
        False if the file system does not support this.
    """
    old = uri_to_path(layout.partition(intent.ingest_date))
    folder = f"{EXCHANGED}{uuid.uuid4().hex}"
    new = uri_to_path(layout.scratch()) / folder
    try:
        if any(path.is_dir() for path in old.iterdir()):
            return False  # of other programs, and cannot be linked
        intent = replace(intent, folder=folder)
        note_uri = write_intent(layout, f"{note}-{folder}", intent)
        try:
            is_done = _exchange_folders(old, new, intent, put, layout.file_mode)
        except (OSError, ProcessingFailure):
            _discard(new, note_uri)
            raise
        _discard(new, note_uri)
        return is_done
    except OSError as error:
        raise write_failure(error, Stage.INDEX) from error


def _exchange_folders(
    old: Path, new: Path, intent: RewriteIntent, put: Callable[[str], None], file_mode: int
) -> bool:
    make_folders(new.parent, private_folder_mode(file_mode))
    new.mkdir(PRIVATE_FOLDER_MODE)
    if intent.merged is not None:
        put(str(new / intent.merged))
    if not link_missing(old, new, intent.files):
        return False
    shutil.copymode(old, new)
    sync_folder(new)
    if not exchange(old, new):
        return False
    sync_folders([old.parent, new.parent])
    try:
        link_missing(new, old, intent.files)  # appended between listing and exchange
    except OSError:
        exchange(old, new)
        raise
    sync_folder(old)
    return True


def _discard(folder: Path, note_uri: str) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    storage_of(note_uri).remove(note_uri)
