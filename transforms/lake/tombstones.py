"""Tombstones: keyed hashes by which a lake recognizes what was erased, so that no run restores it.

`forgotten/tombstones/` has one file an erasure, `forgotten/sources/` one name for each source version
that a run has found to be erased, and `forgotten/key` the key of the hashes. Who can read the lake and
its key can test whether a value that they know was erased; from the hashes, no value can be derived.
"""

from __future__ import annotations

import functools
import hmac
import json
import secrets
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final, Protocol

import pyarrow as pa

from transforms.core.object_ref import ObjectRef
from transforms.lake.files import exists, list_files, put_if_absent, read_bytes
from transforms.lake.index_files import open_index_file, parquet_bytes
from transforms.lake.layout import Layout
from transforms.lake.schema import IndexRow
from transforms.storage.permissions import PRIVATE_MODE
from transforms.storage.schemes import is_below, join

KEY_BYTES: Final = 32
HASH_BYTES: Final = 16
"""Bytes of a hash that are kept in memory."""
TOMBSTONES: Final = "tombstones"
SOURCES: Final = "sources"
_KEY: Final = "key"
_SEPARATOR: Final = "~"


class Kind(StrEnum):
    """What a tombstone is the hash of.

    Attributes:
        CONTENT: sha256 of the bytes of an object, hex.
        INSTANCE: SOP Instance UID.
        STUDY: Study Instance UID.
        PATIENT: `patient_key` of the index.
        SOURCE: URI, version and state of a source object.
        NAME: first `HASH_IN_NAME` hex digits of a sha256, as in the name of an object.
    """

    CONTENT = "content_sha256"
    INSTANCE = "sop_instance_uid"
    STUDY = "study_instance_uid"
    PATIENT = "patient_key"
    SOURCE = "source"
    NAME = "name"


TRACES: Final = (Kind.CONTENT, Kind.INSTANCE, Kind.STUDY, Kind.PATIENT, Kind.NAME)
"""Kinds of values that must not be anywhere in a lake."""
SCHEMA: Final = pa.schema(
    [
        pa.field("kind", pa.string(), metadata={"description": f"One of {', '.join(Kind)}"}),
        pa.field(
            "hash",
            pa.string(),
            metadata={"description": "HMAC-SHA-256 of the value with forgotten/key, hex"},
        ),
    ]
)


class LostKey(RuntimeError):
    """A lake has tombstones and no key to compare them with."""


class HasIdentity(Protocol):
    """A row of the index, or an answer, as far as it identifies an object."""

    @property
    def content_sha256(self) -> str | None: ...
    @property
    def sop_instance_uid(self) -> str | None: ...
    @property
    def study_instance_uid(self) -> str | None: ...
    @property
    def patient_key(self) -> str | None: ...


@dataclass(frozen=True)
class Tombstones:
    """The tombstones of a lake.

    Attributes:
        key: of the hashes; None if the lake has no tombstones.
        hashes: first `HASH_BYTES` of each hash, by kind.
        files: URIs of the files that were read.
    """

    key: bytes | None = field(default=None, repr=False)
    hashes: Mapping[str, frozenset[bytes]] = field(default_factory=dict)
    files: frozenset[str] = field(default=frozenset(), repr=False)

    def __bool__(self) -> bool:
        return self.key is not None

    def has(self, kind: Kind, value: str | None) -> bool:
        """Return whether a value was erased."""
        if self.key is None or not value or not (hashes := self.hashes.get(kind)):
            return False
        return keyed_hash(self.key, value)[:HASH_BYTES] in hashes

    def has_source(self, ref: ObjectRef) -> bool:
        """Return whether the content of a source version was erased, as far as is known without it."""
        return self.has(Kind.SOURCE, source_value(ref.uri, ref.version, ref.state))

    def match(self, row: HasIdentity) -> bool:
        """Return whether the object of a row or an answer is one that must not be in the lake."""
        return self.key is not None and (
            self.has(Kind.CONTENT, row.content_sha256)
            or self.has(Kind.INSTANCE, row.sop_instance_uid)
            or self.has(Kind.STUDY, row.study_instance_uid)
            or self.has(Kind.PATIENT, row.patient_key)
        )

    @functools.cached_property
    def traces(self) -> frozenset[bytes]:
        """The hashes of all values that must not be anywhere in the lake."""
        return frozenset().union(*(self.hashes.get(kind, frozenset()) for kind in TRACES))


NONE: Final = Tombstones()


def keyed_hash(key: bytes, value: str) -> bytes:
    """Return the HMAC-SHA-256 of a value."""
    return hmac.digest(key, value.encode("utf-8", "surrogateescape"), "sha256")


def source_value(uri: str, version: str, state: str | None) -> str:
    """Return what the tombstone of a source version is the hash of.

    The version is that of a listing: `lake.source_versions` appends the state to some versions.
    """
    listed = version if state is None else "-".join(version.split("-")[:2])
    return f"{uri}\0{listed}\0{state or ''}"


def read_tombstones(layout: Layout, known: Tombstones = NONE) -> Tombstones:
    """Return the tombstones of a lake.

    Args:
        layout: the lake.
        known: result of an earlier call for this lake; its files are not read again, since files of
            tombstones never change and are never removed.

    Raises:
        LostKey: the key is missing.
        DamagedFile: a file cannot be read.
        OSError: the lake cannot be read.
    """
    found = frozenset(file.uri for file in list_files(layout.forgotten))
    if found == known.files:
        return known
    added: dict[str, set[bytes]] = defaultdict(set)
    for uri in found - known.files:
        name = uri.rpartition("/")[2]
        if is_below(uri, join(layout.forgotten, SOURCES)):
            added[Kind.SOURCE].add(bytes.fromhex(name.partition(_SEPARATOR)[0])[:HASH_BYTES])
        elif is_below(uri, join(layout.forgotten, TOMBSTONES)):
            with open_index_file(uri) as file:
                table = file.read(SCHEMA.names)
            for kind, value in zip(*(column.to_pylist() for column in table.columns), strict=True):
                added[kind].add(bytes.fromhex(value)[:HASH_BYTES])
    merged = {kind: known.hashes.get(kind, frozenset()) | new for kind, new in added.items()}
    hashes = {**known.hashes, **merged}
    key_uri = _key_uri(layout)
    if key_uri not in found:
        if not hashes:
            return NONE
        raise LostKey(
            f"{key_uri} is missing; restore it from a backup: without it, erased objects return"
        )
    return Tombstones(known.key or read_bytes(key_uri), hashes, found)


def tombstones_of_run(layout: Layout, run_id: str) -> Tombstones:
    """Return the tombstones of a lake as they were when this process first worked for a run.

    Nothing is erased from a lake while a run writes to it.
    """
    return _of_run(layout.root, run_id)


@functools.lru_cache(maxsize=8)
def _of_run(root: str, run_id: str) -> Tombstones:
    del run_id
    return read_tombstones(Layout(root))


def tombstone_key(layout: Layout) -> bytes:
    """Return the key of the hashes, which is made if the lake has none.

    Only its owner can read the file, whatever the permissions of the lake's other files.

    Raises:
        ProcessingFailure: the lake's storage refused the write.
    """
    uri = _key_uri(layout)
    if not exists(uri):
        key = secrets.token_bytes(KEY_BYTES)
        put_if_absent(uri, key, scratch=layout.scratch(), file_mode=PRIVATE_MODE)
    return read_bytes(uri)


def write_tombstones(layout: Layout, erasure_id: str, hashes: Iterable[tuple[str, str]]) -> str:
    """Write the tombstones of an erasure, kinds and hex hashes, and return their URI. Idempotent.

    Raises:
        ProcessingFailure: the lake's storage refused the write.
    """
    rows = sorted(set(hashes))
    columns = [[kind for kind, _ in rows], [value for _, value in rows]]
    table = pa.Table.from_arrays([pa.array(one, pa.string()) for one in columns], schema=SCHEMA)
    uri = join(layout.forgotten, TOMBSTONES, f"{erasure_id}.parquet")
    put_if_absent(uri, parquet_bytes(table), scratch=layout.scratch(), file_mode=layout.file_mode)
    return uri


def forget_source(layout: Layout, tombstones: Tombstones, row: IndexRow) -> None:
    """Record that the content of a source version was erased, so that no run reads it again. Idempotent.

    Raises:
        ProcessingFailure: the lake's storage refused the write.
    """
    assert tombstones.key is not None
    value = source_value(row.source_uri, row.source_version, row.source_state)
    name = f"{keyed_hash(tombstones.key, value).hex()}{_SEPARATOR}{row.run_id}.json"
    put_if_absent(
        join(layout.forgotten, SOURCES, name),
        (json.dumps({"run_id": row.run_id}) + "\n").encode(),
        scratch=layout.scratch(),
        file_mode=layout.file_mode,
    )


def forgotten_by_run(layout: Layout, run_id: str) -> int:
    """Return how many source versions a run has found to be erased when it read them."""
    suffix = f"{_SEPARATOR}{run_id}.json"
    return len(list_files(join(layout.forgotten, SOURCES), suffix))


def _key_uri(layout: Layout) -> str:
    return join(layout.forgotten, _KEY)
