"""Limits on what one object may cost."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """Limits on one object; past each, it is quarantined with a reason of its own.

    Attributes:
        max_object_bytes: size of the object, and of its data set once inflated.
        max_pixels: Rows x Columns of one frame; one frame of an object is decoded. The largest real
            films, stitched from several detectors, have some 40 million.
        max_frames: Number of Frames.
        max_object_seconds: most processor time that parsing and decoding may take; four times as
            much may pass on the clock.
        max_memory_bytes: most memory that parsing and decoding may take.
        max_nesting: depth of sequences within sequences.
        max_items: sequence items and fragments, counted while the parser builds them.
        max_inflation: growth of a deflated data set.
        min_inflated_bytes: up to this size a deflated data set may grow by any factor.
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
