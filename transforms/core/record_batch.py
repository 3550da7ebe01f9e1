"""Batches of records that cross a shuffle as one element."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

from transforms.core.record_codec import RecordCodec

R = TypeVar("R")


@dataclass(frozen=True)
class RecordBatch:
    """Records of one type, encoded and compressed together.

    Runners may hold all elements of a shuffle in memory, and index rows in batches of 16 take a fifth of
    the memory of single rows. A batch remains encoded until a step needs its records.

    Attributes:
        kind: distinguishes the kinds of batches in a group.
        part: part of the group to which the records belong.
        data: output of `RecordCodec.encode_batch`, compressed with zlib (RFC 1950).
    """

    kind: str
    part: int
    data: bytes

    @classmethod
    def of(
        cls, codec: RecordCodec[R], records: Sequence[R], *, kind: str, part: int = 0
    ) -> RecordBatch:
        """Return a batch of records."""
        return cls(kind, part, zlib.compress(codec.encode_batch(records), level=1))

    def records(self, codec: RecordCodec[R]) -> list[R]:
        """Return the records, with the codec of their type."""
        return codec.decode_batch(zlib.decompress(self.data))
