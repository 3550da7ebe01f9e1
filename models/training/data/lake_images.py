"""Images of a lake with the answers of reviewers: labelled data of the site itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from transforms.lake.index_files import open_index_file, read_batches, read_index
from transforms.lake.labels import (
    OTHER_ANSWERS,
    EffectiveLabel,
    Label,
    effective_labels,
    read_labels,
)
from transforms.lake.layout import MARKER, Layout
from transforms.lake.probabilities import PROBABILITY_COLUMNS, probability_arrays
from transforms.lake.resolve_duplicates import NEVER_FIRST
from transforms.lake.schema import SCHEMA
from transforms.storage.local import uri_to_path
from transforms.storage.schemes import is_local

COLUMNS: Final = (
    "content_sha256", "object_key", "object_uri", "destination", "header_label", "patient_key",
    "study_instance_uid", "patient_age_years", "model_id", "ood_score",
    "predicted_label", *PROBABILITY_COLUMNS,
)  # fmt: skip


class LakeImages(NamedTuple):
    """The images of a lake that a model has classified, and the answers about them.

    Attributes:
        table: `COLUMNS` of the first row of each content.
        labels: effective answers by content_sha256, also about contents without a row.
        first: first answer about each content, with what was shown before a person had decided.
    """

    table: pa.Table
    labels: Mapping[str, EffectiveLabel]
    first: Mapping[str, Label]

    def answers(self) -> list[tuple[int, Label]]:
        """Return the position in `table` of each image that has an answer, and the answer."""
        contents = self.table["content_sha256"].to_pylist()
        found = [(position, self.labels.get(content)) for position, content in enumerate(contents)]
        return [(position, one.label) for position, one in found if one and one.label]

    def having(self, names: Sequence[str]) -> LakeImages:
        """Return the images with probabilities of these labels.

        Args:
            names: of the labels of a model.
        """
        is_known = pc.is_valid(probability_arrays(self.table, names)[0])
        return self._replace(table=self.table.filter(is_known))


def is_lake(path: Path) -> bool:
    """Return whether a folder is the root of a lake."""
    return (path / MARKER).is_file()


def read_lake_images(layout: Layout) -> LakeImages:
    """Return the classified images of a lake and the answers about them.

    Raises:
        DamagedFile: a file of the lake cannot be read.
        OSError: a folder cannot be listed.
    """

    def read(files: Sequence[str]) -> pa.Table:
        found = [pa.schema([SCHEMA.field(name) for name in COLUMNS]).empty_table()]
        for uri in files:
            with open_index_file(uri) as file:
                for rows in read_batches(file, [*COLUMNS, "status"]):
                    never = pc.is_in(rows["status"], value_set=pa.array(sorted(NEVER_FIRST)))
                    classified = pc.is_valid(rows["predicted_label"])
                    rows = rows.filter(pc.and_(pc.invert(never), classified))
                    found.append(rows.select(COLUMNS))
        return pa.concat_tables(found, promote_options="permissive")

    table = read_index(layout, read)
    labels = read_labels(layout)
    first = {label.content_sha256: label for label in reversed(labels)}
    return LakeImages(_first_of_each_content(table), effective_labels(labels), first)


def group_of(row: Mapping[str, Any]) -> str:
    """Return the patient of an image, or the closest known: `patient_key`, study, or content."""
    return str(row["patient_key"] or row["study_instance_uid"] or row["content_sha256"])


class AnsweredObject(NamedTuple):
    """A stored object whose body part a reviewer has named.

    Attributes:
        path: None if it is not a local file.
        object_key: names it in messages.
        label: the answer.
        group: as `group_of`.
        age_years: of the patient, or None.
    """

    path: Path | None
    object_key: str
    label: str
    group: str
    age_years: float | None


def answered_objects(root: Path) -> list[AnsweredObject]:
    """Return the objects of a lake whose answers name a body part, in order of their content.

    Raises:
        DamagedFile: a file of the lake cannot be read.
        OSError: a folder cannot be listed.
    """
    layout = Layout(str(root.resolve()))
    images = read_lake_images(layout)
    named = [(at, label) for at, label in images.answers() if label.answer not in OTHER_ANSWERS]
    rows = images.table.take(pa.array([at for at, _ in named], pa.int64())).to_pylist()
    found = []
    for row, (_, label) in zip(rows, named, strict=True):
        uri = layout.absolute(row["object_uri"])
        path = Path(uri_to_path(uri)) if is_local(uri) else None
        age = row["patient_age_years"]
        found.append(AnsweredObject(path, row["object_key"], label.answer, group_of(row), age))
    return found


def _first_of_each_content(table: pa.Table) -> pa.Table:
    """Return a table in order of content; the same content can have rows of several sources."""
    numbered = table.append_column("at", pa.array(range(len(table)), pa.int64()))
    first = numbered.group_by("content_sha256").aggregate([("at", "min")])
    return table.take(first.sort_by("content_sha256")["at_min"])
