"""Learn from a lake how reliable the claims of headers are.

The true labels are those of persons and of confident pixels; what a header has decided is not counted.
The counts in force are in `LAKE/header_reliability/<generation>.json`. A run counts again once the index
has twice the rows of the last count, so that the identity of the policy, of which the counts are part,
changes a few times in the life of a lake. A run that follows an interrupted one uses its counts, and so
decides as it would have.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, fields, replace
from typing import Final, Protocol

import pyarrow as pa
import pyarrow.compute as pc

from transforms.core.labels import DEFAULT_LABELS, LabelSet
from transforms.core.reasons import BY_PERSON, Reason, Status
from transforms.imaging.header_evidence import (
    AGE_SOURCE,
    CHILD_BELOW_YEARS,
    CLAIMS,
    REGION_SOURCES,
    VIEW_SOURCE,
    HeaderClaims,
    HeaderReliability,
    manufacturer_key,
    view_claim,
)
from transforms.lake.content_tables import READ_THREADS
from transforms.lake.files import list_files, put_if_absent, read_json
from transforms.lake.index_files import count_rows, open_index_file, read_batches, read_index
from transforms.lake.journal import list_journal
from transforms.lake.layout import Layout
from transforms.lake.probabilities import PROBABILITY_COLUMNS, probability_arrays
from transforms.lake.schema import conform
from transforms.storage.schemes import join

CONFIDENT_PIXELS: Final = 0.9
"""Minimum probability of the label that pixels must have to count as its true label."""
CONFIDENT_REASONS: Final = (Reason.CONFIDENT, Reason.SETTLED_BY_AGE, Reason.AGE_CONTRADICTED)
"""Reasons of rows whose pixels are not out of distribution."""
MIN_OBJECTS: Final = 100
"""Objects below which the prior remains in force."""
MIN_OF_MANUFACTURER: Final = 20
"""Objects of a manufacturer below which it is only counted with all others."""
MAX_ROWS: Final = 500_000
"""Rows that are counted, from the newest partition on."""
GROWTH: Final = 2
"""The index is counted again when it has so many times the rows of the last count."""
_COLUMNS: Final = [
    *("status", "reason", "destination", "decided_by", "predicted_label", "header_label"),
    *("manufacturer", VIEW_SOURCE, AGE_SOURCE, *REGION_SOURCES, *PROBABILITY_COLUMNS),
]


CLAIM_COLUMNS: Final = tuple(one.name for one in fields(HeaderClaims))
"""Columns of the index with what a header claims."""


class ClaimingRow(Protocol):
    """A row of the index, or any object with its `header_label` and `CLAIM_COLUMNS`."""

    @property
    def header_label(self) -> str | None: ...

    @property
    def body_part_region(self) -> str | None: ...

    @property
    def coded_region(self) -> str | None: ...

    @property
    def series_description_region(self) -> str | None: ...

    @property
    def protocol_name_region(self) -> str | None: ...

    @property
    def view_position(self) -> str | None: ...

    @property
    def patient_age_years(self) -> float | None: ...

    @property
    def manufacturer(self) -> str | None: ...


def claims_of(row: ClaimingRow, labels: LabelSet = DEFAULT_LABELS) -> HeaderClaims:
    """Return what the header of a row claims.

    Rows of earlier releases have a `header_label` only, which means the region of Body Part Examined.

    Args:
        row: the row.
        labels: of the model.
    """
    claims = HeaderClaims(
        row.body_part_region,
        row.coded_region,
        row.series_description_region,
        row.protocol_name_region,
        row.view_position,
        row.patient_age_years,
        row.manufacturer,
    )
    if row.header_label and claims.body_part_region is None and claims.coded_region is None:
        return replace(claims, body_part_region=labels.header_region_of(row.header_label))
    return claims


def read_reliability(layout: Layout) -> HeaderReliability:
    """Return the reliability in force in a lake: the last that was stored, or the prior.

    Raises:
        OSError: the lake cannot be read.
    """
    files = sorted(one.uri for one in list_files(layout.header_reliability, ".json"))
    if not files:
        return HeaderReliability()
    stored = read_json(files[-1])
    return HeaderReliability(**{f.name: stored[f.name] for f in fields(HeaderReliability)})


def update_reliability(
    layout: Layout,
    labels: LabelSet = DEFAULT_LABELS,
    count: Callable[[str], int] = count_rows,
) -> HeaderReliability:
    """Return the reliability in force for a run; count the index again if it has grown enough.

    Args:
        layout: the lake, to which no other run writes.
        labels: of the model.
        count: returns the number of rows of an index file.

    Raises:
        DamagedFile: an index file cannot be read.
        ProcessingFailure: the lake's storage refused a write.
    """
    current = read_reliability(layout)
    if list_journal(layout):
        return current
    rows = read_index(layout, lambda files: _sum(count, files))
    if rows < max(MIN_OBJECTS, GROWTH * current.index_rows):
        return current
    learned = replace(
        learn_reliability(layout, labels), generation=current.generation + 1, index_rows=rows
    )
    if learned.objects < MIN_OBJECTS:
        return current
    put_if_absent(
        join(layout.header_reliability, f"{learned.generation:06d}.json"),
        (json.dumps(asdict(learned), sort_keys=True) + "\n").encode(),
        scratch=layout.scratch(),
        file_mode=layout.file_mode,
    )
    return learned


def _sum(count: Callable[[str], int], files: list[str]) -> int:
    with ThreadPoolExecutor(READ_THREADS) as pool:
        return sum(pool.map(count, files))


def learn_reliability(layout: Layout, labels: LabelSet = DEFAULT_LABELS) -> HeaderReliability:
    """Count claims by the true labels of up to `MAX_ROWS` rows of the index.

    Args:
        layout: the lake.
        labels: of the model; rows with other labels are not counted.

    Raises:
        DamagedFile: an index file cannot be read.
    """
    return read_index(layout, lambda files: count_claims(_tables(files), labels))


def count_claims(
    tables: Iterator[pa.Table], labels: LabelSet = DEFAULT_LABELS
) -> HeaderReliability:
    """Return the reliability that rows of the index show.

    Args:
        tables: tables with columns of the index.
        labels: of the model.
    """
    counts: dict[str, Counter[tuple[str, str, str]]] = {source: Counter() for source in CLAIMS}
    objects = 0
    for table in tables:
        known = _with_true_labels(conform(table).select(_COLUMNS), labels)
        objects += len(known)
        for source, counter in counts.items():
            for key, number in _count(known, source):
                counter[key] += number
    return HeaderReliability(
        objects=objects, counts={source: _nested(counter) for source, counter in counts.items()}
    )


def _with_true_labels(table: pa.Table, labels: LabelSet) -> pa.Table:
    """Return the rows whose true label is known, with the columns "label" and claims."""
    names = pa.array(labels.names)
    probabilities = [pc.fill_null(one, 0.0) for one in probability_arrays(table, labels.names)]
    highest = pc.max_element_wise(*probabilities)
    by_person = pc.fill_null(pc.equal(table["decided_by"], BY_PERSON), False)
    by_pixels = pc.and_(
        pc.is_in(table["reason"], pa.array([str(reason) for reason in CONFIDENT_REASONS])),
        pc.greater_equal(highest, CONFIDENT_PIXELS),
    )
    label = pc.if_else(by_person, table["destination"], table["predicted_label"])
    is_known = pc.and_(pc.or_(by_person, by_pixels), pc.is_in(label, names))
    is_first = pc.fill_null(pc.not_equal(table["status"], str(Status.DUPLICATE)), False)
    regions = pa.array([one.header_region for one in labels.labels], pa.string())
    of_label = pc.take(regions, pc.index_in(table["header_label"], names))
    is_earlier = pc.and_(pc.is_null(table["body_part_region"]), pc.is_null(table["coded_region"]))
    claims = {
        **{source: table[source] for source in (*REGION_SOURCES, VIEW_SOURCE)},
        "body_part_region": pc.if_else(is_earlier, of_label, table["body_part_region"]),
        AGE_SOURCE: pc.if_else(pc.less(table[AGE_SOURCE], CHILD_BELOW_YEARS), "CHILD", "ADULT"),
    }
    labelled = pa.table({"label": label, "manufacturer": table["manufacturer"], **claims})
    return labelled.filter(pc.and_(is_known, is_first))


def _count(table: pa.Table, source: str) -> Iterator[tuple[tuple[str, str, str], int]]:
    """Yield (manufacturer, label, claim) and their number; "" stands for all manufacturers."""
    grouped = table.group_by(["manufacturer", "label", source]).aggregate([([], "count_all")])
    for row in grouped.to_pylist():
        value = row[source]
        claim = view_claim(value) if source == VIEW_SOURCE and value else value
        if claim in CLAIMS[source]:
            for key in {"", manufacturer_key(row["manufacturer"])}:
                yield (key, row["label"], claim), row["count_all"]


def _nested(counter: Counter[tuple[str, str, str]]) -> dict[str, dict[str, dict[str, int]]]:
    """Return counts by manufacturer, label and claim, of manufacturers that have enough."""
    sizes: Counter[str] = Counter()
    for (manufacturer, _, _), number in counter.items():
        sizes[manufacturer] += number
    nested: dict[str, dict[str, dict[str, int]]] = {}
    for (manufacturer, label, claim), number in sorted(counter.items()):
        if not manufacturer or sizes[manufacturer] >= MIN_OF_MANUFACTURER:
            nested.setdefault(manufacturer, {}).setdefault(label, {})[claim] = number
    return nested


def _tables(files: list[str]) -> Iterator[pa.Table]:
    rows = 0
    for uri in reversed(files):
        if rows >= MAX_ROWS:
            return
        with open_index_file(uri) as file:
            rows += file.metadata.num_rows
            yield from read_batches(file, _COLUMNS)
