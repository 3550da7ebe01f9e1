"""The index replica: what the index says, on this machine's disk, kept up to date by a stream's worker.

Index files never change, so that only new ones are read, and of them the columns that are asked about.
Whether a version of a source has a row, and which rows an identity has, is answered without the lake,
from a database that need not fit into memory. Streams deduplicate by it.
"""

from __future__ import annotations

import atexit
import shutil
import tempfile
import threading
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

import pyarrow as pa

from transforms.core.reasons import Status
from transforms.lake.append_log import LogEnd, LogShard, Segment, last_segments
from transforms.lake.index_files import (
    EXISTING_COLUMNS,
    NEXT_PARTITION_KEY,
    ExistingRow,
    batches,
    list_index,
    read_index,
    readable,
)
from transforms.lake.layout import Layout
from transforms.storage.temporary import remove_abandoned, temporary_folder

MEMORY_LIMIT: Final = "512MB"

_TEXTS: Final = ", ".join(f"{column} VARCHAR" for column in EXISTING_COLUMNS)
_CREATE: Final = (
    f"CREATE TABLE existing (file INTEGER, version UHUGEINT, identity UHUGEINT, {_TEXTS})"
)
_VERSION: Final = "md5_number(source_uri || chr(0) || source_version)"
_IDENTITY: Final = f"""md5_number(
    CASE WHEN status = '{Status.QUARANTINED}' THEN content_sha256
    ELSE coalesce(nullif(sop_instance_uid, ''), content_sha256) END)"""
_INSERT: Final = f"""
INSERT INTO existing SELECT ?, {_VERSION}, {_IDENTITY}, {", ".join(EXISTING_COLUMNS)} FROM batch"""
_DELETE: Final = "DELETE FROM existing WHERE file IN (SELECT unnest(?))"
_EXISTING: Final = """
SELECT number FROM wanted SEMI JOIN existing ON md5_number(wanted.name) = existing.version"""
_ROWS: Final = f"""
SELECT {", ".join(EXISTING_COLUMNS)} FROM existing WHERE rowid IN (
    SELECT rowid FROM existing WHERE identity IN (SELECT md5_number(name) FROM wanted))"""

Version = tuple[str, str]
"""A source's URI and version."""


class IndexReplica:
    """What the index of one lake says. Safe between threads."""

    def __init__(self, layout: Layout) -> None:
        import duckdb  # only streams need it

        self._layout = layout
        remove_abandoned(tempfile.gettempdir())
        self._folder = temporary_folder()
        self._tables = duckdb.connect(self._folder / "index.duckdb")
        self._tables.execute(f"SET memory_limit = '{MEMORY_LIMIT}'; SET threads = 2")
        self._tables.execute(_CREATE)
        self._files: dict[str, int] = {}
        self._loaded = 0
        self._sealed: dict[str, str] = {}
        self._last: Mapping[LogShard, Segment] = {}
        self._lock = threading.RLock()

    def close(self) -> None:
        """Remove the replica."""
        with self._lock:
            self._tables.close()
            shutil.rmtree(self._folder, ignore_errors=True)

    def refresh(self) -> None:
        """Read the files that were added to the index, and drop the rows of those replaced.

        Raises:
            DamagedFile: an index file cannot be read.
            OSError: the index cannot be listed.
        """
        with self._lock:
            listed = read_index(self._layout, self._load_all)
            gone = self._files.keys() - set(listed)
            if gone:
                self._tables.execute(_DELETE, [[self._files.pop(uri) for uri in gone]])
                self._sealed = {u: day for u, day in self._sealed.items() if u not in gone}
            self._last = last_segments(listed)

    def existing(self, versions: Sequence[Version]) -> set[Version]:
        """Return those versions of sources that have a row, whatever decided it."""
        if not versions:
            return set()
        with self._lock:
            self._ask(f"{uri}\0{version}" for uri, version in versions)
            found = self._tables.execute(_EXISTING).fetchall()
        return {versions[number] for (number,) in found}

    def rows_of(self, identities: Iterable[str]) -> list[ExistingRow]:
        """Return the rows of these identities."""
        with self._lock:
            self._ask(identities)
            rows = self._tables.execute(_ROWS).fetchall()
        return [ExistingRow(**dict(zip(EXISTING_COLUMNS, row, strict=True))) for row in rows]

    def log_end(self, log: LogShard) -> LogEnd:
        """Return where a log ends."""
        with self._lock:
            last = self._last.get(log)
            return (
                LogEnd() if last is None else LogEnd(last, self._sealed.get(self._uri(log, last)))
            )

    def _uri(self, log: LogShard, segment: Segment) -> str:
        return segment.uri(self._layout, log)

    def _ask(self, names: Iterable[str]) -> None:
        column = pa.array(list(names), pa.string())
        numbers = pa.array(range(len(column)), pa.int64())
        self._tables.register("wanted", pa.table({"number": numbers, "name": column}))

    def _load_all(self) -> list[str]:
        """Read the files that are new; return all files."""
        listed = list_index(self._layout)
        for uri in listed:
            if uri not in self._files:
                self._load(uri)
        return listed

    def _load(self, uri: str) -> None:
        number = self._loaded
        with readable(uri) as file:
            metadata = file.metadata.metadata or {}
            tables = list(batches(file, EXISTING_COLUMNS))
        if sealed_to := metadata.get(NEXT_PARTITION_KEY):
            self._sealed[uri] = sealed_to.decode()
        for table in tables:
            self._tables.register("batch", table)
            self._tables.execute(_INSERT, [number])
            self._tables.unregister("batch")
        self._files[uri] = number
        self._loaded += 1


_REPLICAS: Final[dict[str, IndexReplica]] = {}
_OPENING: Final = threading.Lock()


def replica_of(layout: Layout) -> IndexReplica:
    """Return this process's replica of a lake's index; it is removed with the process."""
    with _OPENING:
        if layout.root not in _REPLICAS:
            _REPLICAS[layout.root] = IndexReplica(layout)
            atexit.register(_REPLICAS[layout.root].close)
        return _REPLICAS[layout.root]
