"""Temporary databases on this machine's disk, which only this user can read."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from transforms.storage.permissions import PRIVATE_MODE

if TYPE_CHECKING:
    import duckdb


def create_database(path: Path) -> duckdb.DuckDBPyConnection:
    """Create a database of DuckDB in a private folder, whose other files it also keeps there."""
    import duckdb  # few commands need it

    database = duckdb.connect(path)
    path.chmod(PRIVATE_MODE)
    return database
