"""The essentials of the delivery contract, checked from the outside: nothing here uses the router."""

from __future__ import annotations

import collections
import hashlib
import json
from pathlib import Path
from typing import Any, Final
from urllib.parse import unquote

import pyarrow.dataset as ds
import pydicom

TERMS: Final = (
    "routed",
    "review",
    "not_xray",
    "quarantined",
    "duplicate",
    "unchanged",
    "forgotten",
)
Row = dict[str, Any]


def violations(lake: Path) -> list[str]:
    """Return what a lake of format 2 violates, at most one line for each object or row."""
    rows = _read(lake / "index")
    history = _read(lake / "history")
    found = [text for row in rows for text in _of_object(lake, row)]
    found += _of_versions(rows, history)
    found += _of_contents(rows)
    found += _of_files(lake, rows)
    found += _of_runs(lake)
    return found


def _read(folder: Path) -> list[Row]:
    if not folder.exists():
        return []
    data = ds.dataset(folder, format="parquet", partitioning="hive")
    rows: list[Row] = data.to_table().to_pylist()
    return rows


def _path(lake: Path, uri: str) -> Path:
    name = unquote(uri[7:], errors="surrogateescape") if uri.startswith("file://") else uri
    return lake / name  # an absolute name stays what it is


def _of_object(lake: Path, row: Row) -> list[str]:
    key, path = row["object_key"], _path(lake, row["object_uri"])
    if Path(row["object_uri"]).is_relative_to(lake):
        return [f"{key}: the name of an object in the lake is not relative"]
    if not path.is_file():
        return [f"{key}: no object"]
    if hashlib.sha256(path.read_bytes()).hexdigest() != row["content_sha256"]:
        return [f"{key}: an object of other bytes"]
    if row["status"] == "quarantined" or row["object_uri"] == row["source_uri"]:
        return []
    if pydicom.dcmread(path, stop_before_pixels=True).SOPInstanceUID != row["sop_instance_uid"]:
        return [f"{key}: an object of another UID"]
    return [] if f"body_part={row['destination']}/" in path.as_posix() else [f"{key}: wrong sink"]


def _of_versions(rows: list[Row], history: list[Row]) -> list[str]:
    current = collections.Counter((row["source_uri"], row["source_version"]) for row in rows)
    found = [f"{key}: {number} current rows" for key, number in current.items() if number > 1]
    for row in history:
        if (row["source_uri"], row["source_version"]) not in current:
            found.append(f"{row['object_key']}: superseded by nothing")
        if not (row["superseded_at"] and row["superseded_by"]):
            found.append(f"{row['object_key']}: superseded by an unknown run")
    return found


def _of_contents(rows: list[Row]) -> list[str]:
    """Check that each stored content has one first, whose object its duplicates name."""
    contents: dict[tuple[str, str], list[Row]] = collections.defaultdict(list)
    for row in rows:
        if row["status"] != "quarantined" and row["object_uri"] != row["source_uri"]:
            contents[row["sop_instance_uid"], row["content_sha256"]].append(row)
    found = []
    for group in contents.values():
        firsts = [row for row in group if row["status"] != "duplicate"]
        if len(firsts) != 1:
            found.append(f"{group[0]['object_key']}: {len(firsts)} firsts")
        if len({row["object_uri"] for row in group}) != 1:
            found.append(f"{group[0]['object_key']}: one content in several objects")
    return found


def _of_files(lake: Path, rows: list[Row]) -> list[str]:
    named = {_path(lake, row["object_uri"]) for row in rows}
    stored = [p for part in ("objects", "quarantine") for p in (lake / part).rglob("*.dcm")]
    return [f"{p.relative_to(lake)}: no row" for p in stored if p not in named]


def _of_runs(lake: Path) -> list[str]:
    found = []
    for path in (lake / "runs").glob("*.json"):
        counts = json.loads(path.read_text())["counts"]
        if counts["discovered"] != sum(counts.get(term, 0) for term in TERMS):
            found.append(f"{path.name}: the equation does not balance")
    return found
