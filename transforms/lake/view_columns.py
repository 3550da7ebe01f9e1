"""The columns of the index with the two views of a plate, an image that shows two side by side."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

VIEW_COLUMNS: Final = (
    "left_view_label",
    "left_view_confidence",
    "right_view_label",
    "right_view_confidence",
)
"""All columns about views."""
NO_VIEWS: Final = (math.nan,) * len(VIEW_COLUMNS)
"""`view_numbers` of an image that is no plate."""


class View(NamedTuple):
    """What a model says of one view: its most probable label, and the label's probability, 0..1."""

    label: str
    confidence: float


class Views(NamedTuple):
    """The two views of a plate."""

    left: View
    right: View


def columns_of_views(views: Views | None) -> dict[str, Any]:
    """Return the columns of a row."""
    values = (None,) * len(VIEW_COLUMNS) if views is None else (*views.left, *views.right)
    return dict(zip(VIEW_COLUMNS, values, strict=True))


def views_of(row: Any) -> Views | None:
    """Return the views in a row, an object with the attributes `VIEW_COLUMNS`; None without any."""
    left, left_confidence, right, right_confidence = (getattr(row, name) for name in VIEW_COLUMNS)
    if left is None or right is None:
        return None
    return Views(View(left, left_confidence or 0.0), View(right, right_confidence or 0.0))


def view_numbers(views: Views | None, names: Sequence[str]) -> tuple[float, ...]:
    """Return views as numbers: index of the label and confidence, of each view.

    Args:
        views: the views.
        names: of the labels of a model.
    """
    if views is None:
        return NO_VIEWS
    return tuple(n for view in views for n in (float(names.index(view.label)), view.confidence))


def views_from_numbers(numbers: Sequence[float], names: Sequence[str]) -> Views | None:
    """Return the views in the result of `view_numbers`."""
    left, left_confidence, right, right_confidence = numbers
    if math.isnan(left):
        return None
    return Views(View(names[int(left)], left_confidence), View(names[int(right)], right_confidence))


def view_number_arrays(table: pa.Table, names: Sequence[str]) -> list[npt.NDArray[np.float32]]:
    """Return `view_numbers` of rows, an array float32[N] for each of `VIEW_COLUMNS`.

    Args:
        table: has `VIEW_COLUMNS`.
        names: of the labels of a model.
    """
    known = pa.array(names, pa.string())
    arrays = []
    for name in VIEW_COLUMNS:
        is_label = pa.types.is_string(table.schema.field(name).type)
        values = pc.index_in(table[name], known) if is_label else table[name]
        arrays.append(values.to_numpy().astype(np.float32))
    return arrays


def with_views(
    table: pa.Table, names: Sequence[str], numbers: Sequence[npt.NDArray[np.float32]]
) -> pa.Table:
    """Return a table with other views.

    Args:
        table: has `VIEW_COLUMNS`.
        names: of the labels of a model.
        numbers: as `view_number_arrays`.
    """
    known = pa.array(names, pa.string())
    for name, values in zip(VIEW_COLUMNS, numbers, strict=True):
        column = table.schema.field(name)
        array = pa.array(values, pa.float32(), from_pandas=True)  # NaN becomes null
        if pa.types.is_string(column.type):
            array = known.take(array.cast(pa.int32()))
        table = table.set_column(table.column_names.index(name), column, array)
    return table
