"""The columns of index rows that filtering and duplicate resolution need, and reading them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Final

import pyarrow as pa
import pyarrow.compute as pc

from transforms.lake.index_files import read_matching
from transforms.lake.schema import VersionKey, identity_of

SHA256_DIGITS: Final = 64
"""Hex digits of a sha256."""


@dataclass(frozen=True, kw_only=True)
class ExistingRow:
    """The columns of an existing row that duplicate resolution needs, as in `IndexRow`."""

    source_uri: str
    source_version: str
    model_id: str | None
    status: str
    destination: str
    object_uri: str
    sop_instance_uid: str | None
    content_sha256: str
    source_state: str | None = None

    @property
    def identity(self) -> str:
        """As `IndexRow.identity`."""
        return identity_of(self.status, self.sop_instance_uid, self.content_sha256)

    @property
    def version_key(self) -> VersionKey:
        """As `IndexRow.version_key`."""
        return self.source_uri, self.source_version


EXISTING_COLUMNS: Final = [f.name for f in fields(ExistingRow)]


@dataclass(frozen=True)
class ExistingVersion:
    """The columns of an existing row that filtering needs: a source version, and what decided it.

    Attributes:
        source_uri: as in the row.
        source_version: as in the row.
        model_id: as in the row; None if no model decided it.
        policy_id: as in the row; None if its object is unreadable, and in rows of format 1.
        status: as in the row.
        content_sha256: as in the row.
        source_state: as in the row.
        decided_by: as in the row.
    """

    source_uri: str
    source_version: str
    model_id: str | None
    policy_id: str | None
    status: str
    content_sha256: str | None = None
    source_state: str | None = None
    decided_by: str | None = None

    @property
    def version_key(self) -> VersionKey:
        """As `IndexRow.version_key`."""
        return self.source_uri, self.source_version


VERSION_COLUMNS: Final = tuple(f.name for f in fields(ExistingVersion))


def read_existing_versions(
    uri: str, object_keys: pa.StringArray | None
) -> Iterator[ExistingVersion]:
    """Yield the source versions in an index file.

    Args:
        uri: the file.
        object_keys: object keys of the sources to read; None reads all.

    Raises:
        DamagedFile: the file cannot be read.
    """
    for rows in read_matching(uri, VERSION_COLUMNS, {"object_key": object_keys}):
        yield from (ExistingVersion(**row) for row in rows.to_pylist())


def read_existing_rows(uri: str, identities: pa.StringArray | None) -> Iterator[ExistingRow]:
    """Yield the rows of an index file that may have one of some identities.

    Args:
        uri: the file.
        identities: SOP Instance UIDs and sha256 digests; None reads all rows.

    Raises:
        DamagedFile: the file cannot be read.
    """
    wanted = {} if identities is None else identity_columns(identities)
    for rows in read_matching(uri, EXISTING_COLUMNS, wanted):
        yield from (ExistingRow(**row) for row in rows.to_pylist())


def identity_columns(identities: pa.StringArray) -> dict[str, pa.StringArray]:
    """Return the values by column that rows with one of some identities may have.

    Args:
        identities: SOP Instance UIDs and sha256 digests. Mostly there are only UIDs, and the column of
            digests, which is the largest of the index, need not be read.
    """
    may_be_digest = pc.equal(pc.binary_length(identities), SHA256_DIGITS)
    return {"sop_instance_uid": identities, "content_sha256": identities.filter(may_be_digest)}
