"""Headers of objects as a table beside the index: DICOM JSON (PS3.18 annex F), a row for each content.

`imaging.header_json` says which attributes a header has; `lake.content_tables` writes the files.
"""

from __future__ import annotations

from typing import Final

import pyarrow as pa

from transforms.lake.content_tables import ContentTable
from transforms.lake.schema import SCHEMA as INDEX

_OF_INDEX: Final = (
    "content_sha256",
    "object_key",
    "sop_class_uid",
    "sop_instance_uid",
    "series_instance_uid",
    "study_instance_uid",
    "patient_key",
)
SCHEMA: Final[pa.Schema] = pa.schema(
    [
        *(INDEX.field(name) for name in _OF_INDEX),
        pa.field(
            "header",
            pa.string(),
            metadata={
                "description": "Allow-listed attributes of the object in the DICOM JSON Model; see "
                "docs/headers.md"
            },
        ),
    ]
)
"""Columns of a file of headers; its rows are sorted by content_sha256."""
HEADERS: Final = ContentTable(
    folder="headers",
    what="header",
    schema=SCHEMA,
    value="header",
    journaled="header",
    journal_columns=_OF_INDEX,
    max_file_rows=32_768,
    group_rows=4_096,
)
