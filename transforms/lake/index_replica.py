"""A copy of what the index says, on this machine's disk, kept up to date while a stream goes on.

Index files never change, so that only new ones are read. What is asked (is this version of this source
held, which rows has this identity) is answered without the lake, from a database that need not fit
into memory.
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
from transforms.lake.append_log import LogShard, Segment, last_segments, parse
from transforms.lake.files import exists
from transforms.lake.index_files import (
    EXISTING_COLUMNS,
    ExistingRow,
    is_compacted,
    list_index,
    readable,
)
from transforms.lake.layout import Layout
from transforms.lake.schema import ROW_GROUP_ROWS
from transforms.storage.temporary import remove_abandoned, temporary_folder

MEMORY_LIMIT: Final = "512MB"

_TEXTS: Final = ", ".join(f"{column} VARCHAR" for column in EXISTING_COLUMNS)
_CREATE: Final = f"CREATE TABLE ledger (version UHUGEINT, identity UHUGEINT, {_TEXTS})"
_VERSION: Final = "md5_number(source_uri || chr(0) || source_version)"
_IDENTITY: Final = f"""md5_number(
    CASE WHEN status = '{Status.QUARANTINED}' THEN content_sha256
    ELSE coalesce(nullif(sop_instance_uid, ''), content_sha256) END)"""
_INSERT: Final = f"""
INSERT INTO ledger SELECT {_VERSION}, {_IDENTITY}, {", ".join(EXISTING_COLUMNS)} FROM batch"""
_INSERT_NEW: Final = f"""
{_INSERT} ANTI JOIN ledger AS known
ON known.version = md5_number(batch.source_uri || chr(0) || batch.source_version)
AND known.model_id IS NOT DISTINCT FROM batch.model_id"""
_HELD: Final = """
SELECT number FROM wanted SEMI JOIN ledger ON md5_number(wanted.name) = ledger.version"""
_ROWS: Final = f"""
SELECT {", ".join(EXISTING_COLUMNS)} FROM ledger WHERE rowid IN (
    SELECT rowid FROM ledger WHERE identity IN (SELECT md5_number(name) FROM wanted))"""

Version = tuple[str, str]
"""A source's URI and version."""


class IndexReplica:
    """What the index of one lake says. Safe between threads."""

    def __init__(self, layout: Layout) -> None:
        import duckdb  # only streams and commits of stores need it

        self._layout = layout
        remove_abandoned(tempfile.gettempdir())
        self._folder = temporary_folder()
        self._tables = duckdb.connect(self._folder / "index.duckdb")
        self._tables.execute(f"SET memory_limit = '{MEMORY_LIMIT}'; SET threads = 2")
        self._tables.execute(_CREATE)
        self._read: set[str] = set()
        self._empty: set[str] = set()
        self._tails: Mapping[LogShard, Segment] = {}
        self._lock = threading.RLock()

    def close(self) -> None:
        """Remove the copy."""
        with self._lock:
            self._tables.close()
            shutil.rmtree(self._folder, ignore_errors=True)

    def refresh(self) -> None:
        """Read what has been added to the index.

        Raises:
            RuntimeError: an index file is damaged.
            OSError: the index cannot be listed.
        """
        with self._lock:
            while not self._load_all(listed := list_index(self._layout)):
                pass
            self._read = set(listed)
            self._empty &= self._read
            self._tails = last_segments(listed)

    def held(self, versions: Sequence[Version]) -> set[Version]:
        """Return those versions of sources that have a row, whatever model decided it."""
        if not versions:
            return set()
        with self._lock:
            self._ask(f"{uri}\0{version}" for uri, version in versions)
            found = self._tables.execute(_HELD).fetchall()
        return {versions[number] for (number,) in found}

    def rows_of(self, identities: Iterable[str]) -> list[ExistingRow]:
        """Return the rows of these identities."""
        with self._lock:
            self._ask(identities)
            rows = self._tables.execute(_ROWS).fetchall()
        return [ExistingRow(**dict(zip(EXISTING_COLUMNS, row, strict=True))) for row in rows]

    def tail(self, chain: LogShard) -> tuple[Segment | None, bool]:
        """Return the last file of a chain, and whether it is empty."""
        with self._lock:
            link = self._tails.get(chain)
            return link, link is not None and link.uri(self._layout, chain) in self._empty

    def _ask(self, names: Iterable[str]) -> None:
        column = pa.array(list(names), pa.string())
        numbers = pa.array(range(len(column)), pa.int64())
        self._tables.register("wanted", pa.table({"number": numbers, "name": column}))

    def _load_all(self, listed: Sequence[str]) -> bool:
        """Read the files that are new; False if one is gone, as another took its rows over."""
        for uri in listed:
            if uri in self._read:
                continue
            try:
                self._load(uri)
            except RuntimeError:
                if exists(uri):
                    raise
                return False
            self._read.add(uri)
        return True

    def _load(self, uri: str) -> None:
        insert = _INSERT_NEW if is_compacted(uri) else _INSERT
        with readable(uri) as file:
            if parse(uri) and not file.metadata.num_rows:
                self._empty.add(uri)
            for batch in file.iter_batches(ROW_GROUP_ROWS, columns=EXISTING_COLUMNS):
                self._tables.register("batch", pa.Table.from_batches([batch]))
                self._tables.execute(insert)
                self._tables.unregister("batch")


_REPLICAS: Final[dict[str, IndexReplica]] = {}
_OPENING: Final = threading.Lock()


def replica_of(layout: Layout) -> IndexReplica:
    """Return this process's catalog of a lake; it goes with the process."""
    with _OPENING:
        if layout.root not in _REPLICAS:
            _REPLICAS[layout.root] = IndexReplica(layout)
            atexit.register(_REPLICAS[layout.root].close)
        return _REPLICAS[layout.root]
