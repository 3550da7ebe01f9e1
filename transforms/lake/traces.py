"""Search every byte of a lake for identifiers: the names of files, and their content, decoded.

Parquet files are decoded and searched as they are, too, for statistics in their footers; deflated DICOM
objects are inflated. Pixels are not read: what is burned into an image is not found.
"""

from __future__ import annotations

import contextlib
import itertools
import re
import zlib
from collections.abc import Callable, Collection, Iterator, Set
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import BinaryIO, Final, cast

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from transforms.lake.index_files import DamagedFile, open_index_file
from transforms.lake.layout import Layout
from transforms.lake.patient_ids import MAX_BYTES, OfPatient, of_nobody
from transforms.lake.source_names import SourceNames
from transforms.lake.tombstones import HASH_BYTES, Tombstones, keyed_hash
from transforms.storage.base import ObjectInfo, read_whole
from transforms.storage.schemes import is_below, join, storage_of

NO_NAMES: Final = SourceNames(())
THREADS: Final = 8
OVERLAP_BYTES: Final = MAX_BYTES + 64
"""Of a block, searched again with the next one: more than a Patient ID, or a UID, which has at most 64
characters (PS3.5 section 9.1)."""
BLOCK_BYTES: Final = 1 << 20
HEAD_BYTES: Final = 1024
BATCH_FILES: Final = 4096
MAX_INFLATED_BYTES: Final = 1 << 30
_UID: Final = re.compile(rb"(?<![0-9])[0-9]+(?:\.[0-9]+)+")  # no start within digits: linear time
_HEX: Final = re.compile(
    rb"(?<![0-9a-f])(?:[0-9a-f]{64}|[0-9a-f]{32}|[0-9a-f]{16}|[0-9a-f]{12})(?![0-9a-f])"
)
_MAX_TOKEN: Final = 66
_DEFLATED: Final = b"1.2.840.10008.1.2.1.99"
_META_START: Final = 132
"""Where the file meta information begins (PS3.10 section 7.1); its first element has its length."""

IsTrace = Callable[[Set[bytes]], bool]
"""Return whether one of some tokens is a trace."""


@dataclass(frozen=True)
class Searched:
    """What a search has read and found.

    Attributes:
        files: number of files whose name was searched.
        bytes: number of bytes that were searched, without those of decoded content.
        traces: URIs of files with a trace in their name or content.
    """

    files: int = 0
    bytes: int = 0
    traces: tuple[str, ...] = field(default=(), repr=False)


def search_lake(
    layout: Layout,
    is_trace: IsTrace,
    *,
    names: SourceNames = NO_NAMES,
    deep: bool = False,
    excluded: Collection[str] = (),
) -> Searched:
    """Search the files of a lake and its sinks, also those of other programs.

    Args:
        layout: the lake.
        is_trace: whether tokens, UIDs and hex digests, are traces.
        names: further traces, searched as they are in all files but objects.
        deep: whether to read stored objects too, and not only their names.
        excluded: URIs of files that are not searched.

    Raises:
        OSError: a folder or file cannot be read.
    """

    def search(found: ObjectInfo) -> tuple[int, str | None]:
        name = found.uri.encode("utf-8", "surrogateescape")
        if is_trace(tokens_in(name)) or names.are_in(name):
            return 0, found.uri
        is_object = _is_object(layout, found.uri)
        if is_object and not deep:
            return 0, None
        try:
            has_trace, size = _search_file(found, is_trace, NO_NAMES if is_object else names)
        except FileNotFoundError:  # replaced since the listing
            return 0, None
        return size, found.uri if has_trace else None

    files = size = 0
    traces: list[str] = []
    listed = _listed(layout, excluded)
    with ThreadPoolExecutor(THREADS) as pool:
        while batch := list(itertools.islice(listed, BATCH_FILES)):
            for read, trace in pool.map(search, batch):
                files += 1
                size += read
                traces += [] if trace is None else [trace]
    return Searched(files, size, tuple(traces))


def has_trace(file: BinaryIO, is_trace: IsTrace, of_patient: OfPatient = of_nobody) -> bool:
    """Return whether the bytes of a DICOM object, a file from its start on, have a trace or a patient."""
    scanner = _Scanner(is_trace, NO_NAMES, of_patient)
    while block := file.read(BLOCK_BYTES):
        scanner.write(block)

    def read() -> bytes:
        file.seek(0)
        return file.read()

    return scanner.finish(read)


def object_has_trace(uri: str, is_trace: IsTrace, of_patient: OfPatient = of_nobody) -> bool:
    """Return whether the bytes of an object have a trace, or the Patient ID of a patient.

    Raises:
        OSError: it cannot be read.
    """
    scanner = _Scanner(is_trace, NO_NAMES, of_patient)
    storage = storage_of(uri)
    storage.copy_to(uri, None, cast(BinaryIO, scanner))
    return scanner.finish(lambda: read_whole(storage, uri))


def is_in(identifiers: Collection[str]) -> IsTrace:
    """Return what finds identifiers that are known."""
    wanted = frozenset(one.encode("utf-8", "surrogateescape") for one in identifiers)
    return lambda tokens: not wanted.isdisjoint(tokens)


def is_hashed_in(tombstones: Tombstones) -> IsTrace:
    """Return what finds identifiers of which only keyed hashes are known."""
    key, wanted = tombstones.key, tombstones.traces
    assert key is not None

    def is_trace(tokens: Set[bytes]) -> bool:
        return any(
            keyed_hash(key, token.decode("utf-8", "surrogateescape"))[:HASH_BYTES] in wanted
            for token in tokens
        )

    return is_trace


def tokens_in(data: bytes) -> set[bytes]:
    """Return the UIDs and hex digests in bytes.

    A byte before or after a UID may look like one of its digits: of its length, or of the next tag. The
    length that precedes a UID shows this (PS3.5 section 7.1).
    """
    tokens: set[bytes] = set()
    for found in _UID.finditer(data):
        token, start = found[0], found.start()
        if len(token) <= _MAX_TOKEN:
            tokens.add(token)
            inner = token[1:]
            if inner[:1] != b"." and token[0] in (len(inner), len(inner) + len(inner) % 2):
                tokens.add(inner)
            shorter = len(token) - 1
            if shorter in (
                int.from_bytes(data[max(0, start - 2) : start], "little"),
                int.from_bytes(data[max(0, start - 2) : start], "big"),
                int.from_bytes(data[max(0, start - 4) : start], "little"),
            ):
                tokens.add(token[:-1])
    tokens.update(_HEX.findall(data))
    return tokens


class _Scanner:
    """A writable file that searches what is written, block by block.

    Attributes:
        size: bytes written.
        head: the first bytes.
        has_trace: whether there is a trace in them.
    """

    def __init__(
        self, is_trace: IsTrace, names: SourceNames, of_patient: OfPatient = of_nobody
    ) -> None:
        self._is_trace, self._names, self._of_patient = is_trace, names, of_patient
        self._overlap = max(OVERLAP_BYTES, names.max_bytes)
        self._tail = b""
        self.size, self.head, self.has_trace = 0, b"", False

    def write(self, data: bytes) -> int:
        """Search a block, together with the end of the last one."""
        if not self.size:
            self.head = bytes(data[:HEAD_BYTES])
        self.size += len(data)
        if not self.has_trace:
            block = self._tail + bytes(data)
            self.has_trace = (
                self._is_trace(tokens_in(block))
                or self._names.are_in(block, is_last=False)
                or self._of_patient(block)
            )
            self._tail = block[-self._overlap :]
        return len(data)

    def flush(self) -> None:
        """Do nothing; part of the file interface."""

    def finish(self, read: Callable[[], bytes]) -> bool:
        """Return whether there is a trace, in a deflated DICOM object also in what was deflated.

        Args:
            read: returns the whole file again.
        """
        self._search_end()
        if not self.has_trace and _DEFLATED in self.head:
            self._tail = b""
            for block in _inflated(read()):
                self.write(block)
            self._search_end()
        return self.has_trace

    def _search_end(self) -> None:
        """Search the last bytes for names, which `write` leaves to the next block."""
        self.has_trace = self.has_trace or self._names.are_in(self._tail)


def _search_file(found: ObjectInfo, is_trace: IsTrace, names: SourceNames) -> tuple[bool, int]:
    """Return whether a file has a trace, and its size."""
    scanner = _Scanner(is_trace, names)
    storage = storage_of(found.uri)
    storage.copy_to(found.uri, None, cast(BinaryIO, scanner))
    size = scanner.size
    has_trace = scanner.finish(lambda: read_whole(storage, found.uri))
    if not has_trace and found.uri.endswith(".parquet"):
        with contextlib.suppress(DamagedFile), open_index_file(found.uri) as file:
            return _search_parquet(file, is_trace, names), size
    return has_trace, size


def _search_parquet(file: pq.ParquetFile, is_trace: IsTrace, names: SourceNames) -> bool:
    """Return whether the values of a Parquet file have a trace."""
    for group in range(file.num_row_groups):
        for column in file.read_row_group(group).columns:
            for values in _texts(column.combine_chunks()):
                found = [
                    one if isinstance(one, bytes) else one.encode("utf-8", "surrogateescape")
                    for one in pc.unique(values).drop_null().to_pylist()
                ]
                data = b"\n".join(found)
                if is_trace(tokens_in(data)) or names.are_in(data):
                    return True
    return False


def _texts(values: pa.Array | pa.ChunkedArray) -> Iterator[pa.Array]:
    """Yield the arrays of texts and bytes that an array has, also in lists, maps and structs."""
    if isinstance(values, pa.ChunkedArray):
        for chunk in values.chunks:
            yield from _texts(chunk)
    elif pa.types.is_dictionary(values.type):
        yield from _texts(values.dictionary)
    elif pa.types.is_map(values.type):
        yield from _texts(values.keys)
        yield from _texts(values.items)
    elif pa.types.is_struct(values.type):
        for inner in values.flatten():
            yield from _texts(inner)
    elif pa.types.is_nested(values.type):
        yield from _texts(values.flatten())
    elif _is_text(values.type):
        yield values


def _is_text(kind: pa.DataType) -> bool:
    return kind in (pa.string(), pa.large_string(), pa.binary(), pa.large_binary())


def _inflated(data: bytes) -> Iterator[bytes]:
    """Yield the data set of a deflated DICOM object (PS3.5 annex A.5), as far as it can be inflated."""
    length = int.from_bytes(data[_META_START + 8 : _META_START + 12], "little")
    rest, size = data[_META_START + 12 + length :], 0
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    with contextlib.suppress(zlib.error):
        while rest and not inflater.eof and size < MAX_INFLATED_BYTES:
            block = inflater.decompress(rest, BLOCK_BYTES)
            rest, size = inflater.unconsumed_tail, size + len(block)
            yield block


def _is_object(layout: Layout, uri: str) -> bool:
    return any(is_below(uri, join(root, "objects")) for root in layout.object_roots)


def _listed(layout: Layout, excluded: Collection[str]) -> Iterator[ObjectInfo]:
    for root in dict.fromkeys((*layout.object_roots, *layout.derived_roots)):
        for found in storage_of(root).list_below(root):
            if found.uri not in excluded:
                yield found
