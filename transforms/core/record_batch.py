"""Batches of records, which cross a shuffle as one element."""

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
    the memory of single ones. A batch stays encoded until a step needs its records.

    Attributes:
        kind: distinguishes batches that are grouped together.
        part: part of its group that its records belong to.
        data: the records, as zlib (RFC 1950) of `RecordCodec.encode_batch`.
    """

    kind: str
    part: int
    data: bytes

    @classmethod
    def of(
        cls, codec: RecordCodec[R], records: Sequence[R], *, kind: str, part: int = 0
    ) -> RecordBatch:
        """Return the batch of some records."""
        return cls(kind, part, zlib.compress(codec.encode_batch(records), level=1))

    def records(self, codec: RecordCodec[R]) -> list[R]:
        """Return the records; `codec` is that of their type."""
        return codec.decode_batch(zlib.decompress(self.data))
