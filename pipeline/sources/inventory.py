"""Inventories of object stores as manifests: their columns, and the manifest files that list their parts.

- Amazon S3 Inventory, CSV or Parquet:
  https://docs.aws.amazon.com/AmazonS3/latest/userguide/storage-inventory-location.html
- Inventory reports of Google Cloud's Storage Insights, CSV or Parquet:
  https://cloud.google.com/storage/docs/insights/inventory-reports
- Azure Storage blob inventory, CSV or Parquet:
  https://learn.microsoft.com/azure/storage/blobs/blob-inventory
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final
from urllib.parse import unquote_plus

from transforms.core.errors import UsageError
from transforms.core.json_data import parse_json
from transforms.core.manifest_part import (
    AZURE_INVENTORY,
    CSV,
    GCS_INVENTORY,
    LIST,
    S3_INVENTORY,
    ManifestPart,
)
from transforms.storage.schemes import GS, S3, is_local, join

URI_COLUMNS: Final = ("uri", "source_uri", "path", "file")
"""Accepted names of the URI column of a list, in order of precedence."""
MAX_MANIFEST_BYTES: Final = 64 << 20
"""Maximum size of the JSON file that lists the files of an inventory."""
_AZURE: Final = {
    "contentlength", "blobtype", "creationtime", "lastmodified", "etag", "contentmd5", "accesstier",
}  # fmt: skip
"""Columns, one of which an inventory of Azure has besides `Name`."""
_SUBSECONDS: Final = re.compile(r"(\.\d{6})\d+")


@dataclass(frozen=True)
class Entry:
    """An entry of a manifest.

    Attributes:
        uri: URI or path of the object.
        version: version that an inventory gives; None: to be looked up.
        size: size in bytes, with `version`.
        modified: as `ObjectInfo.modified`.
        is_current: whether it is the current version of an object, and no folder.
    """

    uri: str
    version: str | None = None
    size: int | None = None
    modified: float | None = None
    is_current: bool = True


class BadEntry(ValueError):
    """An entry cannot be used; the message has none of its values."""


def kind_of(columns: Sequence[str]) -> str | None:
    """Return what a file with these columns is, a kind of `ManifestPart`, or None."""
    names = {_plain(column) for column in columns}
    if names & {_plain(column) for column in URI_COLUMNS}:
        return LIST
    if {"bucket", "key"} <= names:
        return S3_INVENTORY
    if {"bucket", "name"} <= names:
        return GCS_INVENTORY
    if "name" in names and names & _AZURE:
        return AZURE_INVENTORY
    return None


def needed_columns(columns: Sequence[str], kind: str) -> dict[str, str]:
    """Return the columns that entries of a kind are made of, by their plain names."""
    by_plain = {_plain(column): column for column in reversed(columns)}
    if kind == LIST:
        wanted = next(one for one in map(_plain, URI_COLUMNS) if one in by_plain)
        return {"uri": by_plain[wanted]}
    return {plain: column for plain, column in by_plain.items() if plain in _NEEDED[kind]}


_NEEDED: Final = {
    S3_INVENTORY: {
        "bucket", "key", "size", "etag", "lastmodifieddate", "islatest", "isdeletemarker",
    },
    GCS_INVENTORY: {
        "bucket", "name", "size", "generation", "updated", "timedeleted", "softdeletetime",
    },
    AZURE_INVENTORY: {"name", "snapshot", "iscurrentversion", "deleted", "hdiisfolder"},
}  # fmt: skip


def entry_of(row: Mapping[str, Any], part: ManifestPart, root: str | None) -> Entry:
    """Return the entry in a row.

    Args:
        row: values by the plain names of `needed_columns`: text, or as Parquet has them.
        part: part of the manifest with the row.
        root: folder or URI to which the names of an inventory are relative; None: their bucket.

    Raises:
        BadEntry: the row has no name.
    """
    if part.kind == LIST:
        return Entry(_text(row, "uri"))
    name = _text(row, "key" if part.kind == S3_INVENTORY else "name")
    if part.kind == S3_INVENTORY and part.format == CSV:
        name = unquote_plus(name)  # keys in CSV are URL-encoded
    is_current = not (name.endswith("/") and _whole(row.get("size")) in (0, None)) and all(
        (
            _flag(row.get("islatest"), default=True),
            not _flag(row.get("isdeletemarker")),
            _flag(row.get("iscurrentversion"), default=True),
            not _flag(row.get("deleted")),
            not _flag(row.get("hdiisfolder")),
            not any(row.get(one) for one in ("timedeleted", "softdeletetime", "snapshot")),
        )
    )
    if root is not None:
        return Entry(join(root, name), is_current=is_current)
    scheme, version_column, time_column = _TRUSTED[part.kind]
    uri = f"{scheme}://{_text(row, 'bucket')}/{name}"
    size, version = _whole(row.get("size")), _version(row.get(version_column))
    if size is None or version is None:
        return Entry(uri, is_current=is_current)
    return Entry(uri, version, size, _time(row.get(time_column)), is_current)


_TRUSTED: Final = {
    S3_INVENTORY: (S3, "etag", "lastmodifieddate"),
    GCS_INVENTORY: (GS, "generation", "updated"),
}
"""Scheme, and columns of the version and its time, by kind."""


@dataclass(frozen=True)
class Inventory:
    """What a manifest file in JSON says.

    Attributes:
        files: candidates for the URI of each file with entries, the likeliest first.
        columns: names of the columns of CSV files that have no header line; empty if they have one.
        delimiter: of CSV files.
    """

    files: tuple[tuple[str, ...], ...]
    columns: tuple[str, ...] = ()
    delimiter: str = ","


def parse_inventory(uri: str, data: bytes) -> Inventory:
    """Return what a manifest file of an inventory says.

    Args:
        uri: of the manifest file.
        data: its content.

    Raises:
        UsageError: it is not the manifest of an inventory that can be read.
    """
    try:
        found = parse_json(data)
    except ValueError as error:
        raise UsageError(f"manifest {uri} is not valid JSON") from error
    try:
        if "fileSchema" in found:
            return _amazon(uri, found)
        if "report_shards_file_names" in found:
            return _google(uri, found)
        if "ruleDefinition" in found:
            return _azure(uri, found)
    except (KeyError, TypeError, AttributeError) as error:
        raise UsageError(f"manifest {uri}: a field of the inventory is missing") from error
    raise UsageError(
        f"manifest {uri} is not the manifest.json of an inventory of S3, Cloud Storage or Azure; give a "
        "text, CSV or Parquet file with URIs"
    )


def _amazon(uri: str, found: Mapping[str, Any]) -> Inventory:
    _refuse_orc(uri, str(found["fileFormat"]))
    bucket = str(found["destinationBucket"]).removeprefix("arn:aws:s3:::")
    keys = [str(one["key"]) for one in found["files"]]
    columns: tuple[str, ...] = ()
    if str(found["fileFormat"]).upper() == "CSV":
        columns = tuple(name.strip() for name in str(found["fileSchema"]).split(","))
    return Inventory(tuple(_candidates(uri, key, f"{S3}://{bucket}") for key in keys), columns)


def _google(uri: str, found: Mapping[str, Any]) -> Inventory:
    names = [str(name) for name in found["report_shards_file_names"]]
    config = found.get("report_config") or {}
    options = config.get("csv_options") or config.get("csvOptions") or {}
    metadata = config.get("object_metadata_report_options") or {}
    fields = tuple(map(str, metadata.get("metadata_fields") or ()))
    has_header = options.get("header_required", options.get("headerRequired", False))
    return Inventory(
        tuple(_candidates(uri, name, None) for name in names),
        () if has_header else fields,
        str(options.get("delimiter") or ","),
    )


def _azure(uri: str, found: Mapping[str, Any]) -> Inventory:
    names = [str(one["blob"]) for one in found["files"]]
    return Inventory(tuple(_candidates(uri, name, None) for name in names))


def _candidates(uri: str, name: str, root: str | None) -> tuple[str, ...]:
    """Return where a file of an inventory may be: in its bucket, or copied beside the manifest."""
    folder = uri.rpartition("/")[0]
    base = name.rpartition("/")[2]
    above = [folder]
    while above[-1].rpartition("/")[0].rstrip("/:") and len(above) < 8:
        above.append(above[-1].rpartition("/")[0])
    copies = [join(one, name) for one in above if _is_inside(name)]
    near = [join(one, *middle, base) for one in above[:2] for middle in ((), ("data",))]
    local = [*copies, *near]
    if root is None:
        return tuple(local)
    return (*local, join(root, name)) if is_local(uri) else (join(root, name), *local)


def _is_inside(name: str) -> bool:
    return not name.startswith("/") and ".." not in name.split("/")


def _refuse_orc(uri: str, file_format: str) -> None:
    if file_format.upper() == "ORC":
        raise UsageError(
            f"manifest {uri}: ORC cannot be read; configure the inventory as Parquet or CSV"
        )


def _plain(column: str) -> str:
    """Return the name of a column without case and punctuation: `ETag` and `e_tag` are the same."""
    return re.sub(r"[^a-z0-9]", "", column.lower())


def _text(row: Mapping[str, Any], column: str) -> str:
    value = row.get(column)
    if not isinstance(value, str) or not value:
        raise BadEntry("it has no name of an object")
    return value


def _whole(value: object) -> int | None:
    try:
        number = int(str(value))
    except ValueError:
        return None
    return number if 0 <= number < 1 << 63 else None


def _version(value: object) -> str | None:
    text = "" if value is None else str(value).strip('"')
    return text or None


def _flag(value: object, *, default: bool = False) -> bool:
    if value is None or value == "":
        return default
    return value if isinstance(value, bool) else str(value).strip().lower() == "true"


def _time(value: object) -> float | None:
    if isinstance(value, datetime):
        return (value if value.tzinfo else value.replace(tzinfo=UTC)).timestamp()
    try:
        found = datetime.fromisoformat(_SUBSECONDS.sub(r"\1", str(value)))
    except ValueError:
        return None
    return (found if found.tzinfo else found.replace(tzinfo=UTC)).timestamp()
