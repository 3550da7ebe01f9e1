"""Leaving films out, in `train` and `calibrate`."""

from __future__ import annotations

import argparse
from typing import Any


def add_leave_out_argument(parser: argparse.ArgumentParser) -> None:
    """Add --leave_out."""
    parser.add_argument(
        "--leave_out",
        nargs="+",
        default=[],
        metavar="SOURCE",
        help="sources that nothing is learnt from and nothing is set by; the bundle says how it does "
        "on their films",
    )


def print_left_out(metrics: dict[str, Any]) -> None:
    """Print what a bundle's metrics say of what it left out, if anything."""
    if strange := metrics.get("left_out"):
        print(f"on {', '.join(strange['sources'])}: macro-F1 {strange['macro_f1']}, recall:")
        for label, of in strange["labels"].items():
            if of["films"]:
                print(f"  {label:<16}{of['recall']:.3f} of {of['images']}")
