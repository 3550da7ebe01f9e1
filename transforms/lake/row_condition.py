"""Select rows of the index by a condition in SQL, evaluated without access to files or the network."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Final

import pyarrow as pa

from transforms.core.errors import UsageError
from transforms.lake.schema import PARTITION, SCHEMA

if TYPE_CHECKING:
    import duckdb

MEMORY_LIMIT: Final = "1GB"
_LOCKED: Final = f"""
SET memory_limit = '{MEMORY_LIMIT}';
SET temp_directory = '';
SET python_enable_replacements = false;
SET autoinstall_known_extensions = false;
SET autoload_known_extensions = false;
SET enable_external_access = false;
SET lock_configuration = true;
"""
_POSITION: Final = "_position"


class ConditionError(UsageError):
    """A condition cannot be evaluated; the message has the reason."""


class RowCondition:
    """A condition over the columns of the index, such as `modality = 'CR' AND confidence < 0.9`.

    Attributes:
        columns: names of the columns that the condition may read; at least one.
    """

    def __init__(self, sql: str) -> None:
        """Check a condition on an empty table.

        Raises:
            ConditionError: it is no expression of SQL, or names a column that the index lacks.
        """
        import duckdb  # few commands need it

        self._sql = sql
        self._database: duckdb.DuckDBPyConnection = duckdb.connect()
        self._database.execute(_LOCKED)
        self.matches(SCHEMA.append(pa.field(PARTITION, pa.string())).empty_table())
        self.columns = self._columns()

    def matches(self, rows: pa.Table) -> pa.Table:
        """Return the rows of a table that fulfil the condition.

        Args:
            rows: rows with the columns of `columns`, or more.

        Raises:
            ConditionError: the condition cannot be evaluated for a row.
        """
        return rows.take(self.positions(rows))

    def positions(self, rows: pa.Table) -> pa.Array:
        """Return the positions of the rows that fulfil the condition, int64, in ascending order.

        Args:
            rows: as for `matches`.

        Raises:
            ConditionError: as `matches`.
        """
        import duckdb

        try:
            numbered = rows.append_column(_POSITION, pa.array(range(len(rows)), pa.int64()))
            relation = self._database.from_arrow(numbered).filter(self._sql)
            found = relation.project(_POSITION).to_arrow_table()[_POSITION]
        except (duckdb.ParserException, duckdb.BinderException) as error:
            raise ConditionError(f"--where: {str(error).partition(chr(10))[0]}") from error
        except duckdb.Error as error:  # its message may have values of rows
            raise ConditionError(
                f"--where: the condition cannot be evaluated ({type(error).__name__}); it may use "
                "columns of the index, and TRY_CAST where a conversion can fail"
            ) from error
        return found.combine_chunks().sort()

    def _columns(self) -> tuple[str, ...]:
        """Return the columns that the condition names; all if it selects them by a pattern."""
        (text,) = self._database.execute(
            "SELECT json_serialize_sql(?)", [f"SELECT 1 FROM rows WHERE {self._sql}"]
        ).fetchall()[0]
        every = (*SCHEMA.names, PARTITION)
        nodes = list(_nodes(json.loads(text)))
        if any(node.get("error") is True or node.get("type") == "STAR" for node in nodes):
            return every
        named = {name.lower() for node in nodes for name in node.get("column_names", ())}
        return tuple(name for name in every if name in named) or ("status",)


def _nodes(tree: Any) -> Iterator[dict[str, Any]]:
    """Yield the nodes of a syntax tree."""
    if isinstance(tree, dict):
        yield tree
    for below in tree.values() if isinstance(tree, dict) else tree:
        if isinstance(below, (dict, list)):
            yield from _nodes(below)
