"""The index replica: hashes of the rows of an index in a local database, by which streams deduplicate.

It answers which source versions have a row without reading the lake, and knows where the rows of an
identity are; these few are read from their index files. It takes about 34 bytes a row on the local disk
and need not fit into memory. Index files are immutable, so a refresh reads only new ones.
"""

from __future__ import annotations

import atexit
import shutil
import tempfile
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import pyarrow as pa

from transforms.lake.append_log import LogEnd, LogShard, Segment, last_segments
from transforms.lake.databases import create_database
from transforms.lake.index_files import (
    EXISTING_COLUMNS,
    NEXT_PARTITION_KEY,
    ExistingRow,
    identity_columns,
    open_index_file,
    read_batches,
    read_index,
    read_matching,
)
from transforms.lake.layout import Layout
from transforms.lake.schema import HISTORY_SCHEMA, IDENTITY_SQL, VersionKey
from transforms.storage.temporary import remove_abandoned, temporary_folder

MEMORY_LIMIT: Final = "256MB"
"""Maximum memory of the database."""

_HASHED: Final = (
    "source_uri", "source_version", "source_state", "status", "sop_instance_uid", "content_sha256",
)  # fmt: skip
_SCHEMA: Final = pa.schema(
    [
        *(pa.field(name, HISTORY_SCHEMA.field(name).type) for name in _HASHED),
        pa.field("place", pa.int32()),
    ]
)
_SOURCE: Final = "md5_number_upper({})"
"""Half of an MD5: names of objects are untrusted, and DuckDB's own hash is none against an attacker."""
_CREATE: Final = """
CREATE TABLE existing (place INTEGER, source UBIGINT, version UBIGINT, state UBIGINT, identity UBIGINT)"""
_INSERT: Final = f"""
INSERT INTO existing
SELECT place, {_SOURCE.format("source_uri")}, hash(source_version),
    CASE WHEN source_state IS NOT NULL THEN hash(source_state) END, hash({IDENTITY_SQL})
FROM new_rows"""
_DELETE: Final = "DELETE FROM existing WHERE place IN (SELECT unnest(?))"
_FIND: Final = f"""
SELECT number, bool_or(w.state IS NULL OR e.state IS NULL OR hash(w.state) = e.state)
FROM existing e JOIN wanted w
ON {_SOURCE.format("w.source_uri")} = e.source AND hash(w.source_version) = e.version
GROUP BY number"""
_OF_SOURCE: Final = f"""
SELECT DISTINCT place FROM existing WHERE source = {_SOURCE.format("?")}"""
_OF_IDENTITIES: Final = """
SELECT DISTINCT place FROM existing JOIN wanted ON hash(wanted.name) = identity"""


class IndexReplica:
    """A replica of the index of one lake. Thread-safe."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        remove_abandoned(tempfile.gettempdir())
        self._folder = temporary_folder()
        self._db = create_database(self._folder / "index.duckdb", MEMORY_LIMIT)
        self._db.execute(_CREATE)
        self._files: dict[str, range] = {}
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
                places = [place for uri in replaced for place in self._files.pop(uri)]
                self._db.execute(_DELETE, [places])
                self._sealed = {u: day for u, day in self._sealed.items() if u not in replaced}
            self._last = last_segments(listed)

    def existing(self, versions: Sequence[VersionKey]) -> set[VersionKey]:
        """Return the source versions that have a row."""
        return set(self.find(dict.fromkeys(versions)))

    def find(self, states: Mapping[VersionKey, str | None]) -> dict[VersionKey, bool]:
        """Return the source versions that have a row, and whether one has recorded a state.

        Args:
            states: state of each version, as `IndexRow.source_state`. None equals every state, also in a
                row.
        """
        if not states:
            return {}
        versions = list(states)
        wanted = {
            "number": pa.array(range(len(versions)), pa.int64()),
            "source_uri": pa.array([uri for uri, _ in versions], pa.string()),
            "source_version": pa.array([version for _, version in versions], pa.string()),
            "state": pa.array(list(states.values()), pa.string()),
        }
        with self._lock:
            self._db.register("wanted", pa.table(wanted))
            found = self._db.execute(_FIND).fetchall()
        return {versions[number]: is_same for number, is_same in found}

    def rows_of_source(self, source_uri: str) -> list[ExistingRow]:
        """Return the rows of a source; see `rows_of`."""
        with self._lock:
            groups = self._groups(self._db.execute(_OF_SOURCE, [source_uri]).fetchall())
        wanted = {"source_uri": pa.array([source_uri], pa.string())}
        found = self._read(groups, wanted)
        return found if found is not None else self.rows_of_source(source_uri)

    def rows_of(self, identities: Iterable[str]) -> list[ExistingRow]:
        """Return the rows that have one of some identities, which are read from the index.

        If a rewrite has replaced their files, the replica is refreshed.

        Raises:
            DamagedFile: an index file cannot be read.
            OSError: an index file cannot be read, or the index cannot be listed.
        """
        wanted = set(identities)
        names = pa.array(sorted(wanted), pa.string())
        with self._lock:
            self._db.register("wanted", pa.table({"name": names}))
            groups = self._groups(self._db.execute(_OF_IDENTITIES).fetchall())
        found = self._read(groups, identity_columns(names))
        if found is None:
            return self.rows_of(wanted)
        return [row for row in found if row.identity in wanted]

    def log_end(self, log: LogShard) -> LogEnd:
        """Return the end of a log."""
        with self._lock:
            last = self._last.get(log)
            if last is None:
                return LogEnd()
            return LogEnd(last, self._sealed.get(last.uri(self._layout, log)))

    def _groups(self, places: Sequence[tuple[int]]) -> dict[str, list[int]]:
        """Return the row groups in places, by file."""
        numbers = {place for (place,) in places}
        found = {
            uri: [place - own.start for place in sorted(numbers.intersection(own))]
            for uri, own in (self._files.items() if numbers else ())
        }
        return {uri: groups for uri, groups in found.items() if groups}

    def _read(
        self, groups: Mapping[str, Sequence[int]], wanted: Mapping[str, pa.StringArray]
    ) -> list[ExistingRow] | None:
        """Return the rows of row groups that have a wanted value; None if a file has been replaced."""
        try:
            return [
                ExistingRow(**row)
                for uri, of_file in groups.items()
                for table in read_matching(uri, EXISTING_COLUMNS, wanted, of_file)
                for row in table.to_pylist()
            ]
        except FileNotFoundError:
            with self._lock:
                self.refresh()
                if groups.keys() <= self._files.keys():
                    raise
            return None

    def _load_new(self, files: list[str]) -> list[str]:
        """Load the index files that are new; return all files."""
        new = _NewRows([uri for uri in files if uri not in self._files], self._loaded)
        if new.files:
            reader = pa.RecordBatchReader.from_batches(_SCHEMA, new.batches())
            self._db.register("new_rows", reader)
            try:
                self._db.execute(_INSERT)
            except Exception:
                if new.error is not None:
                    raise new.error from None
                raise
            finally:
                self._db.unregister("new_rows")
            self._files |= new.places
            self._sealed |= new.sealed
            self._loaded = new.number
        return files


@dataclass
class _NewRows:
    """The rows of new index files, while they are read.

    Attributes:
        files: URIs of the files.
        number: number of the next place; each row group is a place.
        places: of each file that has been read.
        sealed: partition in which the log of each seal continues.
        error: why a file could not be read.
    """

    files: Sequence[str]
    number: int
    places: dict[str, range] = field(default_factory=dict)
    sealed: dict[str, str] = field(default_factory=dict)
    error: Exception | None = None

    def batches(self) -> Iterator[pa.RecordBatch]:
        """Yield batches of `_SCHEMA`; called by the database, which does not keep exceptions."""
        try:
            for uri in self.files:
                yield from self._batches_of(uri)
        except Exception as error:
            self.error = error
            raise

    def _batches_of(self, uri: str) -> Iterator[pa.RecordBatch]:
        first = self.number
        with open_index_file(uri) as file:
            metadata = file.metadata.metadata or {}
            if sealed_to := metadata.get(NEXT_PARTITION_KEY):
                self.sealed[uri] = sealed_to.decode()
            for group in range(file.num_row_groups):
                for table in read_batches(file, _HASHED, [group]):
                    place = pa.repeat(pa.scalar(self.number, pa.int32()), len(table))
                    yield from table.append_column("place", place).cast(_SCHEMA).to_batches()
                self.number += 1
        self.places[uri] = range(first, self.number)


_REPLICAS: Final[dict[str, IndexReplica]] = {}
_REPLICAS_LOCK: Final = threading.Lock()


def replica_of(layout: Layout) -> IndexReplica:
    """Return the replica of a lake's index in this process; it is removed when the process ends."""
    with _REPLICAS_LOCK:
        if layout.root not in _REPLICAS:
            _REPLICAS[layout.root] = IndexReplica(layout)
            atexit.register(_REPLICAS[layout.root].close)
        return _REPLICAS[layout.root]
