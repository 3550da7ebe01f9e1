"""Select rows of the index by a condition in SQL, evaluated without access to files or the network."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

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
    """A condition over the columns of the index, such as `modality = 'CR' AND confidence < 0.9`."""

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

    def matches(self, rows: pa.Table) -> pa.Table:
        """Return the rows of a table that fulfil the condition.

        Args:
            rows: rows with all columns of the index.

        Raises:
            ConditionError: the condition cannot be evaluated for a row.
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
        return rows.take(found.combine_chunks().sort())
