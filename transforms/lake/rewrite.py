"""Rewrite the index: replace a set of files of one partition by one file; safe to kill at every step.

On a file system, the partition's folder is exchanged atomically for one with the new file (renameat2(2),
RENAME_EXCHANGE), so that every reader sees each row once. Object stores and file systems without atomic
exchange use a write-ahead intent instead; see `lake.rewrite_intents`.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Final

import pyarrow as pa

from transforms.core.reasons import Stage
from transforms.core.storage_failures import TEMPORARY, write_failure
from transforms.lake.checksums import write_parquet
from transforms.lake.files import put_file
from transforms.lake.layout import Layout
from transforms.lake.rewrite_intents import RewriteIntent, finish_rewrites, write_intent
from transforms.lake.schema import ROW_GROUP_ROWS
from transforms.storage.folders import make_folders, sync_folder, sync_folders
from transforms.storage.local import uri_to_path
from transforms.storage.permissions import PRIVATE_FOLDER_MODE, private_folder_mode
from transforms.storage.renames import LINKS_UNSUPPORTED, exchange
from transforms.storage.schemes import is_local, join
from transforms.storage.temporary import temporary_name, unnamed_file

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
        if not (is_local(layout.root) and _exchange_partition(layout, intent, put)):
            write_intent(layout, f"{ingest_date}-{digest}", intent)
            if name is not None:
                put(join(layout.partition(ingest_date), name))
            finish_rewrites(layout)
    return rows


def _exchange_partition(layout: Layout, intent: RewriteIntent, put: Callable[[str], None]) -> bool:
    """Exchange a partition's folder for one without the replaced files.

    Returns:
        False if the file system does not support this.
    """
    old = uri_to_path(layout.partition(intent.ingest_date))
    new = uri_to_path(layout.scratch()) / temporary_name()
    try:
        if any(path.is_dir() for path in old.iterdir()):
            return False  # of other programs, and cannot be linked
        make_folders(new.parent, private_folder_mode(layout.file_mode))
        new.mkdir(PRIVATE_FOLDER_MODE)
        if intent.merged is not None:
            put(str(new / intent.merged))
        if not _link_missing(old, new, intent.replaced):
            return False
        shutil.copymode(old, new)
        sync_folder(new)
        if not exchange(old, new):
            return False
        sync_folders([old.parent, new.parent])
        try:
            _link_missing(new, old, intent.replaced)  # appended between listing and exchange
        except OSError:
            exchange(old, new)
            raise
        sync_folder(old)
        return True
    except OSError as error:
        raise write_failure(error, Stage.INDEX) from error
    finally:
        shutil.rmtree(new, ignore_errors=True)


def _link_missing(source: Path, target: Path, excluded: Sequence[str]) -> bool:
    """Hard-link the files of a folder, except excluded ones, into a folder that lacks them.

    Returns:
        False if the file system has no hard links.
    """
    for path in source.iterdir():
        if path.name not in excluded:
            try:
                os.link(path, target / path.name, follow_symlinks=False)
            except FileExistsError:
                continue
            except OSError as error:
                if error.errno not in LINKS_UNSUPPORTED:
                    raise
                return False
    return True
