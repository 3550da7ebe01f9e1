"""Temporary databases on this machine's disk, which only this user can read."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Final

from transforms.storage.permissions import PRIVATE_MODE

if TYPE_CHECKING:
    import duckdb


MEMORY_LIMIT: Final = "512MB"
"""Maximum memory of a database."""
MAX_THREADS: Final = 4
"""Each thread needs memory of its own."""


def create_database(path: Path, memory_limit: str | None = None) -> duckdb.DuckDBPyConnection:
    """Create a database of DuckDB in a private folder, where it also keeps what exceeds its memory.

    It has no write-ahead log, since no temporary database is opened again, and tables have no order.

    Args:
        path: of the database.
        memory_limit: such as "512MB" [default: `MEMORY_LIMIT`].
    """
    import duckdb  # few commands need it

    database = duckdb.connect()
    threads = min(MAX_THREADS, os.cpu_count() or 1)
    database.execute(
        f"SET memory_limit = '{memory_limit or MEMORY_LIMIT}'; SET threads = {threads}; "
        "SET preserve_insertion_order = false; PRAGMA disable_checkpoint_on_shutdown"
    )
    database.execute(f"SET temp_directory = {_quoted(path.with_suffix('.spilled'))}")
    database.execute(f"ATTACH {_quoted(path)} AS temporary (RECOVERY_MODE no_wal_writes)")
    path.chmod(PRIVATE_MODE)
    database.execute("USE temporary")
    return database


def _quoted(path: Path) -> str:
    return "'" + str(path).replace("'", "''") + "'"
