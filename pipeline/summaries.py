"""Format parts of the summaries of runs, of this and earlier releases; imports no Beam."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any, Final

ROUTE, REROUTE, REVIEW_SESSION = "route", "reroute", "review"
"""Kinds of runs: one that reads inputs, one that decides images again, and a session of reviewers."""
_MINUTE_S: Final = 60.0
_UNITS: Final = (("d", 86400, "h", 3600), ("h", 3600, "min", 60), ("min", 60, "s", 1))


def kind_of(summary: Mapping[str, Any]) -> str:
    """Return the kind of a run with a summary; those of releases before 0.3 are of routing."""
    return str(summary.get("kind", ROUTE))


def unmet_lines(summary: Mapping[str, Any]) -> list[str]:
    """Return one line per expectation that a run does not meet."""
    return [f"  {one['text']}" for one in summary.get("expectations", ()) if not one["met"]]


def time_line(summary: dict[str, Any]) -> str:
    """Return when and where a run ran, how long, and its throughput; "" for runs before release 0.3.

    A run that decides images again reads no inputs, so it has no throughput.
    """
    if "started_at" not in summary:
        return ""
    number = summary["inputs"]
    parts = [
        f"{summary['started_at']} on {summary['host']}",
        format_duration(summary["duration_s"]),
    ]
    if kind_of(summary) == REROUTE:
        return ", ".join([parts[0], REROUTE, parts[1]])
    parts.append(f"{number} input" if number == 1 else f"{number} inputs")
    if summary["objects_per_s"]:
        parts.append(f"{summary['objects_per_s']:.1f} objects/s")
        parts.append(f"{(summary['bytes_per_s'] or 0) / 1e6:.1f} MB/s")
    return ", ".join(parts)


def plural(number: int, noun: str) -> str:
    """Return a number with its noun, `1 image` or `2 images`."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def interval_text(seconds: float) -> str:
    """Return an interval as text: minute, 30 s."""
    return "minute" if seconds == _MINUTE_S else f"{seconds:g} s"


def utc_text(seconds: float) -> str:
    """Return seconds since 1970 as text in UTC, such as 2026-11-29T17:00:00Z."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))


def format_duration(seconds: float) -> str:
    """Return a duration as text: 5 s, 3 min 5 s, 2 h 5 min, 3 d 2 h."""
    whole = round(seconds)
    for unit, size, smaller, smaller_size in _UNITS:
        if whole >= size:
            rest = whole % size // smaller_size
            return f"{whole // size} {unit}" + (f" {rest} {smaller}" if rest else "")
    return f"{whole} s"
