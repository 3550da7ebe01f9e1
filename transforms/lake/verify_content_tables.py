"""Check the tables beside the index: thumbnails and headers."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pyarrow.parquet as pq

from transforms.lake.content_tables import ContentTable, list_table
from transforms.lake.headers import HEADERS
from transforms.lake.index_files import DamagedFile, is_damaged, open_index_file
from transforms.lake.layout import Layout
from transforms.lake.thumbnails import THUMBNAILS
from transforms.lake.verify_report import VerifyReport, Violation


def check_content_tables(layout: Layout, report: VerifyReport, *, deep: bool) -> None:
    """Open the files of the tables, and compare them with their checksums if `deep`.

    A content may have no row, or several, and a row may be of a content without a row in the index.
    """
    for table in (THUMBNAILS, HEADERS):
        for info in list_table(layout, table):
            where = layout.relative(info.uri)
            try:
                report.add(_problems(table, info.uri, where, deep=deep))
            except FileNotFoundError:
                continue  # compacted since the listing
            except DamagedFile:
                report.add([Violation(f"unreadable {table.what} file", "", where)])


def _problems(table: ContentTable, uri: str, where: str, *, deep: bool) -> list[Violation]:
    if deep and is_damaged(uri):
        return [Violation(f"{table.what} file with other bytes", "", where)]
    with open_index_file(uri) as file:
        if missing := [name for name in table.schema.names if name not in file.schema_arrow.names]:
            where = f"{where}: {', '.join(missing)}"
            return [Violation(f"columns missing in a {table.what} file", "", where)]
        if deep and table is HEADERS:
            return [Violation("header that is not JSON", key, where) for key in _not_json(file)]
    return []


def _not_json(file: pq.ParquetFile) -> Iterator[str]:
    """Yield the object keys of headers that cannot be read."""
    for batch in file.iter_batches(columns=["object_key", "header"]):
        for key, header in zip(*batch.to_pydict().values(), strict=True):
            try:
                is_object = isinstance(json.loads(header), dict)
            except (TypeError, ValueError):
                is_object = False
            if not is_object:
                yield key
