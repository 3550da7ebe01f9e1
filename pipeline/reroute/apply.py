"""Apply decisions that changed, in chunks, each of which is safe to kill."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.reroute.plan import Plan, Rules, make_plan
from transforms.config.decide_row import Prediction, decide_row
from transforms.core.object_ref import Failure
from transforms.core.reasons import Stage
from transforms.core.storage_failures import TEMPORARY, write_failure
from transforms.lake.change_decisions import change_decisions
from transforms.lake.layout import Layout
from transforms.lake.probabilities import probabilities_of
from transforms.lake.schema import SCHEMA, IndexRow, from_table
from transforms.lake.view_columns import views_of
from transforms.storage.temporary import private_folder

CHUNK_ROWS: Final = 20_000
"""Maximum number of rows that change together; each takes about 10 kB of memory."""


@dataclass
class Applied:
    """What `apply_plan` has changed.

    Attributes:
        changed: number of images with another decision.
        moved: number of objects in another sink.
        failures: objects that could not be placed; their decisions are unchanged.
    """

    changed: int = 0
    moved: int = 0
    failures: tuple[Failure, ...] = ()


def apply_plan(
    layout: Layout, rules: Rules, run_id: str, router_version: str
) -> tuple[Plan, Applied]:
    """Decide current rows again, and move their objects and rows. Safe to kill at every step.

    The caller holds the lake's locks and has called `prepare_changes`.

    Args:
        layout: the lake.
        rules: what decides.
        run_id: id of this run.
        router_version: version of this package.

    Raises:
        ConditionError: the condition cannot be evaluated.
        DamagedFile: an index file cannot be read.
        ProcessingFailure: the lake's storage refused a write.
    """
    applied = Applied()
    with private_folder() as folder:
        file = folder / "changed.parquet"
        try:
            plan = _spill(layout, rules, file)
        except OSError as error:
            raise write_failure(error, Stage.INDEX, TEMPORARY) from error
        for rows in _chunks(file):
            decided = [_decide(row, rules, router_version) for row in rows]
            result = change_decisions(
                layout, decided, run_id, overrule_people=rules.overrule_people
            )
            applied.changed += len(result.changed)
            applied.moved += result.moved
            applied.failures += result.failures
    return plan, applied


def _spill(layout: Layout, rules: Rules, file: Path) -> Plan:
    """Write the rows that change to a file, since their own files are rewritten one after the other."""
    with pq.ParquetWriter(file, SCHEMA) as writer:

        def write(rows: pa.Table) -> None:
            writer.write_table(rows.select(SCHEMA.names).cast(SCHEMA))

        return make_plan(layout, rules, write)


def _chunks(file: Path) -> Iterator[list[IndexRow]]:
    with pq.ParquetFile(file) as changed:
        for batch in changed.iter_batches(CHUNK_ROWS):
            yield from_table(pa.Table.from_batches([batch]), ingest_date="")


def _decide(row: IndexRow, rules: Rules, router_version: str) -> IndexRow:
    probabilities = probabilities_of(row, rules.labels)
    assert probabilities is not None  # makes the plan choose the row
    ood_score = float(row.ood_score or 0.0)
    prediction = Prediction(
        probabilities, ood_score, rules.model_id, region=row.region, views=views_of(row)
    )
    decided = decide_row(row, prediction, rules.policy)
    return replace(decided, router_version=router_version)
