"""Temporary databases on this machine's disk, which only this user can read."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pyarrow as pa

from transforms.core.worker_resources import processors
from transforms.storage.permissions import PRIVATE_MODE

if TYPE_CHECKING:
    import duckdb


MEMORY_LIMIT: Final = "512MB"
"""Maximum memory of a database."""
LOADING_MEMORY: Final = "256MB"
"""Maximum memory of a database while wide rows are loaded, which wait in memory of this process, too."""
MAX_THREADS: Final = 4
"""Each thread needs memory of its own."""


FETCHED_ROWS: Final = 4096
INSERTED_ROWS: Final = 131_072
"""Rows that are inserted at a time: a row group of DuckDB (122,880 rows) or more. Fewer would be
compressed when they are inserted, and again with the next ones."""


def create_database(path: Path, memory_limit: str | None = None) -> duckdb.DuckDBPyConnection:
    """Create a database of DuckDB in a private folder, where it also keeps what exceeds its memory.

    It has no write-ahead log, since no temporary database is opened again, and tables have no order.

    Args:
        path: of the database.
        memory_limit: such as "512MB" [default: `MEMORY_LIMIT`].
    """
    import duckdb  # few commands need it

    database = duckdb.connect()
    threads = min(MAX_THREADS, processors())
    database.execute(
        f"SET memory_limit = '{memory_limit or MEMORY_LIMIT}'; SET threads = {threads}; "
        "SET preserve_insertion_order = false; PRAGMA disable_checkpoint_on_shutdown"
    )
    database.execute("SET checkpoint_threshold = '1TB'")  # one thread at a time makes a checkpoint
    database.execute(f"SET temp_directory = {_quoted(path.with_suffix('.spilled'))}")
    database.execute(f"ATTACH {_quoted(path)} AS temporary (RECOVERY_MODE no_wal_writes)")
    path.chmod(PRIVATE_MODE)
    database.execute("USE temporary")
    return database


def limit_memory(database: duckdb.DuckDBPyConnection, memory_limit: str | None = None) -> None:
    """Change the limit of a database; see `create_database`."""
    database.execute(f"SET memory_limit = '{memory_limit or MEMORY_LIMIT}'")


class Inserter:
    """Inserts tables into a table of a database, many rows at a time. To be flushed at the end."""

    def __init__(self, db: duckdb.DuckDBPyConnection, name: str, select: str = "*") -> None:
        """Insert nothing yet.

        Args:
            db: the database.
            name: name of the table.
            select: columns of the table, as expressions over those of the inserted tables.
        """
        self._db = db
        self._insert = f"INSERT INTO {name} BY NAME SELECT {select} FROM batch"
        self._tables: list[pa.Table] = []
        self._rows = 0

    def add(self, table: pa.Table) -> None:
        """Insert a table, now or later."""
        self._tables.append(table)
        self._rows += len(table)
        if self._rows >= INSERTED_ROWS:
            self.flush()

    def flush(self) -> None:
        """Insert the tables that wait."""
        if self._tables:
            self._db.register("batch", pa.concat_tables(self._tables))
            self._db.execute(self._insert)
            self._db.unregister("batch")
        self._tables, self._rows = [], 0


def rows_of(db: duckdb.DuckDBPyConnection, query: str) -> Iterator[tuple[Any, ...]]:
    """Yield the rows of a query without holding them in memory; the database runs no other one then."""
    result = db.execute(query)
    while rows := result.fetchmany(FETCHED_ROWS):
        yield from rows


def _quoted(path: Path) -> str:
    return "'" + str(path).replace("'", "''") + "'"
