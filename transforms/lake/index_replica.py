"""The index replica: a local DuckDB copy of the index columns by which streams deduplicate.

It answers whether a source version has a row, and which rows have an identity, without reading the lake,
and need not fit into memory. Index files are immutable, so a refresh reads only new ones.
"""

from __future__ import annotations

import atexit
import shutil
import tempfile
import threading
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

import pyarrow as pa

from transforms.lake.append_log import LogEnd, LogShard, Segment, last_segments
from transforms.lake.databases import create_database
from transforms.lake.index_files import (
    EXISTING_COLUMNS,
    NEXT_PARTITION_KEY,
    ExistingRow,
    open_index_file,
    read_batches,
    read_index,
)
from transforms.lake.layout import Layout
from transforms.lake.schema import IDENTITY_SQL, VERSION_HASH_SQL, VersionKey
from transforms.storage.temporary import remove_abandoned, temporary_folder

MEMORY_LIMIT: Final = "512MB"
"""Maximum memory of the database."""

_TEXTS: Final = ", ".join(f"{column} VARCHAR" for column in EXISTING_COLUMNS)
_CREATE: Final = (
    f"CREATE TABLE existing (file INTEGER, version UHUGEINT, identity UHUGEINT, {_TEXTS})"
)
_INSERT: Final = f"""
INSERT INTO existing
SELECT ?, {VERSION_HASH_SQL}, md5_number({IDENTITY_SQL}), {", ".join(EXISTING_COLUMNS)} FROM batch"""
_DELETE: Final = "DELETE FROM existing WHERE file IN (SELECT unnest(?))"
_EXISTING: Final = """
SELECT number FROM wanted SEMI JOIN existing ON md5_number(wanted.name) = existing.version"""
_STATES: Final = """
SELECT number, source_state FROM wanted JOIN existing ON md5_number(wanted.name) = existing.version"""
_OF_SOURCE: Final = f"""
SELECT {", ".join(EXISTING_COLUMNS)} FROM existing WHERE source_uri = ?"""
_ROWS: Final = f"""
SELECT {", ".join(EXISTING_COLUMNS)} FROM existing WHERE rowid IN (
    SELECT rowid FROM existing WHERE identity IN (SELECT md5_number(name) FROM wanted))"""


class IndexReplica:
    """A replica of the index of one lake. Thread-safe."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        remove_abandoned(tempfile.gettempdir())
        self._folder = temporary_folder()
        self._db = create_database(self._folder / "index.duckdb")
        self._db.execute(f"SET memory_limit = '{MEMORY_LIMIT}'; SET threads = 2")
        self._db.execute(_CREATE)
        self._files: dict[str, int] = {}
        self._loaded = 0
        self._sealed: dict[str, str] = {}
        self._last: Mapping[LogShard, Segment] = {}
        self._lock = threading.RLock()

    def close(self) -> None:
        """Remove the replica from the disk. Idempotent."""
        with self._lock:
            if database := vars(self).pop("_db", None):  # a thread may still reference the replica
                database.close()
            shutil.rmtree(self._folder, ignore_errors=True)

    def refresh(self) -> None:
        """Load files that were added to the index, and drop the rows of files that were replaced.

        Raises:
            DamagedFile: an index file cannot be read.
            OSError: the index cannot be listed.
        """
        with self._lock:
            listed = read_index(self._layout, self._load_new)
            replaced = self._files.keys() - set(listed)
            if replaced:
                self._db.execute(_DELETE, [[self._files.pop(uri) for uri in replaced]])
                self._sealed = {u: day for u, day in self._sealed.items() if u not in replaced}
            self._last = last_segments(listed)

    def existing(self, versions: Sequence[VersionKey]) -> set[VersionKey]:
        """Return the source versions that have a row."""
        if not versions:
            return set()
        with self._lock:
            self._register_wanted(f"{uri}\0{version}" for uri, version in versions)
            numbers = self._db.execute(_EXISTING).fetchall()
        return {versions[number] for (number,) in numbers}

    def states(self, versions: Sequence[VersionKey]) -> dict[VersionKey, set[str | None]]:
        """Return the states of the rows of source versions; versions without a row are left out."""
        states: dict[VersionKey, set[str | None]] = {}
        if versions:
            with self._lock:
                self._register_wanted(f"{uri}\0{version}" for uri, version in versions)
                for number, state in self._db.execute(_STATES).fetchall():
                    states.setdefault(versions[number], set()).add(state)
        return states

    def rows_of_source(self, source_uri: str) -> list[ExistingRow]:
        """Return the rows of a source, by a scan of all rows."""
        with self._lock:
            rows = self._db.execute(_OF_SOURCE, [source_uri]).fetchall()
        return [ExistingRow(**dict(zip(EXISTING_COLUMNS, row, strict=True))) for row in rows]

    def rows_of(self, identities: Iterable[str]) -> list[ExistingRow]:
        """Return the rows that have one of some identities."""
        with self._lock:
            self._register_wanted(identities)
            rows = self._db.execute(_ROWS).fetchall()
        return [ExistingRow(**dict(zip(EXISTING_COLUMNS, row, strict=True))) for row in rows]

    def log_end(self, log: LogShard) -> LogEnd:
        """Return the end of a log."""
        with self._lock:
            last = self._last.get(log)
            if last is None:
                return LogEnd()
            return LogEnd(last, self._sealed.get(last.uri(self._layout, log)))

    def _register_wanted(self, names: Iterable[str]) -> None:
        column = pa.array(list(names), pa.string())
        numbers = pa.array(range(len(column)), pa.int64())
        self._db.register("wanted", pa.table({"number": numbers, "name": column}))

    def _load_new(self, files: list[str]) -> list[str]:
        """Load the index files that are new; return all files."""
        for uri in files:
            if uri not in self._files:
                self._load(uri)
        return files

    def _load(self, uri: str) -> None:
        number = self._loaded
        with open_index_file(uri) as file:
            metadata = file.metadata.metadata or {}
            tables = list(read_batches(file, EXISTING_COLUMNS))
        if sealed_to := metadata.get(NEXT_PARTITION_KEY):
            self._sealed[uri] = sealed_to.decode()
        for table in tables:
            self._db.register("batch", table)
            self._db.execute(_INSERT, [number])
            self._db.unregister("batch")
        self._files[uri] = number
        self._loaded += 1


_REPLICAS: Final[dict[str, IndexReplica]] = {}
_REPLICAS_LOCK: Final = threading.Lock()


def replica_of(layout: Layout) -> IndexReplica:
    """Return the replica of a lake's index in this process; it is removed when the process ends."""
    with _REPLICAS_LOCK:
        if layout.root not in _REPLICAS:
            _REPLICAS[layout.root] = IndexReplica(layout)
            atexit.register(_REPLICAS[layout.root].close)
        return _REPLICAS[layout.root]
