"""Write the derived objects that are missing in a lake, after decisions have changed."""

from __future__ import annotations

import itertools
import logging
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline import __version__
from pipeline.audit.trail import AuditTrail
from pipeline.structured_reports import write_reports
from transforms.config.derivation import Derivation, Deriving, prepare
from transforms.core.reasons import Status
from transforms.core.worker_resources import processors
from transforms.imaging.limits import Limits
from transforms.lake.derived import (
    FAILED,
    WRITTEN,
    derived_days,
    finish_derived,
    finish_intent,
    read_derived,
    to_rows,
    write_derived,
    write_derived_intent,
)
from transforms.lake.digest_set import Digests, DigestSet
from transforms.lake.index_files import count_rows, list_index, read_matching
from transforms.lake.layout import Layout, partition_of
from transforms.lake.schema import IndexRow
from transforms.sandbox.write_derived import DerivedWriter

LOG = logging.getLogger(__name__)
BATCH_ROWS, MAX_BATCH_ROWS = 512, 8192
"""Objects whose rows are written together; as many are derived again after a kill."""
BATCH_SHARE: Final = 16
"""A batch has at least this part of the rows of its day, which are all written again with it."""
COLUMNS: Final = (
    "content_sha256 object_key destination object_uri status study_instance_uid series_instance_uid "
    "sop_instance_uid"
).split()
Row = Mapping[str, Any]


@dataclass
class AfterChanges:
    """Bring a lake in step with changed decisions: structured reports, derived objects, audit trail.

    The first call, and the one after a failure, also derives what earlier ones have left.

    Attributes:
        derivations: by label.
        audit: where changes are reported, or None.
    """

    derivations: Mapping[str, Derivation] = field(default_factory=dict)
    audit: AuditTrail | None = None
    _is_complete: bool = field(default=False, init=False)

    def __call__(self, layout: Layout, rows: Sequence[IndexRow]) -> None:
        """Write what is missing. The caller holds the lake's locks.

        Args:
            layout: the lake.
            rows: changed rows.
        """
        write_reports(layout, rows)
        if rows:
            changed = rows if self._is_complete else None
            self._is_complete = False
            write_missing_derived(layout, self.derivations, rows[0].run_id, changed=changed)
            self._is_complete = True
        if rows and self.audit is not None:
            self.audit.try_report()


ONLY_REPORTS: Final = AfterChanges()


def write_missing_derived(
    layout: Layout,
    derivations: Mapping[str, Derivation],
    run_id: str,
    limits: Limits | None = None,
    threads: int | None = None,
    changed: Iterable[IndexRow] | None = None,
) -> dict[str, int]:
    """Write the derived objects that current decisions and the policy demand; return counts by status.

    The caller holds the lake's locks. Those of another transform, version, option or key are replaced.
    Objects from which nothing can be derived have a row with the reason, keep their decision, and are
    logged by their key. Idempotent, and safe to kill.

    Args:
        layout: the lake.
        derivations: by label.
        run_id: value of the column `run_id`.
        limits: resource limits of an object.
        threads: number of objects that are derived concurrently; None for one per processor.
        changed: changed rows, of which alone objects are derived; None for all rows of the index.

    Raises:
        DerivationError: a transform or key cannot be used.
        DamagedFile: a file of the lake cannot be read.
        ProcessingFailure: the lake's storage refused a write.
    """
    counts: Counter[str] = Counter()
    if not derivations:
        return {}
    deriving = {label: prepare(one) for label, one in derivations.items()}
    finish_derived(layout)
    only = None if changed is None else _contents_by_day(changed)
    present = _present(layout, deriving, only)
    number = threads or processors()
    writer = DerivedWriter(layout, limits or Limits(), number)
    try:
        with ThreadPoolExecutor(number) as pool:
            batches = _BatchWriter(layout, derivations, deriving, writer, run_id)
            for day, rows in _missing(layout, deriving, present, only):
                counts.update(batches.write(day, rows, pool))
    finally:
        writer.close()
    return dict(counts)


def _contents_by_day(rows: Iterable[IndexRow]) -> dict[str, pa.StringArray]:
    """Return the content_sha256 of routed rows, by day."""
    found: dict[str, set[str]] = defaultdict(set)
    for row in rows:
        if row.status == Status.ROUTED:
            found[row.ingest_date].add(str(row.content_sha256))
    return {day: pa.array(sorted(contents), pa.string()) for day, contents in found.items()}


def _present(
    layout: Layout, deriving: Mapping[str, Deriving], only: Mapping[str, pa.StringArray] | None
) -> DigestSet:
    """Return hashes of content and destination of the rows that are as the policy demands."""
    found = DigestSet()
    for day in derived_days(layout) if only is None else only:
        rows = read_derived(layout, day)
        wanted = pa.array([one.transform_id for one in deriving.values()], pa.string())
        kept = rows.filter(
            pc.and_(
                pc.is_in(rows["transform_id"], value_set=wanted),
                pc.not_equal(rows["status"], FAILED),
            )
        )
        columns = ("content_sha256", "destination", "transform_id")
        found.add(
            _hashes(
                (content, label)
                for content, label, transform in zip(
                    *(kept[name].to_pylist() for name in columns), strict=True
                )
                if label in deriving and deriving[label].transform_id == transform
            )
        )
    return found


def _hashes(keys: Iterable[tuple[str, str]]) -> Digests:
    """Return hashes of contents and destinations, the same in this process only."""
    return np.fromiter(map(hash, keys), np.int64).view(np.uint64)


def _missing(
    layout: Layout,
    deriving: Mapping[str, Deriving],
    present: DigestSet,
    only: Mapping[str, pa.StringArray] | None,
) -> Iterator[tuple[str, list[Row]]]:
    """Yield the rows of objects without a derived object, by day, in batches."""
    labels = pa.array(sorted(deriving), pa.string())
    days = itertools.groupby(sorted(list_index(layout), key=partition_of), key=partition_of)
    files = derived_days(layout)
    for day, uris in days:
        if only is not None and day not in only:
            continue
        done = count_rows(files[day]) if day in files else 0
        wanted = {} if only is None else {"content_sha256": only[day]}
        waiting: list[Row] = []
        for uri in uris:
            for table in read_matching(uri, COLUMNS, wanted):
                routed = pc.equal(table["status"], Status.ROUTED.value)
                of_label = pc.is_in(table["destination"], value_set=labels)
                table = table.filter(pc.and_(routed, of_label))
                keys = zip(
                    table["content_sha256"].to_pylist(),
                    table["destination"].to_pylist(),
                    strict=True,
                )
                missing = pa.array(~present.contains(_hashes(keys)))
                waiting += table.filter(missing).to_pylist()
            while len(waiting) >= (size := batch_rows(done)):
                yield day, waiting[:size]
                del waiting[:size]
                done += size
        if waiting:
            yield day, waiting


def batch_rows(done: int) -> int:
    """Return the number of objects of the next batch of a day.

    Args:
        done: number of rows that the day has.
    """
    return min(MAX_BATCH_ROWS, max(BATCH_ROWS, done // BATCH_SHARE))


class _BatchWriter:
    """Write the derived objects of rows, some of a day at a time."""

    def __init__(
        self,
        layout: Layout,
        derivations: Mapping[str, Derivation],
        deriving: Mapping[str, Deriving],
        writer: DerivedWriter,
        run_id: str,
    ) -> None:
        self._layout, self._derivations, self._deriving = layout, derivations, deriving
        self._writer, self._run_id = writer, run_id

    def write(self, day: str, rows: Sequence[Row], pool: ThreadPoolExecutor) -> Counter[str]:
        """Write the objects, then their rows; return the number of rows by status."""
        layout = self._layout
        before = read_derived(layout, day)
        contents = pa.array([row["content_sha256"] for row in rows], pa.string())
        replaced = pc.is_in(before["content_sha256"], value_set=contents)
        old = set(before["derived_uri"].filter(replaced).drop_null().to_pylist())
        targets = [self._target(row) for row in rows]
        intent = write_derived_intent(layout, {*old, *map(layout.relative, targets)})
        batch = {"run_id": self._run_id, "derived_at": datetime.now(UTC)}
        found = [{**row, **batch} for row in pool.map(self._derive, rows, targets)]
        write_derived(
            layout, day, pa.concat_tables([before.filter(pc.invert(replaced)), to_rows(found)])
        )
        written = {one["derived_uri"] for one in found if one["status"] == WRITTEN}
        finish_intent(layout, intent, old - written)
        return Counter(str(one["status"]) for one in found)

    def _target(self, row: Row) -> str:
        one = self._deriving[row["destination"]]
        uids = self._uids(row)
        digest = one.pseudonyms.digest(row["content_sha256"], one.transform_id)
        return self._layout.derived_uri(row["destination"], *uids, digest)

    def _uids(self, row: Row) -> tuple[str, str, str]:
        """Return the own UIDs of study, series and instance."""
        uid = self._deriving[row["destination"]].pseudonyms.uid
        return (
            uid(row["study_instance_uid"]),
            uid(row["series_instance_uid"]),
            uid(row["sop_instance_uid"]),
        )

    def _derive(self, row: Row, target: str) -> dict[str, Any]:
        """Derive one object; return its row, without what all rows of a batch have."""
        layout, label = self._layout, row["destination"]
        one = self._deriving[label]
        outcome = self._writer.write(
            layout.absolute(row["object_uri"]),
            row["content_sha256"],
            one,
            target,
            layout.derived.get(label, layout.root),
        )
        values: dict[str, Any] = {
            "content_sha256": row["content_sha256"],
            "object_key": row["object_key"],
            "destination": label,
            "status": outcome.status,
            "reason": outcome.reason,
            "transform": one.transform.name,
            "transform_version": one.transform.version,
            "transform_options": self._derivations[label].options,
            "transform_id": one.transform_id,
            "key_id": one.pseudonyms.key_id,
            "router_version": __version__,
        }
        if outcome.status != WRITTEN:
            LOG.warning("object %s: nothing is derived (%s)", row["object_key"], outcome.reason)
            return values
        study, series, instance = self._uids(row)
        return {
            **values,
            "derived_uri": layout.relative(target),
            "derived_sha256": outcome.sha256,
            "derived_size_bytes": outcome.size,
            "derived_sop_instance_uid": instance,
            "derived_series_instance_uid": series,
            "derived_study_instance_uid": study,
            "burned_in": outcome.burned_in,
        }
