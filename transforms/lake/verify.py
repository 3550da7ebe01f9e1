"""Audits a lake against the delivery contract, from the lake alone."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from transforms.lake.index_files import list_index
from transforms.lake.layout import TEMPORARY_PREFIX, Layout, uri_to_path
from transforms.lake.schema import PARTITION, missing_columns
from transforms.lake.store import sha256_of
from transforms.reasons import Status
from transforms.tally import TERMS

ROW_COLUMNS = (
    "object_key source_uri source_version source_size_bytes model_id status stage reason "
    "object_uri content_sha256 sop_instance_uid conflict"
).split()
BATCH_ROWS = 4096


@dataclass(frozen=True)
class Breach:
    """Something that the contract does not allow.

    Attributes:
        kind: what it is.
        object_key: of the source object, or "".
        where: path of a file, never a source URI.
    """

    kind: str
    object_key: str
    where: str


@dataclass
class Audit:
    """What an audit found.

    Attributes:
        rows: rows of the index.
        objects: files among the lake's objects.
        runs: complete runs.
        incomplete_runs: runs that ended incomplete; the next complete one makes up for them.
        conflicts: SOP Instance UIDs that stand for several contents; no breach, but worth a look.
        breaches: all that must not be.
    """

    rows: int = 0
    objects: int = 0
    runs: int = 0
    incomplete_runs: int = 0
    conflicts: list[str] = field(default_factory=list)
    breaches: list[Breach] = field(default_factory=list)

    @property
    def holds(self) -> bool:
        """Whether the contract holds."""
        return not self.breaches

    def to_json(self) -> str:
        """Return the audit for machines."""
        return json.dumps({"holds": self.holds, **asdict(self)}, indent=2)


def audit(
    layout: Layout, *, deep: bool = False, progress: Callable[[int], None] = lambda rows: None
) -> Audit:
    """Check a lake.

    Args:
        layout: the lake; sinks elsewhere are checked where rows name them.
        deep: also read every object and compare its sha256.
        progress: called with the number of rows checked so far.

    Returns:
        The audit. Memory grows with 32 bytes or so for each row.
    """
    found = Audit()
    named: set[bytes] = set()
    identities: set[bytes] = set()
    conflicts: set[str] = set()
    with ThreadPoolExecutor() as pool:
        for batch in _batches(layout, found):
            for row in batch:
                found.breaches += _row_breaches(row)
                identity = _digest(row["source_uri"], row["source_version"], row["model_id"])
                if identity in identities:
                    found.breaches.append(
                        Breach("second row for one source", row["object_key"], "")
                    )
                identities.add(identity)
                if row["object_uri"]:
                    named.add(_digest(str(uri_to_path(row["object_uri"]))))
                if row["conflict"] and row["sop_instance_uid"]:
                    conflicts.add(row["sop_instance_uid"])
            objects = pool.map(lambda row: _object_breaches(row, deep), batch)
            found.breaches += [breach for breaches in objects for breach in breaches]
            found.rows += len(batch)
            progress(found.rows)
    found.conflicts = sorted(conflicts)
    _check_files(layout, named, found)
    _check_runs(layout, found)
    return found


def _batches(layout: Layout, found: Audit) -> Iterator[list[dict[str, Any]]]:
    for path in list_index(layout):
        try:
            with pq.ParquetFile(path) as file:
                missing = missing_columns([*file.schema_arrow.names, PARTITION])
                if missing:
                    where = f"{path}: {', '.join(missing)}"
                    found.breaches.append(Breach("columns missing in an index file", "", where))
                    continue
                for batch in file.iter_batches(BATCH_ROWS, columns=ROW_COLUMNS):
                    yield batch.to_pylist()
        except (OSError, ValueError):
            found.breaches.append(Breach("unreadable index file", "", str(path)))


def _row_breaches(row: dict[str, Any]) -> list[Breach]:
    key = str(row["object_key"])
    breaches = []
    if row["status"] not in set(Status):
        breaches.append(Breach("unknown status", key, ""))
    if not (row["stage"] and row["reason"]):
        breaches.append(Breach("row without stage or reason", key, ""))
    if not row["object_uri"]:
        breaches.append(Breach("row without an object", key, ""))
    return breaches


def _object_breaches(row: dict[str, Any], deep: bool) -> list[Breach]:
    if not row["object_uri"]:
        return []
    key, path = str(row["object_key"]), uri_to_path(str(row["object_uri"]))
    where = "(its source)" if row["object_uri"] == row["source_uri"] else str(path)
    try:
        if path.stat().st_size != row["source_size_bytes"]:
            return [Breach("object of another size", key, where)]
        if deep and sha256_of(path) != row["content_sha256"]:
            return [Breach("object with other bytes", key, where)]
    except FileNotFoundError:
        return [Breach("missing object", key, where)]
    except OSError as error:
        return [Breach(f"unreadable object ({type(error).__name__})", key, where)]
    return []


def _check_files(layout: Layout, named: set[bytes], found: Audit) -> None:
    for root in layout.object_roots:
        for part in ("objects", "quarantine", "index", "runs"):
            for path in sorted((root / part).rglob("*")):
                if path.is_dir():
                    continue
                if path.name.startswith(TEMPORARY_PREFIX):
                    found.breaches.append(Breach("temporary file left over", "", str(path)))
                elif part in ("objects", "quarantine"):
                    found.objects += 1
                    if _digest(str(path)) not in named:
                        found.breaches.append(Breach("object without a row", "", str(path)))


def _check_runs(layout: Layout, found: Audit) -> None:
    runs = Path(layout.root) / "runs"
    found.incomplete_runs = len(list(runs.glob("incomplete/*.json")))
    for path in sorted(runs.glob("*.json")):
        found.runs += 1
        try:
            counts = json.loads(path.read_text())["counts"]
            balanced = counts["discovered"] == sum(counts[term] for term in TERMS)
        except (OSError, ValueError, KeyError, TypeError):
            found.breaches.append(Breach("unreadable run summary", "", str(path)))
            continue
        if not balanced:
            found.breaches.append(Breach("equation does not balance", "", str(path)))
    if found.rows and not found.runs and not found.incomplete_runs:
        found.breaches.append(Breach("no run summary", "", str(runs)))


def _digest(*parts: object) -> bytes:
    return hashlib.sha256(repr(parts).encode("utf-8", "surrogateescape")).digest()[:16]
