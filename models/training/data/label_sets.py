"""The labels of a data set, and what is known of them: anatomic regions, and what headers claim."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from models.training.data.anatomy import region_of
from models.training.data.images import DatasetError, LabeledImage
from transforms.core.errors import did_you_mean
from transforms.core.labels import (
    DEFAULT_LABELS,
    LABELS,
    AgeGroups,
    LabelDefinition,
    LabelSet,
    label_problem,
)
from transforms.imaging.header_label import claimed_region


def find_labels(images: Iterable[LabeledImage]) -> tuple[str, ...]:
    """Return the labels of a data set: the router's own if it has no others, else those it names, sorted.

    Raises:
        DatasetError: A name cannot be a label, or resembles a label of the router that the data set
            lacks, or there is only one.
    """
    found = {image.label for image in images}
    if found <= set(LABELS):
        return LABELS
    problems = [f"label {name!r} {why}" for name in sorted(found) if (why := label_problem(name))]
    for name in sorted(found - set(LABELS)):
        near = did_you_mean(name, LABELS)
        if near and near not in found and found & set(LABELS):
            problems.append(
                f"unknown label {name!r}; did you mean {near}? If it is a label of its own, list all "
                "with --labels"
            )
    if len(found) < 2:
        problems.append(f"only one label, {found.pop()!r}; a model tells at least two apart")
    if problems:
        raise DatasetError("; ".join(problems))
    return tuple(sorted(found))


def define_labels(names: Sequence[str], age_groups: Sequence[str] = ()) -> LabelSet:
    """Return labels with what their names say about them.

    A label that is named like an anatomic region of PS3.16 CID 4031 has its code, and the region that
    headers of such images claim.

    Args:
        names: in order of the network's outputs.
        age_groups: the labels of children and of adults, which the patient's age tells apart, or ().

    Raises:
        DatasetError: `age_groups` are not two of the labels.
    """
    if tuple(names) == LABELS and not age_groups:
        return DEFAULT_LABELS
    if age_groups and (len({*age_groups} & {*names}) != 2 or len(age_groups) != 2):
        raise DatasetError(f"--age_groups: give two of {', '.join(names)}")
    groups = AgeGroups(*age_groups) if age_groups else None
    if groups is None and set(LABELS) <= set(names):
        groups = DEFAULT_LABELS.age_groups
    return LabelSet(tuple(map(_define, names)), groups)


def _define(name: str) -> LabelDefinition:
    for known in DEFAULT_LABELS.labels:
        if known.name == name:
            return known
    return LabelDefinition(name, region_of(name), claimed_region([name.replace("_", " ")]))
