"""Leaving images out, in `train` and `calibrate`."""

from __future__ import annotations

import argparse
from typing import Any


def add_holdout_argument(parser: argparse.ArgumentParser) -> None:
    """Add --holdout_sources."""
    parser.add_argument(
        "--holdout_sources",
        nargs="+",
        default=[],
        metavar="SOURCE",
        help="sources that nothing is learnt from and nothing is set by; the bundle says how it does "
        "on their images",
    )


def print_holdout(metrics: dict[str, Any]) -> None:
    """Print what a bundle's metrics say of what it left out, if anything."""
    if strange := metrics.get("holdout"):
        print(f"on {', '.join(strange['sources'])}: macro-F1 {strange['macro_f1']}, recall:")
        for label, of in strange["labels"].items():
            if of["images"]:
                print(f"  {label:<16}{of['recall']:.3f} of {of['images']}")
