"""The columns of the index with a model's probabilities: `prob_*` of the default labels, or a map."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from transforms.core.labels import LABELS

_MAP: Final = "probabilities"
_DEFAULT: Final = {label: f"prob_{label}" for label in LABELS}
PROBABILITY_COLUMNS: Final = (*_DEFAULT.values(), _MAP)
"""All columns with probabilities of labels."""


def probability_columns(names: Sequence[str], probabilities: Sequence[float]) -> dict[str, Any]:
    """Return the columns of a row for the probabilities of labels.

    Args:
        names: of the labels of a model.
        probabilities: calibrated probabilities in order of `names`, 0..1.
    """
    by_name = dict(zip(names, probabilities, strict=True))
    if _is_default(names):
        return {**{column: by_name[label] for label, column in _DEFAULT.items()}, _MAP: None}
    return {**dict.fromkeys(_DEFAULT.values()), _MAP: tuple(by_name.items())}


def probabilities_of(row: Any, names: Sequence[str]) -> list[float] | None:
    """Return the probabilities of labels in a row; None if it has none, or those of other labels.

    Args:
        row: object with the attributes `PROBABILITY_COLUMNS`.
        names: of the labels of a model.
    """
    if _is_default(names):
        values = [getattr(row, _DEFAULT[name]) for name in names]
    else:
        known = dict(row.probabilities or ())
        values = [known.get(name) for name in names]
    return None if None in values else values


def stored_probabilities(row: Any) -> dict[str, float]:
    """Return the probabilities in a row by label, whatever its labels; empty if it has none.

    Args:
        row: values by column, or an object with the attributes `PROBABILITY_COLUMNS`.
    """
    get = row.get if isinstance(row, Mapping) else functools.partial(getattr, row)
    if by_label := get(_MAP):
        return dict(by_label)
    values = {label: get(column) for label, column in _DEFAULT.items()}
    return {label: value for label, value in values.items() if value is not None}


def probability_arrays(table: pa.Table, names: Sequence[str]) -> list[pa.ChunkedArray]:
    """Return a column float32 for each label; null in rows without probabilities of these labels.

    Args:
        table: has `PROBABILITY_COLUMNS`.
        names: of the labels of a model.
    """
    if _is_default(names):
        return [table[_DEFAULT[name]] for name in names]
    return [pc.map_lookup(table[_MAP], pa.scalar(name), "first") for name in names]


def with_probabilities(
    table: pa.Table, names: Sequence[str], values: Sequence[pa.Array]
) -> pa.Table:
    """Return a table with other probabilities.

    Args:
        table: has `PROBABILITY_COLUMNS`.
        names: of the labels of a model.
        values: an array float32 for each label.
    """
    rows = len(table)
    columns: dict[str, pa.Array] = {
        name: pa.nulls(rows, pa.float32()) for name in _DEFAULT.values()
    }
    columns[_MAP] = pa.nulls(rows, table.schema.field(_MAP).type)
    if _is_default(names):
        columns |= {_DEFAULT[name]: array for name, array in zip(names, values, strict=True)}
    else:
        columns[_MAP] = pa.MapArray.from_arrays(
            pa.array(range(0, (rows + 1) * len(names), len(names)), pa.int32()),
            pa.array(list(names) * rows, pa.string()),
            pa.array(np.column_stack(values).ravel(), pa.float32()),
        )
    for name, array in columns.items():
        table = table.set_column(table.column_names.index(name), table.schema.field(name), array)
    return table


def _is_default(names: Sequence[str]) -> bool:
    return frozenset(names) == frozenset(LABELS)
