"""Limits on the cost of one object."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from transforms.core.option import Group, fingerprinted, option

MIB = 1 << 20


def _limit(default: float, help: str, *, unit: str | None = None) -> Any:
    """Return the field of a limit: it decides whether an object is quarantined."""
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
    """Limits on one object; an object past one of them is quarantined with a reason of its own.

    Attributes:
        max_object_bytes: size of the object, and of its inflated data set.
        max_pixels: Rows x Columns of one frame; one frame of an object is decoded. The largest real
            images, stitched from several detectors, have about 40 million.
        max_frames: Number of Frames.
        max_object_seconds: processor time of parsing and decoding; four times as much may pass on
            the clock.
        max_memory_bytes: memory of parsing and decoding.
        max_nesting: depth of sequences within sequences.
        max_items: sequence items and fragments, counted while the parser builds them.
        max_inflation: ratio of the sizes of a data set inflated and deflated.
        min_inflated_bytes: size up to which a deflated data set may have any ratio.
    """

    max_object_bytes: int = _limit(512 * MIB, "that are larger, also inflated", unit="bytes")
    max_pixels: int = _limit(120_000_000, "with more Rows x Columns", unit="pixels")
    max_frames: int = _limit(100_000, "with more frames")
    max_items: int = _limit(200_000, "with more sequence items and fragments")
    max_nesting: int = _limit(64, "with deeper nested sequences")
    max_inflation: int = _limit(64, "with a higher decompression ratio (small objects exempt)")
    max_object_seconds: float = _limit(
        60.0,
        "that take more processor time to parse and decode, or four times as much wall-clock time",
        unit="seconds",
    )
    max_memory_bytes: int = _limit(
        2048 * MIB, "that take more memory to parse and decode", unit="bytes"
    )
    min_inflated_bytes: int = fingerprinted(64 * MIB)
