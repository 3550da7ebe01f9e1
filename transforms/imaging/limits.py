"""Resource limits of one object: size, decompression ratio, pixels, time and memory."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """Limits of one object; exceeding one quarantines the object with a reason of its own.

    `max_inflation` is the limit on decompression bombs; `max_pixels` and the agreement of header and
    codestream bound what a decoder allocates.

    Attributes:
        max_object_bytes: Maximum size of the object, and of its inflated data set.
        max_pixels: Maximum Rows x Columns. The largest real radiographs, stitched from several
            detectors, have about 40 million pixels.
        max_frames: Maximum Number of Frames.
        max_object_seconds: Maximum CPU time of parsing and decoding; the wall-clock limit is four times
            as long.
        max_memory_bytes: Maximum memory of parsing and decoding.
        max_nesting: Maximum nesting depth of sequences.
        max_items: Maximum number of sequence items and fragments, counted during parsing.
        max_inflation: Maximum decompression ratio of a deflated data set.
        min_inflated_bytes: Inflated size up to which any decompression ratio is accepted.
    """

    max_object_bytes: int = 512 << 20
    max_pixels: int = 120_000_000
    max_frames: int = 100_000
    max_object_seconds: float = 60.0
    max_memory_bytes: int = 2 << 30
    max_nesting: int = 64
    max_items: int = 200_000
    max_inflation: int = 64
    min_inflated_bytes: int = 64 << 20
