"""Temporary databases on this machine's disk, which only this user can read."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from transforms.storage.permissions import PRIVATE_MODE

if TYPE_CHECKING:
    import duckdb


def create_database(path: Path) -> duckdb.DuckDBPyConnection:
    """Create a database of DuckDB in a private folder, where it also keeps what exceeds its memory.

    It has no write-ahead log, since no temporary database is opened again.
    """
    import duckdb  # few commands need it

    database = duckdb.connect()
    database.execute(f"SET temp_directory = {_quoted(path.with_suffix('.spilled'))}")
    database.execute(f"ATTACH {_quoted(path)} AS temporary (RECOVERY_MODE no_wal_writes)")
    path.chmod(PRIVATE_MODE)
    database.execute("USE temporary")
    return database


def _quoted(path: Path) -> str:
    return "'" + str(path).replace("'", "''") + "'"
