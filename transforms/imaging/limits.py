"""Limits on what one object may cost."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """Limits on one object; past each, it is quarantined with a reason of its own.

    Attributes:
        max_object_bytes: size of the object, and of its data set once inflated.
        max_pixels: Rows x Columns of one frame. The largest real films, stitched spines and
            digitised mammograms, stay below 60 million.
    """

    max_object_bytes: int = 1 << 30
    max_pixels: int = 120_000_000
