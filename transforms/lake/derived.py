"""The table of derived objects: one row for each object of a sink from which objects are derived.

`derived/ingest_date=YYYY-MM-DD/derived.parquet` has the rows of a day and is replaced as a whole. Derived
objects are written before their rows and removed after them. Their URIs are in an intent in the journal
meanwhile, from which `finish_derived` removes those without a row.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc

from transforms.core.reasons import Status
from transforms.lake.checksums import write_parquet
from transforms.lake.files import (
    exists,
    list_files,
    put_bytes,
    read_json,
    remove_all,
    remove_objects,
    replace_file,
)
from transforms.lake.index_files import list_index, open_index_file, read_matching
from transforms.lake.layout import PARTITION_PREFIX, Layout, partition_of
from transforms.storage.base import ObjectInfo
from transforms.storage.schemes import join, storage_of

INTENT_PREFIX: Final = "derived-"
"""Prefix of the names of intents in the journal."""
WRITTEN, REFUSED, FAILED = "written", "refused", "failed"
"""Values of the column `status`. A failed object is tried again by the next run."""
DERIVED_STATUSES: Final = (WRITTEN, REFUSED, FAILED)
FILE: Final = "derived.parquet"
GROUP_ROWS: Final = 4096


def _column(name: str, arrow_type: pa.DataType, description: str) -> pa.Field:
    return pa.field(name, arrow_type, metadata={"description": description})


SCHEMA: Final[pa.Schema] = pa.schema(
    [
        _column("content_sha256", pa.string(), "sha256 of the source object, hex, as in the index"),
        _column("object_key", pa.string(), "object_key of the source, as in the index"),
        _column("destination", pa.string(), "Label of the source's sink"),
        _column("status", pa.string(), f"{WRITTEN}, {REFUSED} or {FAILED}"),
        _column("reason", pa.string(), "Why there is no derived object, or null"),
        _column(
            "derived_uri", pa.string(), "Derived object, relative to the lake if inside; or null"
        ),
        _column("derived_sha256", pa.string(), "sha256 of the derived object, hex"),
        _column("derived_size_bytes", pa.int64(), "Size of the derived object, bytes"),
        _column("derived_sop_instance_uid", pa.string(), "Own SOP Instance UID"),
        _column("derived_series_instance_uid", pa.string(), "Own Series Instance UID"),
        _column("derived_study_instance_uid", pa.string(), "Own Study Instance UID"),
        _column(
            "burned_in",
            pa.string(),
            "Text in the pixels, by the header: yes, no, suspected, unknown",
        ),
        _column("transform", pa.string(), "Name of the transform in the policy"),
        _column("transform_version", pa.string(), "Version of the transform"),
        _column("transform_options", pa.string(), "Its options, JSON"),
        _column("transform_id", pa.string(), "Digest of transform, version, options and key"),
        _column("key_id", pa.string(), "Identifies the key without disclosing it"),
        _column("router_version", pa.string(), "Version of the router"),
        _column("run_id", pa.string(), "Run that has written the row"),
        _column("derived_at", pa.timestamp("us", tz="UTC"), "When; the same for a batch of rows"),
    ]
)
"""Columns of the table; its rows are sorted by content_sha256, which is unique."""


def has_derived(layout: Layout) -> bool:
    """Return whether a lake has a table of derived objects, or is about to have one.

    Raises:
        OSError: a folder cannot be listed.
    """
    return bool(derived_days(layout)) or bool(list_derived_intents(layout))


def derived_days(layout: Layout) -> dict[str, str]:
    """Return the file of each day, YYYY-MM-DD, that has one.

    Raises:
        OSError: a folder cannot be listed.
    """
    return {partition_of(file.uri): file.uri for file in list_derived(layout)}


def list_derived(layout: Layout) -> list[ObjectInfo]:
    """Return the files of the table, one for each day that has rows.

    Raises:
        OSError: a folder cannot be listed.
    """
    files = list_files(layout.derived_table, f"/{FILE}")
    return [file for file in files if f"/{PARTITION_PREFIX}" in file.uri]


def read_derived(
    layout: Layout, day: str, columns: Sequence[str] = tuple(SCHEMA.names)
) -> pa.Table:
    """Return columns of the rows of a day, in the order of `SCHEMA`; no rows if it has no file.

    Raises:
        DamagedFile: its file cannot be read.
    """
    try:
        with open_index_file(_uri(layout, day)) as file:
            return file.read(columns=columns).cast(_schema_of(columns))
    except FileNotFoundError:
        return _schema_of(columns).empty_table()


def _schema_of(columns: Iterable[str]) -> pa.Schema:
    return pa.schema([SCHEMA.field(name) for name in columns])


def write_derived(layout: Layout, day: str, rows: pa.Table) -> None:
    """Replace the rows of a day. The caller holds the lake's lock.

    Raises:
        ProcessingFailure: the lake's storage refused the write.
    """
    uri, scratch, mode = _uri(layout, day), layout.scratch(), layout.file_mode
    if not len(rows):
        remove_all([uri])
        return
    sink = io.BytesIO()
    ordered = rows.sort_by("content_sha256").combine_chunks().cast(SCHEMA)
    write_parquet([ordered], sink, GROUP_ROWS)
    if exists(uri):
        replace_file(uri, sink.getvalue(), scratch=scratch, file_mode=mode)
    else:
        put_bytes(uri, sink.getvalue(), scratch=scratch, file_mode=mode)


def _uri(layout: Layout, day: str) -> str:
    return join(layout.derived_table, f"{PARTITION_PREFIX}{day}", FILE)


def to_rows(values: Iterable[Mapping[str, Any]]) -> pa.Table:
    """Return rows as a table; absent columns are null."""
    found = list(values)
    columns = {name: [one.get(name) for one in found] for name in SCHEMA.names}
    return pa.Table.from_pydict(columns, schema=SCHEMA)


def write_derived_intent(layout: Layout, object_uris: Iterable[str]) -> str:
    """Write the URIs of derived objects that will be written or removed; return the file's URI.

    Args:
        layout: the lake.
        object_uris: as in the column `derived_uri`.

    Raises:
        ProcessingFailure: the lake's storage refused the write.
    """
    data = json.dumps({"objects": sorted(set(object_uris))}).encode()
    name = hashlib.sha256(data).hexdigest()[:20]
    uri = join(layout.journal, f"{INTENT_PREFIX}{name}.json")
    put_bytes(uri, data, scratch=layout.scratch(), file_mode=layout.file_mode)
    return uri


def list_derived_intents(layout: Layout) -> list[str]:
    """Return the URIs of the intents in the journal."""
    prefix = join(layout.journal, INTENT_PREFIX)
    return [f.uri for f in list_files(layout.journal, ".json") if f.uri.startswith(prefix)]


def pending_derived(layout: Layout) -> set[str]:
    """Return the absolute URIs of derived objects that are being written or removed."""
    found: set[str] = set()
    for uri in list_derived_intents(layout):
        with contextlib.suppress(FileNotFoundError):  # finished since the listing
            found.update(map(layout.absolute, read_json(uri)["objects"]))
    return found


def finish_derived(layout: Layout) -> None:
    """Remove the objects of intents that no row references. Idempotent.

    The caller holds the lake's lock.

    Raises:
        DamagedFile: a file of the table cannot be read.
    """
    for uri in list_derived_intents(layout):
        _remove_unreferenced(layout, read_json(uri)["objects"])
        storage_of(uri).remove(uri)


def finish_intent(layout: Layout, uri: str, removed: Iterable[str]) -> None:
    """Remove derived objects that no row references any more, and then the intent."""
    remove_objects(map(layout.absolute, sorted(set(removed))))
    storage_of(uri).remove(uri)


def _remove_unreferenced(layout: Layout, object_uris: Iterable[str]) -> None:
    unreferenced = set(object_uris)
    for day in derived_days(layout):
        unreferenced.difference_update(read_derived(layout, day)["derived_uri"].to_pylist())
    remove_objects(map(layout.absolute, sorted(unreferenced)))


def remove_derived(
    layout: Layout, contents: Collection[str], *, changed_in: Collection[str] | None = None
) -> int:
    """Remove the rows and derived objects of some sources; return the number of rows. Idempotent.

    The caller holds the lake's lock.

    Args:
        layout: the lake.
        contents: values of content_sha256.
        changed_in: days, YYYY-MM-DD, on which rows of these sources have changed: only derived objects
            of these days are removed, unless a current row has their destination. None: all are removed.

    Raises:
        DamagedFile: a file of the lake cannot be read.
        ProcessingFailure: the lake's storage refused a write.
    """
    if not contents or not has_derived(layout):
        return 0
    finish_derived(layout)
    wanted = pa.array(sorted(set(contents)), pa.string())
    number = 0
    for day in derived_days(layout):
        if changed_in is not None and day not in changed_in:
            continue
        current = set[tuple[str, str]]()
        if changed_in is not None:
            current.update(_destinations(layout, day, wanted))
        rows = read_derived(layout, day)
        pairs = zip(
            rows["content_sha256"].to_pylist(), rows["destination"].to_pylist(), strict=True
        )
        matching = pc.is_in(rows["content_sha256"], value_set=wanted).to_pylist()
        removed = [m and pair not in current for m, pair in zip(matching, pairs, strict=True)]
        if not any(removed):
            continue
        mask = pa.array(removed, pa.bool_())
        uris = rows["derived_uri"].filter(mask).drop_null().to_pylist()
        intent = write_derived_intent(layout, uris)
        write_derived(layout, day, rows.filter(pc.invert(mask)))
        finish_intent(layout, intent, uris)
        number += sum(removed)
    return number


def count_derived(layout: Layout, contents: Collection[str]) -> int:
    """Return the number of rows about some sources.

    Raises:
        DamagedFile: a file of the table cannot be read.
    """
    wanted = pa.array(sorted(set(contents)), pa.string())
    found = (read_derived(layout, day)["content_sha256"] for day in derived_days(layout))
    return sum(len(one.filter(pc.is_in(one, value_set=wanted))) for one in found)


def _destinations(layout: Layout, day: str, contents: pa.StringArray) -> Iterator[tuple[str, str]]:
    """Yield content_sha256 and destination of the routed rows of some contents on a day."""
    columns = ["content_sha256", "destination", "status"]
    for uri in (uri for uri in list_index(layout) if partition_of(uri) == day):
        for table in read_matching(uri, columns, {"content_sha256": contents}):
            routed = table.filter(pc.equal(table["status"], Status.ROUTED.value))
            yield from zip(
                routed["content_sha256"].to_pylist(), routed["destination"].to_pylist(), strict=True
            )
