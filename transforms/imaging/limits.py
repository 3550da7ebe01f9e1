"""Resource limits of one object: size, decompression ratio, pixels, time and memory."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from transforms.core.option import Group, fingerprinted, option

MIB = 1 << 20


def _limit(default: float, help: str, *, unit: str | None = None) -> Any:
    """Declare a limit as an option that affects decisions."""
    return option(
        default,
        help=f"quarantine objects {help}",
        group=Group.LIMITS,
        unit=unit,
        above=0,
        public=True,
        in_fingerprint=True,
    )


@dataclass(frozen=True)
class Limits:
    """Resource limits of one object; exceeding one quarantines it with a reason of its own.

    `max_inflation` and `max_object_bytes` stop decompression bombs; `max_pixels`, and the agreement of
    header and codestream, bound what a decoder allocates.

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

    max_object_bytes: int = _limit(512 * MIB, "that are larger, also inflated", unit="bytes")
    max_pixels: int = _limit(120_000_000, "with more Rows x Columns", unit="pixels")
    max_frames: int = _limit(100_000, "with more frames")
    max_items: int = _limit(200_000, "with more sequence items and fragments")
    max_nesting: int = _limit(64, "with deeper nested sequences")
    max_inflation: int = _limit(64, "with a higher decompression ratio (small objects exempt)")
    max_object_seconds: float = _limit(
        60.0,
        "that take more CPU time to parse and decode, or four times as much wall-clock time",
        unit="seconds",
    )
    max_memory_bytes: int = _limit(
        2048 * MIB, "that take more memory to parse and decode", unit="bytes"
    )
    min_inflated_bytes: int = fingerprinted(64 * MIB)
