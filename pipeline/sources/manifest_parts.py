"""Split manifests into parts, and read the entries of a part, without holding a file in memory."""

from __future__ import annotations

import sys
import zlib
from collections.abc import Iterator, Mapping, Sequence
from io import BytesIO
from itertools import islice
from typing import Any, BinaryIO, Final

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.sources.inventory import (
    MAX_MANIFEST_BYTES,
    URI_COLUMNS,
    BadEntry,
    Entry,
    entry_of,
    kind_of,
    needed_columns,
    parse_inventory,
)
from pipeline.sources.manifest_lines import (
    GZIP_MAGIC,
    SNIFFED_BYTES,
    UTF_8,
    BadLine,
    decompressed,
    encoding_of,
    lines_of,
    records_of,
)
from transforms.core.errors import UsageError
from transforms.core.manifest_part import AZURE_INVENTORY, CSV, PARQUET, TEXT, ManifestPart
from transforms.storage.base import ObjectInfo
from transforms.storage.schemes import storage_of
from transforms.storage.seekable import open_seekable

PART_BYTES: Final = 16 << 20
"""Minimum size of a part of a text or CSV file."""
PARQUET_BATCH: Final = 8192
"""Number of rows that are read together."""
STANDARD_INPUT_LINES: Final = 4096
"""Number of lines of standard input in a part."""
_PARQUET_MAGIC: Final = b"PAR1"
_ORC_MAGIC: Final = b"ORC"
UNREADABLE: Final = (OSError, EOFError, zlib.error, pa.ArrowException)
"""What reading a damaged manifest raises, and one that its storage refuses."""


class UnreadableManifest(OSError):
    """The rest of a part cannot be read."""


def parts_of(uri: str, number: int, root: str | None) -> Iterator[ManifestPart]:
    """Yield the parts of a manifest; a file of an inventory that cannot be opened is one, too.

    Args:
        uri: the manifest: a text, CSV or Parquet file, or the manifest.json of an inventory.
        number: number of the input, from 1.
        root: as for `inventory.entry_of`.

    Raises:
        UsageError: the manifest cannot be read or has no column with names.
    """
    try:
        yield from _parts_of(uri, number, root)
    except UNREADABLE as error:
        raise _unreadable(uri, error) from error


def _parts_of(uri: str, number: int, root: str | None) -> Iterator[ManifestPart]:
    found = storage_of(uri).stat(uri)
    if found is None:
        raise UsageError(f"manifest {uri} cannot be read (no such file, or not a regular one)")
    if not uri.lower().endswith(".json"):
        yield from _parts_of_file(found, number, root, (), ",")
        return
    if found.size > MAX_MANIFEST_BYTES:
        raise UsageError(f"manifest {uri} is larger than {MAX_MANIFEST_BYTES} bytes")
    with open_seekable(found) as file:
        inventory = parse_inventory(uri, file.read())
    for position, candidates in enumerate(inventory.files):
        try:
            stats = (storage_of(one).stat(one) for one in candidates)
            part = next(filter(None, stats), None)
            if part is None:
                problem = "a file of the inventory does not exist"
                yield ManifestPart(number, candidates[0], "", 0, TEXT, problem=problem)
                continue
            yield from _parts_of_file(part, number, root, inventory.columns, inventory.delimiter)
        except (UsageError, *UNREADABLE):
            if position == 0:  # probably the wrong kind of file
                raise
            problem = "a file of the inventory cannot be read"
            yield ManifestPart(number, candidates[0], "", 0, TEXT, problem=problem)


def standard_input_parts(number: int) -> Iterator[ManifestPart]:
    """Yield the lines of standard input, compressed."""
    stream: Any = getattr(sys.stdin, "buffer", sys.stdin)
    read = (line if isinstance(line, bytes) else line.encode() for line in stream)
    line = 1
    while lines := list(islice(read, STANDARD_INPUT_LINES)):
        data = zlib.compress(b"".join(lines), 1)
        yield ManifestPart(number, "", "", 0, TEXT, line=line, data=data)
        line += len(lines)


def entries_of(
    part: ManifestPart, root: str | None
) -> Iterator[tuple[int, Entry | BadEntry | BadLine]]:
    """Yield the entries of a part, each with its line or row; a bad one hides no other.

    Raises:
        UnreadableManifest: the rest of the part cannot be read.
    """
    if part.problem:
        raise UnreadableManifest(None, part.problem)
    line = part.line
    try:
        rows = _rows(part)
        for line, row in rows:
            if isinstance(row, BadLine):
                yield line, row
                continue
            try:
                yield line, entry_of(row, part, root)
            except BadEntry as error:
                yield line, error
    except (*UNREADABLE, ValueError) as error:
        raise UnreadableManifest(getattr(error, "errno", None), f"after line {line}") from error


def _rows(part: ManifestPart) -> Iterator[tuple[int, Mapping[str, Any] | BadLine]]:
    if part.data:
        yield from _text_rows(lines_of(BytesIO(zlib.decompress(part.data))), part.line)
        return
    with open_seekable(ObjectInfo(part.uri, part.version, part.size)) as file:
        if part.format == PARQUET:
            yield from _parquet_rows(file, part)
            return
        stream = decompressed(file)
        stream.seek(part.start)
        limit = None if part.end < 0 else part.end - part.start
        lines = lines_of(stream, part.encoding, limit)
        if part.format == TEXT:
            yield from _text_rows(lines, part.line)
            return
        needed = needed_columns(part.columns, part.kind)
        places = {plain: part.columns.index(name) for plain, name in needed.items()}
        first = part.line if part.start else 1  # a header line that is still to be read
        for number, record in records_of(lines, part.delimiter, first):
            if number < part.line:
                continue
            if isinstance(record, BadLine):
                yield number, record
            elif len(record) <= max(places.values()):
                yield number, BadLine("it has too few fields")
            else:
                yield number, {plain: _decoded(record[at]) for plain, at in places.items()}


def _text_rows(
    lines: Iterator[bytes | None], first: int
) -> Iterator[tuple[int, Mapping[str, Any] | BadLine]]:
    for number, line in enumerate(lines, first):
        if line is None:
            yield number, BadLine("it is too long")
        elif text := line.rstrip(b"\r\n"):
            yield number, {"uri": _decoded(text)}


def _parquet_rows(file: BinaryIO, part: ManifestPart) -> Iterator[tuple[int, Mapping[str, Any]]]:
    parquet = pq.ParquetFile(file, page_checksum_verification=True)
    needed = needed_columns(parquet.schema_arrow.names, part.kind)
    number = part.line
    for batch in parquet.iter_batches(
        PARQUET_BATCH, row_groups=[part.start], columns=list(needed.values())
    ):
        columns = {plain: batch[name].to_pylist() for plain, name in needed.items()}
        for values in zip(*columns.values(), strict=True):
            yield number, dict(zip(columns, values, strict=True))
            number += 1


def _parts_of_file(
    found: ObjectInfo, number: int, root: str | None, columns: Sequence[str], delimiter: str
) -> Iterator[ManifestPart]:
    """Yield the parts of one file.

    Args:
        found: the file.
        number: number of the input.
        root: as for `parts_of`.
        columns: names of the columns if a CSV file has no header line.
        delimiter: of a CSV file.
    """
    name = found.uri.lower().removesuffix(".gz")
    with open_seekable(found) as file:
        head = file.read(SNIFFED_BYTES)
        file.seek(0)
        if head.startswith(_ORC_MAGIC) or name.endswith(".orc"):
            raise UsageError(
                f"manifest {found.uri}: ORC cannot be read; configure the inventory as Parquet or CSV"
            )
        if head.startswith(_PARQUET_MAGIC) or name.endswith(".parquet"):
            yield from _parquet_parts(found, file, number, root)
            return
        is_gzip = head.startswith(GZIP_MAGIC)
        text = decompressed(file)
        encoding = encoding_of(text.read(SNIFFED_BYTES))
        whole = ManifestPart(number, found.uri, found.version, found.size, TEXT, encoding=encoding)
        if columns or name.endswith((".csv", ".tsv")):
            whole = _csv_part(whole, text, columns, delimiter)
            _require_root(whole, root)
        if is_gzip or encoding != UTF_8:
            yield whole
        else:
            file.seek(whole.start)
            yield from _split(whole, file)


def _csv_part(
    whole: ManifestPart, text: BinaryIO, columns: Sequence[str], delimiter: str
) -> ManifestPart:
    """Return a CSV file as one part, without its header line, if it has one."""
    start, line = 0, 1
    if not columns:
        for separator in (delimiter, ";", "\t"):
            text.seek(0)
            lines = lines_of(text, whole.encoding)
            line, record = next(records_of(lines, separator, 1), (1, BadLine()))
            columns = [] if isinstance(record, BadLine) else [_decoded(c).strip() for c in record]
            if kind_of(columns):
                delimiter = separator
                break
        if whole.encoding == UTF_8:
            start = text.tell()
        line += 1
    kind = _require_kind(whole.uri, columns)
    return ManifestPart(
        whole.number, whole.uri, whole.version, whole.size, CSV, kind, tuple(columns), delimiter,
        whole.encoding, start, -1, line,
    )  # fmt: skip


def _parquet_parts(
    found: ObjectInfo, file: BinaryIO, number: int, root: str | None
) -> Iterator[ManifestPart]:
    metadata = pq.read_metadata(file)
    columns = metadata.schema.to_arrow_schema().names
    kind = _require_kind(found.uri, columns)
    row = 1
    for group in range(metadata.num_row_groups):
        part = ManifestPart(
            number, found.uri, found.version, found.size, PARQUET, kind, start=group, line=row
        )
        _require_root(part, root)
        yield part
        row += metadata.row_group(group).num_rows


def _split(whole: ManifestPart, file: BinaryIO) -> Iterator[ManifestPart]:
    """Yield parts of a file that end at line ends, outside quotes if it is a CSV file."""
    start, line = whole.start, whole.line
    position, lines, quotes = whole.start, 0, 0
    while block := file.read(PART_BYTES):
        if len(block) == PART_BYTES:
            block += file.readline(PART_BYTES)
        position += len(block)
        lines += block.count(b"\n")
        quotes += block.count(b'"') if whole.format == CSV else 0
        if block.endswith(b"\n") and quotes % 2 == 0:
            yield _with_range(whole, start, position, line)
            start, line, lines = position, line + lines, 0
    if start < position:
        yield _with_range(whole, start, position, line)


def _with_range(whole: ManifestPart, start: int, end: int, line: int) -> ManifestPart:
    return ManifestPart(
        whole.number, whole.uri, whole.version, whole.size, whole.format, whole.kind, whole.columns,
        whole.delimiter, whole.encoding, start, end, line,
    )  # fmt: skip


def _require_kind(uri: str, columns: Sequence[str]) -> str:
    kind = kind_of(columns)
    if kind is None:
        raise UsageError(
            f"manifest {uri} has no column named {', '.join(URI_COLUMNS)}, and not those of an "
            "inventory; give an inventory without a header line by its manifest.json"
        )
    return kind


def _require_root(part: ManifestPart, root: str | None) -> None:
    if part.kind == AZURE_INVENTORY and root is None:
        raise UsageError(
            f"manifest {part.uri} is an inventory of Azure, which the router does not read directly; "
            "mount the storage (blobfuse2) and give --inventory_root"
        )


def _decoded(data: bytes) -> str:
    return data.decode("utf-8", "surrogateescape")


def _unreadable(uri: str, error: BaseException) -> UsageError:
    why = getattr(error, "strerror", None) or type(error).__name__
    return UsageError(f"manifest {uri} cannot be read ({why})")
