"""Decide current rows again from their columns, without reading objects, and count what changes."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.reroute.predictions import Predictions
from transforms.config.decide_row import EVIDENCE_COLUMNS, decide_from
from transforms.config.policy import Decision, Policy
from transforms.core.reasons import BY_PERSON
from transforms.lake.change_decisions import CHANGEABLE
from transforms.lake.index_files import open_index_file, read_batches, read_index
from transforms.lake.layout import Layout, partition_of
from transforms.lake.probabilities import (
    PROBABILITY_COLUMNS,
    probability_arrays,
    with_probabilities,
)
from transforms.lake.row_condition import RowCondition
from transforms.lake.schema import PARTITION, REGION_COLUMNS, SCHEMA
from transforms.lake.view_columns import (
    VIEW_COLUMNS,
    view_number_arrays,
    views_from_numbers,
    with_views,
)

MAX_EXAMPLES: Final = 3
"""Maximum number of examples of each change of destination."""
MAX_KEYS: Final = 20
"""Maximum number of listed keys of objects without a prediction."""
_CURRENT: Final = (
    "destination", "reason", "model_id", "decided_by", "object_key", "object_uri", "predicted_region",
    "sop_instance_uid",
)  # fmt: skip
_COLUMNS: Final = (
    *_CURRENT, "content_sha256", "status", "predicted_label", *PROBABILITY_COLUMNS, "ood_score",
    *VIEW_COLUMNS, *EVIDENCE_COLUMNS,
)  # fmt: skip


class StoredEvidence(NamedTuple):
    """The values of `EVIDENCE_COLUMNS` of a row."""

    rows: int | None
    columns: int | None
    header_label: str | None
    body_part_region: str | None
    coded_region: str | None
    series_description_region: str | None
    protocol_name_region: str | None
    view_position: str | None
    patient_age_years: float | None
    manufacturer: str | None


class Example(NamedTuple):
    """An object whose destination changes."""

    object_key: str
    sop_instance_uid: str | None


@dataclass(frozen=True)
class Rules:
    """What decides again, and about which rows.

    Attributes:
        policy: policy with a threshold for every label.
        model_id: id of the model.
        predictions: predictions of the model for rows of other models; None leaves those rows unchanged.
        condition: rows to decide again; None means all.
        overrule_people: whether to decide again what a person decided.
    """

    policy: Policy
    model_id: str
    predictions: Predictions | None = None
    condition: RowCondition | None = None
    overrule_people: bool = False

    @property
    def labels(self) -> tuple[str, ...]:
        """Names of the model's labels."""
        return self.policy.label_set.names


@dataclass
class Plan:
    """What deciding again changes. Duplicates are not counted: they follow the first of their content.

    Attributes:
        destinations: number of images by present and new destination.
        examples: up to `MAX_EXAMPLES` images by present and new destination, where these differ.
        changed: number of images whose destination, reason, model or folder by region changes.
        between_folders: number of images that only move to another folder of their sink.
        protected: number of images that a person decided, which are kept.
        other_models: number of images by the other model that decided them, which are kept.
        unclassified: number of images for which the model has no prediction, which are kept.
        unclassified_keys: up to `MAX_KEYS` of their object keys.
    """

    destinations: Counter[tuple[str, str]] = field(default_factory=Counter)
    examples: dict[tuple[str, str], list[Example]] = field(
        default_factory=lambda: defaultdict(list)
    )
    changed: int = 0
    between_folders: int = 0
    protected: int = 0
    other_models: Counter[str] = field(default_factory=Counter)
    unclassified: int = 0
    unclassified_keys: list[str] = field(default_factory=list)

    @property
    def decided(self) -> int:
        """Number of images decided again."""
        return sum(self.destinations.values())

    @property
    def moving(self) -> int:
        """Number of images whose destination changes."""
        return sum(n for (old, new), n in self.destinations.items() if old != new)


def make_plan(
    layout: Layout, rules: Rules, on_changed: Callable[[pa.Table], None] | None = None
) -> Plan:
    """Decide the current rows of a lake again; change nothing.

    Memory does not grow with the lake, except for predictions.

    Args:
        layout: the lake.
        rules: what decides.
        on_changed: called with rows that change, in the columns of the index, with the predictions that
            decide. The caller then holds the lake's locks.

    Raises:
        ConditionError: the condition cannot be evaluated.
        DamagedFile: an index file cannot be read.
    """

    def read(files: Sequence[str]) -> Plan:
        plan = Plan()
        for uri in files:
            for rows in classified_rows(uri, rules, every_column=on_changed is not None):
                outputs, changed = _decide(rows, rules, plan, layout)
                if on_changed is not None and changed:
                    on_changed(_with_outputs(rows, outputs, rules).take(changed))
        return plan

    return read_index(layout, read)


def classified_rows(uri: str, rules: Rules, *, every_column: bool) -> Iterator[pa.Table]:
    """Yield the rows of an index file that a model has classified and that fulfil the condition."""
    condition = rules.condition
    names = SCHEMA.names if every_column or condition is not None else _COLUMNS
    with open_index_file(uri) as file:
        for rows in read_batches(file, names):
            is_first = pc.is_in(rows["status"], value_set=pa.array(sorted(CHANGEABLE)))
            found = rows.filter(pc.and_(is_first, pc.is_valid(rows["predicted_label"])))
            if condition is not None:
                day = pa.array([partition_of(uri)] * len(found), pa.string())
                found = condition.matches(found.append_column(PARTITION, day))
            if len(found):
                yield found


def _decide(
    rows: pa.Table, rules: Rules, plan: Plan, layout: Layout
) -> tuple[npt.NDArray[np.float32], list[int]]:
    """Decide rows again and count them; return the outputs for all, and the positions that change."""
    outputs, is_known = _outputs(rows, rules)
    evidence = zip(*(rows[name].to_pylist() for name in StoredEvidence._fields), strict=True)
    now = zip(*(rows[name].to_pylist() for name in _CURRENT), strict=True)
    changed = []
    by_row = outputs.tolist()
    for position, (facts, current) in enumerate(zip(evidence, now, strict=True)):
        destination, reason, model_id, decided_by, key, object_uri, region, uid = current
        if decided_by == BY_PERSON and not rules.overrule_people:
            plan.protected += 1
            continue
        if not is_known[position]:
            if rules.predictions is None:
                plan.other_models[model_id] += 1
                continue
            plan.unclassified += 1
            if len(plan.unclassified_keys) < MAX_KEYS:
                plan.unclassified_keys.append(key)
            continue
        *probabilities, ood_score = by_row[position][: -len(VIEW_COLUMNS)]
        views = views_from_numbers(by_row[position][-len(VIEW_COLUMNS) :], rules.labels)
        decision = decide_from(
            probabilities, ood_score, views, StoredEvidence(*facts), rules.policy, show=False
        )
        change = destination, decision.destination
        plan.destinations[change] += 1
        if (destination, reason, model_id) == _outcome(decision, rules) and decided_by != BY_PERSON:
            if not (
                layout.is_misplaced(object_uri, destination, region)
                and layout.contains(layout.absolute(object_uri))  # not only indexed
            ):
                continue
            plan.between_folders += 1
        changed.append(position)
        plan.changed += 1
        if destination != decision.destination and len(plan.examples[change]) < MAX_EXAMPLES:
            plan.examples[change].append(Example(key, uid))
    return outputs, changed


def _outcome(decision: Decision, rules: Rules) -> tuple[str, str, str]:
    return decision.destination, decision.reason, rules.model_id


def _outputs(rows: pa.Table, rules: Rules) -> tuple[npt.NDArray[np.float32], list[bool]]:
    """Return the outputs of the model, and whether they are known for each row.

    Outputs are float32[N, n_labels + 5]: the probabilities, the OOD score, then `view_numbers`.
    """
    columns = [*probability_arrays(rows, rules.labels), rows["ood_score"]]
    numbers = [column.to_numpy() for column in columns]
    stored = np.stack([*numbers, *view_number_arrays(rows, rules.labels)], axis=1)
    is_known = [model == rules.model_id for model in rows["model_id"].to_pylist()]
    if rules.predictions is not None and not all(is_known):
        found, is_found = rules.predictions.find(rows["content_sha256"].to_pylist())
        stored = np.where(np.array(is_known)[:, None], stored, found)
        is_known = [known or new for known, new in zip(is_known, is_found, strict=True)]
    return stored, is_known


def _with_outputs(rows: pa.Table, outputs: npt.NDArray[np.float32], rules: Rules) -> pa.Table:
    """Return rows with the outputs of a model in their columns."""
    *probabilities, scores = (pa.array(column) for column in outputs.T[: -len(VIEW_COLUMNS)])
    rows = with_probabilities(rows, rules.labels, probabilities)
    rows = with_views(rows, rules.labels, list(outputs.T[-len(VIEW_COLUMNS) :]))
    columns = {
        "ood_score": scores,
        "model_id": pa.array([rules.model_id] * len(rows), pa.string()),
        **_region_columns(rows, rules),
    }
    for name, values in columns.items():
        rows = rows.set_column(rows.column_names.index(name), name, values)
    return rows


def _region_columns(rows: pa.Table, rules: Rules) -> dict[str, pa.ChunkedArray]:
    """Return the regions that the model predicts: of the rows that it has classified, else new ones."""
    if rules.predictions is None:
        return {}
    found = rules.predictions.regions_of(rows["content_sha256"].to_pylist())
    is_known = pc.equal(rows["model_id"], rules.model_id)
    return {name: pc.if_else(is_known, rows[name], found[name]) for name in REGION_COLUMNS}
