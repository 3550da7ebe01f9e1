"""The files of published tables: second names of index files, which remain when a rewrite replaces these.

On a file system they are hard links. Object stores, and file systems without hard links, have no second
names: there the files are copied.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import re
import time
import uuid
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pyarrow as pa

from transforms.lake.files import list_files, put_bytes, read_bytes, read_json, remove_all
from transforms.lake.index_files import list_index, open_index_file
from transforms.lake.layout import PARTITION_PREFIX, Layout, partition_of
from transforms.lake.schema import COLUMNS, PARTITION, SCHEMA
from transforms.storage.folders import make_folders, sync_entries, sync_folders
from transforms.storage.local import uri_to_path
from transforms.storage.permissions import folder_mode
from transforms.storage.renames import LINKS_UNSUPPORTED
from transforms.storage.schemes import is_local, join, storage_of

_REPLACED: Final = "replaced"
"""Folder of lists of files that a table has lost, by time."""
_PLAIN: Final = re.compile(rf"{PARTITION_PREFIX}[0-9-]+/[A-Za-z0-9_.=-]+")
_NOT_LINKED: Final = (*LINKS_UNSUPPORTED, errno.EXDEV)


@dataclass(frozen=True)
class TableFile:
    """A file of a published table.

    Attributes:
        name: relative to the table, `ingest_date=YYYY-MM-DD/….parquet`; as in the index.
        ingest_date: its partition, YYYY-MM-DD.
        size: in bytes.
        rows: number of rows.
        modified_ms: when it was written, milliseconds since 1970.
        further: columns that the index of this release does not have.
    """

    name: str
    ingest_date: str
    size: int
    rows: int
    modified_ms: int
    further: tuple[pa.Field, ...]


def name_of(layout: Layout, uri: str) -> str:
    """Return the name in published tables of an index file.

    It is that of the index file, or derived from it if another program has chosen a name with characters
    that formats quote differently.
    """
    name = uri[len(layout.index.rstrip("/")) + 1 :]
    if _PLAIN.fullmatch(name):
        return name
    digest = hashlib.sha256(name.encode("utf-8", "surrogateescape")).hexdigest()[:20]
    day = partition_of(uri).partition("/")[0]  # not of a folder of another program within
    return f"{PARTITION_PREFIX}{day}/other-{digest}.parquet"


def table_names(layout: Layout) -> dict[str, str]:
    """Return the index files of a lake, by their names in published tables."""
    return {name_of(layout, uri): uri for uri in list_index(layout)}


def add_files(
    layout: Layout, files: Mapping[str, str], added: dict[str, TableFile]
) -> list[TableFile]:
    """Give index files their second names, durably, and return what tables need to know about them.

    Args:
        layout: the lake.
        files: index files by their names in published tables.
        added: those that this process has added just now, to another table; the others are added to it.

    Raises:
        FileNotFoundError: a rewrite has replaced one of them.
        DamagedFile: one of them cannot be read.
        ProcessingFailure: the storage refused a write.
    """
    folders: set[Path] = set()
    try:
        for name, source in sorted(files.items()):
            if name in added:
                continue
            target = join(layout.published_index, name)
            if not (is_local(layout.root) and _link(source, target, layout, folders)):
                data = read_bytes(source)
                put_bytes(target, data, scratch=layout.scratch(), file_mode=layout.file_mode)
            added[name] = _describe(name, source, target)
    finally:
        sync_folders(folders)
    return [added[name] for name in sorted(files)]


def make_table_folder(layout: Layout, folder: str) -> None:
    """Make a folder in which packages write, with the permissions of the lake, if it is local."""
    if is_local(folder):
        make_folders(uri_to_path(folder), folder_mode(layout.file_mode))


def _link(source: str, target: str, layout: Layout, folders: set[Path]) -> bool:
    """Hard-link a file; return False if the file system cannot."""
    path, existing = uri_to_path(target), uri_to_path(source)
    sync_entries(make_folders(path.parent, folder_mode(layout.file_mode)))
    folders.add(path.parent)
    try:
        os.link(existing, path)
    except FileExistsError:
        if not path.samefile(existing):  # restored from a backup, or in a copied lake
            partial = path.with_name(f"_{uuid.uuid4().hex}")
            os.link(existing, partial)
            partial.replace(path)
    except OSError as error:
        if error.errno not in _NOT_LINKED:
            raise
        return False
    return True


def _describe(name: str, source: str, target: str) -> TableFile:
    with open_index_file(source) as file:
        rows, schema = int(file.metadata.num_rows), file.schema_arrow
    further = tuple(column for column in schema if column.name not in COLUMNS)
    found = storage_of(target).stat(target)
    if found is None:
        raise FileNotFoundError(target)
    modified = time.time() if found.modified is None else found.modified
    return TableFile(name, partition_of(name), found.size, rows, int(modified * 1000), further)


def table_schema(files: Iterable[TableFile], description: str) -> pa.Schema:
    """Return the columns of a table: those of the index, then the further columns of files.

    Args:
        files: of the table.
        description: key of a column's description in its metadata.
    """
    columns = {
        name: pa.field(
            name,
            pa.string() if name == PARTITION else SCHEMA.field(name).type,
            metadata={description: text},
        )
        for name, text in COLUMNS.items()
    }
    for file in files:
        for column in file.further:
            columns.setdefault(column.name, column.remove_metadata())
    return pa.schema(list(columns.values()))


def new_columns(
    columns: Collection[str], files: Iterable[TableFile], description: str = "description"
) -> list[pa.Field]:
    """Return the columns of the index and of files that a table lacks; see `table_schema`.

    Args:
        columns: names of the table's columns.
        files: that are added to it.
        description: as for `table_schema`.
    """
    return [one for one in table_schema(files, description) if one.name not in columns]


def note_replaced(layout: Layout, names: Collection[str]) -> None:
    """Note files that tables are about to lose, so that `remove_replaced` finds them later."""
    if names:
        put_bytes(
            join(layout.tables, _REPLACED, f"{time.time_ns():020d}-{uuid.uuid4().hex[:8]}.json"),
            json.dumps(sorted(names)).encode(),
            scratch=layout.scratch(),
            file_mode=layout.file_mode,
        )


def remove_replaced(layout: Layout, current: Collection[str], keep_s: float) -> None:
    """Remove the files that tables have lost longer ago than `keep_s` seconds, except current ones."""
    before = f"{time.time_ns() - int(keep_s * 1e9):020d}"
    for note in list_files(join(layout.tables, _REPLACED), ".json"):
        if note.uri.rpartition("/")[2] < before:
            with contextlib.suppress(FileNotFoundError):  # another process has removed it
                names = [name for name in read_json(note.uri) if name not in current]
                remove_all(_files(layout, names))
                storage_of(note.uri).remove(note.uri)


def files_except(layout: Layout, current: Collection[str]) -> list[str]:
    """Return the URIs of the files of published tables that are not current."""
    kept = set(_files(layout, current))
    listed = list_files(layout.published_index, ".parquet")
    return [found.uri for found in listed if found.uri not in kept]


def remove_all_but(layout: Layout, current: Collection[str]) -> None:
    """Remove every file of published tables except current ones, and all notes of `note_replaced`."""
    remove_all(files_except(layout, current))
    remove_all(found.uri for found in list_files(join(layout.tables, _REPLACED), ".json"))


def _files(layout: Layout, names: Iterable[str]) -> list[str]:
    return [join(layout.published_index, name) for name in names]
