"""The index replica: hashes of the rows of an index in a local database, to find what the lake has.

Streams deduplicate by it, and long lists leave known references out. It knows where the rows of a source
and of an identity are; these few are read from their index files. It takes 10 bytes a row on the local
disk, 20 in a process that writes rows, and need not fit into memory. Index files are immutable,
so a refresh reads only new ones. Each column that is looked up has a table of its own, which is loaded
when it is first needed: a process that only polls reads no UIDs, and digests are needed for objects
without one. A process that asks for many known versions loads their hashes, too.
"""

from __future__ import annotations

import atexit
import contextlib
import itertools
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Final, TypeVar

import pyarrow as pa

from transforms.core.object_ref import ObjectRef, object_key
from transforms.core.worker_resources import processors
from transforms.lake.append_log import LogEnd, LogShard, Segment, last_segments
from transforms.lake.databases import MAX_THREADS, Inserter, create_database
from transforms.lake.existing_rows import (
    EXISTING_COLUMNS,
    SHA256_DIGITS,
    ExistingRow,
    identity_columns,
)
from transforms.lake.index_files import (
    NEXT_PARTITION_KEY,
    count_rows,
    open_index_file,
    read_batches,
    read_index,
    read_matching,
)
from transforms.lake.layout import Layout
from transforms.lake.schema import ROW_GROUP_ROWS, VersionKey
from transforms.lake.tombstones import NONE, Tombstones, read_tombstones
from transforms.storage.temporary import remove_abandoned, temporary_folder

if TYPE_CHECKING:
    import duckdb

T = TypeVar("T")

MEMORY_LIMIT: Final = "128MB"
"""Maximum memory of the database."""
MAX_ROW_GROUPS: Final = 1 << 16
"""Row groups of a file. A place is the number of a file times this, plus the number of a row group."""
MAX_SHARE_READ: Final = 0.25
"""Share of the rows of the index that are read for versions before the hashes of all versions are loaded,
which takes about as long as reading all rows."""

_KEYS: Final = {"key": "hash(object_key)"}
_VERSIONS: Final = {
    "key": "hash(object_key)",
    "version": "hash(source_uri, source_version)",
    "state": "CASE WHEN source_state IS NOT NULL THEN hash(source_state) END",
}
"""Hashes of a source version. Names are untrusted, and DuckDB's hash is none against an attacker: the
object key is 48 bits of a sha256, and far faster to read than an MD5 is to compute."""
_VERSION_COLUMNS: Final = ("object_key", "source_uri", "source_version", "source_state")
_UIDS: Final = {"uid": "hash(sop_instance_uid)"}
_DIGESTS: Final = {"digest": "hash(content_sha256)"}
_FIND: Final = """
SELECT number, bool_or(w.state IS NULL OR v.state IS NULL OR hash(w.state) = v.state)
FROM temporary.versions v JOIN wanted w
ON hash(w.object_key) = v.key AND hash(w.source_uri, w.source_version) = v.version
GROUP BY number"""


class IndexReplica:
    """A replica of the index of one lake. Thread-safe."""

    def __init__(self, layout: Layout, *, for_versions: bool = False) -> None:
        """Create an empty replica.

        Args:
            layout: the lake.
            for_versions: whether many known versions will be asked for: their hashes are loaded at once,
                and those of object keys only when they are needed.
        """
        self._layout = layout
        remove_abandoned(tempfile.gettempdir())
        self._folder = temporary_folder()
        self._db = create_database(self._folder / "index.duckdb", MEMORY_LIMIT)
        self._keys = _Hashes(self._db, "keys", ["object_key"], _KEYS)
        self._uids = _Hashes(self._db, "uids", ["sop_instance_uid"], _UIDS)
        self._digests = _Hashes(self._db, "digests", ["content_sha256"], _DIGESTS)
        self._versions = _Hashes(self._db, "versions", _VERSION_COLUMNS, _VERSIONS)
        self._holds_versions = for_versions
        self._first = self._versions if for_versions else self._keys  # is loaded by each refresh
        self._rows_read = 0
        self._listed: list[str] = []
        self._last: Mapping[LogShard, Segment] = {}
        self._preloading: dict[bool, threading.Thread] = {}
        self._tombstones: Tombstones | None = None
        self._lock = threading.RLock()  # held while the index is loaded
        self._starting = threading.Lock()

    def close(self) -> None:
        """Remove the replica from the disk; what is being loaded is given up. Idempotent."""
        tables = (self._keys, self._uids, self._digests, self._versions)
        for hashes in tables:
            hashes.is_closed = True
        with self._lock:
            for hashes in tables:
                hashes.close()
            self._db.close()
            shutil.rmtree(self._folder, ignore_errors=True)

    def preload(self, *, for_rows: bool = True) -> None:
        """Begin to load the index in a thread, while the process starts up. Idempotent.

        The lake need not be locked or opened yet: files that are replaced meanwhile are loaded again.

        Args:
            for_rows: whether to load what `rows_of` needs, too; a process that only polls does not.
        """
        with self._starting:
            if for_rows not in self._preloading:
                thread = threading.Thread(target=self._preload, args=[for_rows], daemon=True)
                self._preloading[for_rows] = thread
                thread.start()

    def _preload(self, for_rows: bool) -> None:
        with contextlib.suppress(Exception):  # raised again where it is needed
            self._load_first()  # no tombstones: they count from when the lake is locked
            if for_rows:
                self.rows_of([])

    def refresh(self) -> None:
        """Load files that were added to the index, and drop the rows of files that were replaced.

        Raises:
            DamagedFile: an index file cannot be read.
            OSError: the index cannot be listed.
        """
        with self._lock:
            if self._tombstones is None or self._tombstones:  # a run adds some to those that exist
                self._tombstones = read_tombstones(self._layout, self._tombstones or NONE)
            self._load_first()

    def _load_first(self) -> None:
        with self._lock:
            self._listed = read_index(self._layout, self._first.load)
            self._last = last_segments(self._listed)

    def reload_tombstones(self) -> None:
        """Read the tombstones of the lake with the next refresh, as a run does when it starts.

        Does not wait while the index is loaded. Call it while nobody polls.
        """
        self._tombstones = None

    def finished(self, refs: Iterable[ObjectRef]) -> set[VersionKey]:
        """Return the versions of references that have a row, or were erased: they are not processed."""
        listed = list(refs)
        return self.existing([ref.version_key for ref in listed]) | self.forgotten(listed)

    def forgotten(self, refs: Iterable[ObjectRef]) -> set[VersionKey]:
        """Return the versions of references whose content is known to be erased."""
        tombstones = self._tombstones or NONE
        return {ref.version_key for ref in refs if tombstones.has_source(ref)}

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
        return self._retried(lambda listed: self._find(states, listed))

    def _find(
        self, states: Mapping[VersionKey, str | None], listed: list[str]
    ) -> dict[VersionKey, bool]:
        """Find few versions in their row groups, and many by their hashes, which take longer to load."""
        if not self._holds_versions:
            keys = pa.array(sorted({object_key(uri) for uri, _ in states}), pa.string())
            groups = self._groups_of(keys)
            self._rows_read += sum(
                min(self.count_rows(uri), ROW_GROUP_ROWS * len(of_file))
                for uri, of_file in groups.items()
            )
            if self._rows_read <= MAX_SHARE_READ * sum(self._keys.rows.values()):
                tables = _read_groups(groups, _VERSION_COLUMNS, {"object_key": keys})
                return _known_states(states, tables)
            self._holds_versions = True
        versions = list(states)
        wanted = {
            "number": pa.array(range(len(versions)), pa.int64()),
            "object_key": pa.array([object_key(uri) for uri, _ in versions], pa.string()),
            "source_uri": pa.array([uri for uri, _ in versions], pa.string()),
            "source_version": pa.array([version for _, version in versions], pa.string()),
            "state": pa.array(list(states.values()), pa.string()),
        }
        found = self._versions.query(_FIND, pa.table(wanted), listed)
        return {versions[number]: is_same for number, is_same in found}

    def rows_of_source(self, source_uri: str) -> list[ExistingRow]:
        """Return the rows of a source; see `rows_of`."""
        keys = pa.array([object_key(source_uri)], pa.string())
        wanted = {"source_uri": pa.array([source_uri], pa.string())}
        return self._retried(lambda _: _existing_rows(self._groups_of(keys), wanted))

    def rows_of(self, identities: Iterable[str]) -> list[ExistingRow]:
        """Return the rows that have one of some identities, which are read from the index.

        If a rewrite has replaced their files, the replica is refreshed.

        Raises:
            DamagedFile: an index file cannot be read.
            OSError: an index file cannot be read, or the index cannot be listed.
        """
        wanted = set(identities)
        uids = pa.array(sorted(wanted), pa.string())
        digests = pa.array(sorted(filter(_may_be_digest, wanted)), pa.string())

        def read(listed: list[str]) -> list[ExistingRow]:
            groups = self._uids.row_groups(listed, uids)
            if len(digests):
                for uri, of_file in self._digests.row_groups(listed, digests).items():
                    groups[uri] = sorted({*groups.get(uri, ()), *of_file})
            return _existing_rows(groups, identity_columns(uids))

        return [row for row in self._retried(read) if row.identity in wanted]

    def count_rows(self, uri: str) -> int:
        """Return the number of rows of an index file, as `index_files.count_rows`."""
        known = self._first.rows.get(uri)
        return count_rows(uri) if known is None else known

    def log_end(self, log: LogShard) -> LogEnd:
        """Return the end of a log."""
        with self._lock:
            last = self._last.get(log)
            if last is None:
                return LogEnd()
            return LogEnd(last, self._first.sealed.get(last.uri(self._layout, log)))

    def _groups_of(self, keys: pa.StringArray) -> dict[str, list[int]]:
        """Return the row groups, by file, with rows of sources, as of the last refresh."""
        with self._lock:
            return self._keys.row_groups(self._listed, keys)

    def _retried(self, read: Callable[[list[str]], T]) -> T:
        """Return what `read` returns for the files of the last refresh; refresh if one is replaced."""
        while True:
            with self._lock:
                listed = self._listed
            try:
                return read(listed)
            except FileNotFoundError:
                self.refresh()
                with self._lock:
                    if self._listed == listed:
                        raise


def _may_be_digest(identity: str) -> bool:
    return len(identity) == SHA256_DIGITS and "." not in identity


def _existing_rows(
    groups: Mapping[str, list[int]], wanted: Mapping[str, pa.StringArray]
) -> list[ExistingRow]:
    return [
        ExistingRow(**row)
        for table in _read_groups(groups, EXISTING_COLUMNS, wanted)
        for row in table.to_pylist()
    ]


def _read_groups(
    groups: Mapping[str, list[int]], columns: Sequence[str], wanted: Mapping[str, pa.StringArray]
) -> Iterator[pa.Table]:
    """Yield the rows with a wanted value of row groups, by file."""
    for uri, of_file in groups.items():
        yield from read_matching(uri, columns, wanted, of_file)


def _known_states(
    states: Mapping[VersionKey, str | None], tables: Iterable[pa.Table]
) -> dict[VersionKey, bool]:
    """Return which of some versions rows have, and whether one has the state; see `find`."""
    found: dict[VersionKey, bool] = {}
    for table in tables:
        columns = ("source_uri", "source_version", "source_state")
        for uri, version, state in zip(*(table[c].to_pylist() for c in columns), strict=True):
            if (uri, version) in states:
                wanted = states[uri, version]
                is_same = wanted is None or state is None or wanted == state
                found[uri, version] = found.get((uri, version), False) or is_same
    return found


class _Hashes:
    """A table with hashes of the rows of index files, and the place of each row. Thread-safe.

    Attributes:
        sealed: partition in which the log of each seal continues, by its URI.
        rows: number of rows of each file that is loaded, by its URI.
        is_closed: whether loading ends early, and without all rows.
    """

    def __init__(
        self,
        db: duckdb.DuckDBPyConnection,
        name: str,
        columns: Sequence[str],
        hashes: Mapping[str, str],
    ) -> None:
        """Create an empty table.

        Args:
            db: the database.
            name: name of the table.
            columns: columns of the index that are hashed.
            hashes: expressions over them, by column of the table; `row_groups` looks up the first.
        """
        self._db, self._name, self._columns = db.cursor(), f"temporary.{name}", columns
        typed = ", ".join(f"{one} UBIGINT" for one in hashes)
        self._db.execute(f"CREATE TABLE {self._name} (place BIGINT, {typed})")
        self._select = ", ".join(["place", *(f"{sql} AS {one}" for one, sql in hashes.items())])
        column = next(iter(hashes))
        self._find = f"SELECT DISTINCT place FROM {self._name} JOIN wanted ON hash(name) = {column}"
        self._numbers: dict[str, int] = {}
        self._uris: dict[int, str] = {}
        self._counter = itertools.count()
        self.sealed: dict[str, str] = {}
        self.rows: dict[str, int] = {}
        self.is_closed = False
        self._lock = threading.RLock()

    def close(self) -> None:
        """Close the table after what uses it has ended. Idempotent."""
        with self._lock:
            self._db.close()

    def load(self, files: list[str]) -> list[str]:
        """Load the files that are new, drop the rows of others, and return the files.

        Raises:
            FileNotFoundError: a file does not exist.
            DamagedFile: a file cannot be read.
        """
        with self._lock:
            if new := [uri for uri in files if uri not in self._numbers]:
                threads = min(MAX_THREADS, processors(), len(new))
                with ThreadPoolExecutor(threads) as pool:
                    list(pool.map(self._load, [iter(new)] * threads))
            if replaced := self._numbers.keys() - set(files):
                self._drop(replaced)
        return files

    def row_groups(self, files: list[str], names: pa.StringArray) -> dict[str, list[int]]:
        """Load files, and return the row groups, by file, with a value that has the hash of a name.

        Raises:
            FileNotFoundError, DamagedFile: as `load`.
        """
        with self._lock:
            groups: dict[str, list[int]] = {}
            for (place,) in sorted(self.query(self._find, pa.table({"name": names}), files)):
                number, group = divmod(place, MAX_ROW_GROUPS)
                groups.setdefault(self._uris[number], []).append(group)
            return groups

    def query(self, query: str, wanted: pa.Table, files: list[str]) -> list[tuple[Any, ...]]:
        """Load files, and return the result of a query over this table and the table `wanted`.

        Raises:
            FileNotFoundError, DamagedFile: as `load`.
        """
        with self._lock:
            self.load(files)
            self._db.register("wanted", wanted)
            return self._db.execute(query).fetchall()

    def _load(self, uris: Iterator[str]) -> None:
        """Load the files that an iterator yields, which several threads share: all of them or none."""
        numbers: dict[str, int] = {}
        sealed: dict[str, str] = {}
        counted: dict[str, int] = {}
        with self._db.cursor() as db:
            rows = Inserter(db, self._name, self._select)
            try:
                for uri in uris:
                    if self.is_closed:
                        break
                    number = numbers[uri] = next(self._counter)
                    with open_index_file(uri) as file:
                        counted[uri] = file.metadata.num_rows
                        if seal := (file.metadata.metadata or {}).get(NEXT_PARTITION_KEY):
                            sealed[uri] = seal.decode()
                        for group in range(file.num_row_groups):
                            place = pa.scalar(number * MAX_ROW_GROUPS + group, pa.int64())
                            for table in read_batches(file, self._columns, [group]):
                                places = pa.repeat(place, len(table))
                                rows.add(table.append_column("place", places))
                rows.flush()
            except BaseException:
                self._delete(db, numbers.values())
                raise
        self._numbers |= numbers
        self._uris |= {number: uri for uri, number in numbers.items()}
        self.sealed |= sealed
        self.rows |= counted

    def _drop(self, files: Set[str]) -> None:
        """Drop the rows of files."""
        self._delete(self._db, [self._numbers[uri] for uri in files])
        for uri in files:
            del self._uris[self._numbers.pop(uri)]
            self.sealed.pop(uri, None)
            self.rows.pop(uri, None)

    def _delete(self, db: duckdb.DuckDBPyConnection, numbers: Iterable[int]) -> None:
        """Delete the rows of the files with some numbers."""
        db.execute(
            f"DELETE FROM {self._name} WHERE place // {MAX_ROW_GROUPS} IN (SELECT unnest(?))",
            [list(numbers)],
        )


_REPLICAS: Final[dict[str, IndexReplica]] = {}
_REPLICAS_LOCK: Final = threading.Lock()


def replica_of(layout: Layout) -> IndexReplica:
    """Return the replica of a lake's index in this process; it is removed when the process ends."""
    with _REPLICAS_LOCK:
        if layout.root not in _REPLICAS:
            _REPLICAS[layout.root] = IndexReplica(layout)
            atexit.register(_REPLICAS[layout.root].close)
        return _REPLICAS[layout.root]
