"""The rows that an export has: selected by SQL, one for each object, assigned to splits, in order."""

from __future__ import annotations

import contextlib
import hashlib
import hmac
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Final

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.export.columns import needed_columns
from pipeline.export.options import ExportOptions
from transforms.core.choices import SPLITS
from transforms.core.reasons import Status
from transforms.lake.databases import Inserter, create_database
from transforms.lake.layout import Layout
from transforms.lake.row_condition import RowCondition
from transforms.lake.select_rows import SelectedRows
from transforms.storage.temporary import private_folder

if TYPE_CHECKING:
    import duckdb

BATCH_ROWS: Final = 1024
"""Rows in memory together."""
_NAME: Final = "object_key || '-' || substr(content_sha256, 1, 12)"
_HASH_BYTES: Final = 16
_FIRST_OF_CONTENT: Final = f"""
CREATE TABLE selected AS
SELECT *, {_NAME} AS name FROM matched WHERE rowid IN (
    SELECT arg_min(rowid, {{
        'again': status = '{Status.DUPLICATE}', 'source': source_uri, 'version': source_version,
        'object': object_uri
    }}) FROM matched GROUP BY content_sha256
)
"""
_GROUPS: Final = """
CREATE TABLE groups AS
SELECT patient_hash, row_number() OVER (ORDER BY patient_hash) AS number
FROM (SELECT DISTINCT patient_hash FROM selected)
"""


class Selection:
    """The selected rows of a lake, in a database on this machine's disk.

    Rows have the columns of `needed_columns`, `name` (of files of the export), `split`, and `group`: a
    number for each patient, or each study whose patient is unknown, by the order of their hashes.
    """

    def __init__(self, database: duckdb.DuckDBPyConnection) -> None:
        self._database = database

    def count(self) -> int:
        """Return the number of rows."""
        return int(self._one("SELECT count(*) FROM selected"))

    def digest(self) -> str:
        """Return a digest of all values of all rows, by which an interrupted export is continued."""
        found = self._one("SELECT bit_xor(md5_number(CAST(selected AS VARCHAR))) FROM selected")
        return f"{found or 0:032x}"

    def labels(self) -> list[str]:
        """Return the labels of routed rows, sorted."""
        query = (
            f"SELECT DISTINCT destination FROM selected WHERE status = '{Status.ROUTED}' ORDER BY 1"
        )
        return [name for (name,) in self._database.execute(query).fetchall()]

    def rows(self, order: str = "split_number, content_sha256") -> Iterator[dict[str, Any]]:
        """Yield the rows.

        Args:
            order: columns to sort by. By default images of a split are in an order like a random one.
        """
        cursor = self._database.cursor()
        cursor.execute("USE temporary")
        found = cursor.sql(
            "SELECT selected.*, groups.number AS group_number FROM selected "
            f"JOIN groups USING (patient_hash) ORDER BY {order}"
        )
        try:
            for batch in found.to_arrow_reader(BATCH_ROWS):
                for row in batch.to_pylist():
                    row["split"] = SPLITS[row["split_number"]]
                    row["group"] = f"{row['group_number']:08d}"
                    yield row
        finally:
            cursor.close()

    def studies(self) -> Iterator[dict[str, Any]]:
        """Yield the number of rows by study, patient, SOP class and destination, for the audit trail."""
        names = "study_instance_uid, patient_key, sop_class_uid, destination"
        cursor = self._database.cursor()
        cursor.execute("USE temporary")
        found = cursor.sql(
            f"SELECT {names}, count(*) AS number FROM selected GROUP BY ALL ORDER BY {names}"
        )
        try:
            for batch in found.to_arrow_reader(BATCH_ROWS):
                yield from batch.to_pylist()
        finally:
            cursor.close()

    def _one(self, query: str) -> Any:
        found = self._database.execute(query).fetchone()
        return None if found is None else found[0]


@contextlib.contextmanager
def select(layout: Layout, options: ExportOptions) -> Iterator[Selection]:
    """Yield the selected rows of a lake.

    Raises:
        ConditionError: `--where` cannot be evaluated.
        DamagedFile: an index file cannot be read.
        OSError: the index cannot be listed.
    """
    condition = RowCondition(options.where) if options.where else None
    found = SelectedRows(layout, needed_columns(), condition)
    statuses = pa.array(options.statuses)
    with private_folder() as folder, create_database(folder / "export") as database:
        database.register("read", _with_groups(found.schema.empty_table(), options))
        database.execute("CREATE TABLE matched AS FROM read")
        database.unregister("read")
        matched = Inserter(database, "matched")
        for batch in found.batches():
            of_status = pc.is_in(batch["status"], value_set=statuses)
            stored = batch.filter(pc.and_(of_status, pc.is_valid(batch["object_uri"])))
            matched.add(_with_groups(pa.Table.from_batches([stored]), options))
        matched.flush()
        database.execute(_FIRST_OF_CONTENT)
        database.execute("DROP TABLE matched")
        database.execute(_GROUPS)
        yield Selection(database)


def _with_groups(rows: pa.Table, options: ExportOptions) -> pa.Table:
    known = pc.coalesce(rows["patient_key"], rows["study_instance_uid"], rows["content_sha256"])
    key = options.split_key.encode()
    hashes = [hmac.new(key, one.encode(), hashlib.sha256).digest() for one in known.to_pylist()]
    splits = [split_of(one, options.split_shares) for one in hashes]
    groups = pa.array([one[:_HASH_BYTES].hex() for one in hashes], pa.string())
    return rows.append_column("patient_hash", groups).append_column(
        "split_number", pa.array(splits, pa.int8())
    )


def split_of(digest: bytes, shares: Sequence[float]) -> int:
    """Return the position of the split of a patient.

    Args:
        digest: hash of the patient, of which the first 8 bytes are a share in 0..1.
        shares: of the splits.
    """
    share, limit = int.from_bytes(digest[:8], "big") / 2**64, 0.0
    for position, size in enumerate(shares):
        limit += size
        if share < limit:
            return position
    return max(position for position, size in enumerate(shares) if size)
