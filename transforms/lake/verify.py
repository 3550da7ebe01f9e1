"""Audits a lake against the delivery contract, from the lake alone."""

from __future__ import annotations

import hashlib
import json
import os
from collections import defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from transforms.lake.index_files import list_index
from transforms.lake.layout import SCRATCH, Layout, uri_to_path
from transforms.lake.schema import PARTITION, missing_columns
from transforms.lake.store import sha256_of
from transforms.reasons import Status
from transforms.tally import TERMS

ROW_COLUMNS = (
    "run_id object_key source_uri source_version source_size_bytes model_id status stage reason "
    "destination object_uri content_sha256 sop_instance_uid series_instance_uid "
    "study_instance_uid conflict"
).split()
BATCH_ROWS = 4096


@dataclass(frozen=True)
class Breach:
    """Something that the contract does not allow.

    Attributes:
        kind: what it is.
        object_key: of the source object, or "".
        where: path of a file of the lake, never a source URI.
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
        temporary_files: left by a killed run, or of one that goes on; the next run sweeps them.
        conflicts: SOP Instance UIDs that stand for several contents; no breach, but worth a look.
        breaches: all that must not be.
    """

    rows: int = 0
    objects: int = 0
    runs: int = 0
    incomplete_runs: int = 0
    temporary_files: int = 0
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
        The audit. Memory grows with some 500 bytes for each row.
    """
    found = Audit()
    rows = _Rows(layout, found)
    with ThreadPoolExecutor() as pool:
        for batch in _batches(layout, found):
            for row in batch:
                rows.add(row)
            objects = pool.map(lambda row: _object_breaches(row, layout, deep), batch)
            found.breaches += [breach for breaches in objects for breach in breaches]
            found.rows += len(batch)
            progress(found.rows)
    rows.finish()
    _check_files(layout, rows.named, found)
    _check_runs(layout, found)
    return found


class _Rows:
    """What rows say together: identities, firsts and duplicates, conflicts."""

    def __init__(self, layout: Layout, found: Audit) -> None:
        self.named: set[bytes] = set()
        self._layout = layout
        self._found = found
        self._identities: set[bytes] = set()
        self._with_first: set[bytes] = set()
        self._firsts_of_run: set[bytes] = set()
        self._duplicates: dict[bytes, str] = {}
        self._contents: dict[tuple[str, str], set[str]] = defaultdict(set)
        self._unsaid: dict[tuple[str, str], list[str]] = defaultdict(list)
        self._conflicts: set[str] = set()

    def add(self, row: dict[str, Any]) -> None:
        key, status = str(row["object_key"]), row["status"]
        self._breach(status not in set(Status), "unknown status", key)
        self._breach(not (row["stage"] and row["reason"]), "row without stage or reason", key)
        identity = _digest(row["source_uri"], row["source_version"], row["model_id"])
        self._breach(identity in self._identities, "second row for one source", key)
        self._identities.add(identity)
        if not row["object_uri"]:
            self._breach(True, "row without an object", key)
            return
        self.named.add(_path_digest(str(uri_to_path(row["object_uri"]))))
        self._breach(not self._stands_right(row), "object stands where its row does not say", key)
        if status != Status.QUARANTINED and row["sop_instance_uid"]:
            self._add_to_group(row, key)

    def _add_to_group(self, row: dict[str, Any], key: str) -> None:
        uid = str(row["sop_instance_uid"])
        content = _digest(uid, row["content_sha256"])
        if row["status"] == Status.DUPLICATE:
            self._duplicates[content] = key
        else:
            of_run = _digest(content, row["run_id"], row["model_id"])
            self._breach(of_run in self._firsts_of_run, "same content routed twice in a run", key)
            self._firsts_of_run.add(of_run)
            self._with_first.add(content)
        self._contents[uid, str(row["run_id"])].add(str(row["content_sha256"]))
        if row["conflict"]:
            self._conflicts.add(uid)
        else:
            self._unsaid[uid, str(row["run_id"])].append(key)

    def finish(self) -> None:
        for content, key in self._duplicates.items():
            self._breach(content not in self._with_first, "duplicate without a first", key)
        for group, contents in self._contents.items():
            for key in self._unsaid[group] if len(contents) > 1 else ():
                self._breach(True, "conflict not said", key)
        self._found.conflicts = sorted(self._conflicts)

    def _stands_right(self, row: dict[str, Any]) -> bool:
        """Whether an object of the lake is named as its row says."""
        if row["object_uri"] == row["source_uri"]:
            return True  # indexed where it stands
        path, sha256 = uri_to_path(str(row["object_uri"])), str(row["content_sha256"])
        if row["status"] == Status.QUARANTINED:
            return path.parts[-3:] == ("quarantine", sha256[:2], f"{sha256}.dcm")
        if row["status"] == Status.DUPLICATE and not path.name.endswith(f"~{sha256[:16]}.dcm"):
            return not _stands_in(path, self._layout)  # of a first that was only indexed
        expected = (
            f"body_part={row['destination']}",
            f"study={row['study_instance_uid']}",
            f"series={row['series_instance_uid']}",
            f"{row['sop_instance_uid']}~{sha256[:16]}.dcm",
        )
        return path.parts[-4:] == expected

    def _breach(self, wrong: bool, kind: str, key: str) -> None:
        if wrong:
            self._found.breaches.append(Breach(kind, key, ""))


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


def _object_breaches(row: dict[str, Any], layout: Layout, deep: bool) -> list[Breach]:
    if not row["object_uri"]:
        return []
    key, path = str(row["object_key"]), uri_to_path(str(row["object_uri"]))
    where = str(path) if _stands_in(path, layout) else "(outside the lake)"
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


def _stands_in(path: Path, layout: Layout) -> bool:
    return any(path.is_relative_to(root) for root in layout.object_roots)


def _check_files(layout: Layout, named: set[bytes], found: Audit) -> None:
    for root in layout.object_roots:
        found.temporary_files += len(list((root / SCRATCH).glob("*")))
        for part in ("objects", "quarantine"):
            for path in sorted((root / part).rglob("*")):
                if path.is_dir():
                    continue
                found.objects += 1
                if _path_digest(str(path)) not in named:
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
    if not found.runs and not found.incomplete_runs:
        found.breaches.append(Breach("no run summary: is this a lake?", "", str(runs)))


def _path_digest(path: str) -> bytes:
    """Digest of the real path: a lake may be looked at through a link."""
    return _digest(os.path.realpath(path))


def _digest(*parts: object) -> bytes:
    return hashlib.sha256(repr(parts).encode("utf-8", "surrogateescape")).digest()[:16]
