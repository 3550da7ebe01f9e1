"""The index as a Delta table, whose log is in `_tables/index/_delta_log`, by the library deltalake.

The log has no column statistics: they would repeat UIDs and other values of rows in files that outlive
the rows. Partition values, numbers of rows and the statistics in the Parquet files remain.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import pyarrow as pa

from transforms.lake.layout import Layout, partition_of
from transforms.lake.schema import PARTITION
from transforms.lake.table_files import TableFile, make_table_folder, new_columns, table_schema
from transforms.lake.table_settings import DELTA
from transforms.lake.table_stores import delta_options
from transforms.storage.local import uri_to_path
from transforms.storage.schemes import is_local, join

if TYPE_CHECKING:
    from deltalake import DeltaTable

CHECKPOINT_INTERVAL: Final = 50
"""Commits after which deltalake writes a checkpoint and removes old entries of the log."""
LOG_HOURS: Final = 48
DESCRIPTION: Final = "comment"
"""Key of a column's description."""


@dataclass(frozen=True)
class DeltaVersion:
    """A version of the table.

    Attributes:
        number: of the version.
        files: names of its files.
        columns: names of its columns.
    """

    number: int
    files: frozenset[str]
    columns: frozenset[str]
    table: DeltaTable | None = field(default=None, compare=False)

    def __str__(self) -> str:
        return _text(self.number)


class DeltaIndex:
    """The Delta table of the index of a lake."""

    name: Final = DELTA.name
    format: Final = DELTA

    def __init__(self, layout: Layout) -> None:
        """Open nothing yet."""
        self._layout = layout
        root = layout.published_index
        self.location = str(uri_to_path(root)) if is_local(root) else root
        self._options = delta_options(root)

    def current(self) -> DeltaVersion | None:
        """Return the current version, or None if there is no table."""
        from deltalake import DeltaTable
        from deltalake.exceptions import TableNotFoundError

        try:
            table = DeltaTable(self.location, storage_options=self._options)
        except TableNotFoundError:
            return None
        actions = pa.table(table.get_add_actions())
        columns = frozenset(one.name for one in table.schema().fields)
        files = frozenset(str(path) for path in actions["path"].to_pylist())
        return DeltaVersion(table.version(), files, columns, table)

    def commit(
        self, version: DeltaVersion | None, added: Sequence[TableFile], removed: Collection[str]
    ) -> str | None:
        """Commit the version after `version`, in one atomic step.

        Args:
            version: the current version, or None to create the table.
            added: files to add.
            removed: names of files to remove.

        Returns:
            The version; None if another process has committed since, or columns had to be added first:
            the caller tries again with the current version.
        """
        from deltalake import Schema
        from deltalake.exceptions import CommitFailedError, DeltaError
        from deltalake.transaction import (
            AddAction,
            CommitProperties,
            PostCommitHookProperties,
            RemoveAction,
            create_table_with_add_actions,
        )

        adds = [
            AddAction(
                path=file.name,
                size=file.size,
                partition_values={PARTITION: file.ingest_date},
                modification_time=file.modified_ms,
                data_change=True,
                stats=json.dumps({"numRecords": file.rows}),
            )
            for file in added
        ]
        if version is None or version.table is None:
            schema = Schema.from_arrow(table_schema(added, DESCRIPTION))
            make_table_folder(self._layout, join(self._layout.published_index, "_delta_log"))
            try:
                create_table_with_add_actions(
                    self.location,
                    schema,
                    adds,
                    mode="error",
                    partition_by=[PARTITION],
                    name="index",
                    description="One row for each source object of a DICOM Imaging Router lake",
                    configuration={
                        "delta.checkpointInterval": str(CHECKPOINT_INTERVAL),
                        "delta.logRetentionDuration": f"interval {LOG_HOURS} hours",
                        "delta.dataSkippingNumIndexedCols": "0",
                    },
                    storage_options=self._options,
                )
            except DeltaError:
                if self.current() is None:
                    raise
                return None
            return _text(0)
        if missing := new_columns(version.columns, added, DESCRIPTION):  # in a commit of its own
            columns = Schema.from_arrow(pa.schema(missing))
            with contextlib.suppress(CommitFailedError):
                version.table.alter.add_columns(list(columns.fields))
            return None
        now = int(time.time() * 1000)
        removes = [
            RemoveAction(name, True, now, partition_values={PARTITION: partition_of(name)})
            for name in sorted(removed)
        ]
        try:
            version.table.create_write_transaction(
                [*adds, *removes],
                "append",
                version.table.schema(),
                [PARTITION],
                commit_properties=CommitProperties(max_commit_retries=0),
                post_commithook_properties=PostCommitHookProperties(),
            )
        except CommitFailedError:
            return None
        return _text(version.number + 1)

    def remove_old_versions(self) -> None:
        """Do nothing: versions whose files are removed cannot be read, and the log has no values."""

    def maintain(self, keep_s: float) -> None:
        """Do nothing: deltalake writes checkpoints and removes old entries of the log."""


def _text(version: int) -> str:
    return f"version {version}"
