"""What waits for people: images in review, disagreements with the header, and uncertain decisions."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

import duckdb
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.report.queries import BY_MACHINE, DISAGREES, HEADER_PROBABILITY
from transforms.core.reasons import Reason, Status
from transforms.lake.index_files import (
    count_rows,
    open_index_file,
    read_batches,
    read_index,
    read_rows,
)
from transforms.lake.layout import Layout
from transforms.lake.probabilities import PROBABILITY_COLUMNS
from transforms.lake.resolve_duplicates import NEVER_FIRST
from transforms.lake.schema import SCHEMA, IndexRow


class Queue(StrEnum):
    """The queues of a review, in the order in which they are worked on."""

    REVIEW = "review"
    DISAGREEMENTS = "disagreements"
    UNCERTAIN = "uncertain"


TITLES: Final = {
    Queue.REVIEW: "In review",
    Queue.DISAGREEMENTS: "Header disagrees",
    Queue.UNCERTAIN: "Low confidence",
}
"""Names of the queues for people."""
MAX_LOADED: Final = 1000
"""Images of a queue that are loaded at a time."""
_COLUMNS: Final = [
    *("content_sha256", "object_key", "status", "reason", "decided_by", "header_agrees"),
    *("header_label", "confidence", *PROBABILITY_COLUMNS),
]
_CONDITIONS: Final = {
    Queue.REVIEW: f"status = '{Status.REVIEW}' AND reason <> '{Reason.UNREADABLE}'",
    Queue.DISAGREEMENTS: f"{DISAGREES} AND {BY_MACHINE}",
    Queue.UNCERTAIN: f"status = '{Status.ROUTED}' AND header_agrees IS NOT FALSE AND {BY_MACHINE} "
    "AND (confidence < $below OR content_sha256 < $sampled)",
}
_ORDERS: Final = {
    Queue.REVIEW: "confidence NULLS FIRST, object_key",
    Queue.DISAGREEMENTS: f"{HEADER_PROBABILITY} NULLS LAST, object_key",
    Queue.UNCERTAIN: "confidence NULLS FIRST, object_key",
}


@dataclass(frozen=True)
class Waiting:
    """What waits in a lake.

    Attributes:
        order: contents (sha256) of each queue, in the order in which they are shown; at most
            `MAX_LOADED`.
        totals: number of images in each queue.
        rows: row of each of these contents.
    """

    order: dict[Queue, list[str]]
    totals: dict[Queue, int]
    rows: dict[str, IndexRow]


def load_waiting(
    layout: Layout,
    answered: Collection[str],
    below: float,
    limit: int = MAX_LOADED,
    *,
    sample: int = 0,
) -> Waiting:
    """Return what waits in a lake, while runs may write to it.

    Args:
        layout: the lake.
        answered: contents (sha256) that a person has answered about.
        below: confidence below which a routed image waits, 0..1.
        limit: images of a queue to load.
        sample: approximate number of routed images, drawn at random by their content, that wait too
            whatever their confidence.

    Raises:
        DamagedFile: an index file cannot be read.
    """

    def load(files: list[str]) -> Waiting:
        sampled = _hash_below(sample / max(1, sum(map(count_rows, files)))) if sample else ""
        candidates = _candidates(files, below, sampled)
        order, totals = _order(candidates, answered, below, sampled, limit)
        contents = {content for queue in order.values() for content in queue}
        return Waiting(order, totals, rows_of(files, contents))

    return read_index(layout, load)


def rows_of(files: Sequence[str], contents: Collection[str]) -> dict[str, IndexRow]:
    """Return the row of each content that index files have, without duplicates and quarantined ones."""
    wanted = {"content_sha256": pa.array(sorted(contents), pa.string())}
    return {
        str(row.content_sha256): row
        for row in read_rows(files if contents else (), wanted)
        if row.status not in NEVER_FIRST
    }


def _hash_below(share: float) -> str:
    """Return the sha256 below which that share of all contents is."""
    return f"{int(share * 16**16):016x}" if share < 1 else "g"


def _candidates(files: Sequence[str], below: float, sampled: str) -> pa.Table:
    """Return the columns that order rows, of rows that may be in a queue."""
    found = [pa.table({name: pa.array([], SCHEMA.field(name).type) for name in _COLUMNS})]
    for uri in files:
        with open_index_file(uri) as file:
            for table in read_batches(file, _COLUMNS):
                routed = pc.equal(table["status"], str(Status.ROUTED))
                doubtful = pc.or_kleene(
                    pc.equal(table["header_agrees"], False), pc.less(table["confidence"], below)
                )
                doubtful = pc.or_kleene(doubtful, pc.less(table["content_sha256"], sampled))
                waits = pc.or_kleene(
                    pc.equal(table["status"], str(Status.REVIEW)),
                    pc.and_kleene(routed, doubtful),
                )
                found.append(table.filter(waits))
    return pa.concat_tables(found)


def _order(
    candidates: pa.Table, answered: Collection[str], below: float, sampled: str, limit: int
) -> tuple[dict[Queue, list[str]], dict[Queue, int]]:
    order, totals = {}, {}
    known = pa.table({"content_sha256": pa.array(sorted(answered), pa.string())})
    with duckdb.connect() as db:
        db.register("candidates", candidates)
        db.register("known", known)
        for queue in Queue:
            query = f"""
                SELECT content_sha256 FROM candidates ANTI JOIN known USING (content_sha256)
                WHERE {_CONDITIONS[queue]} ORDER BY {_ORDERS[queue]}"""
            parameters = {"below": below, "sampled": sampled} if "$below" in query else None
            found = [content for (content,) in db.execute(query, parameters).fetchall()]
            contents = list(dict.fromkeys(found))
            order[queue], totals[queue] = contents[:limit], len(contents)
    return order, totals
