"""The labels of the models that have decided in a lake: `label_sets/<digest>.json`.

Reports and reviews of a lake need no model bundle: they find the labels here. A lake whose models all
have the default labels has no such file.
"""

from __future__ import annotations

import functools
import hashlib
import json
from typing import Final

from transforms.core.labels import DEFAULT_LABELS, LabelSet
from transforms.lake.files import list_files, put_if_absent, read_json
from transforms.lake.index_files import list_index
from transforms.lake.layout import Layout
from transforms.storage.schemes import join

DIGEST_LENGTH: Final = 16


def record_label_set(layout: Layout, labels: LabelSet) -> None:
    """Record the labels of a model that decides in a lake. Idempotent.

    Args:
        layout: the lake, which is open for writing.
        labels: of the model.

    Raises:
        ProcessingFailure: the lake's storage refused a write.
    """
    known = list_files(layout.label_sets, ".json")
    if labels == DEFAULT_LABELS and not known:
        return
    if not known and list_index(layout):
        _write(layout, DEFAULT_LABELS)
    _write(layout, labels)


def read_label_set(layout: Layout) -> LabelSet:
    """Return the labels of all models that have decided in a lake, the default ones first.

    Raises:
        OSError: the lake cannot be read.
    """
    found = [
        LabelSet.from_json(read_json(one.uri))
        for one in sorted(list_files(layout.label_sets, ".json"), key=lambda one: one.uri)
    ]
    found.sort(key=lambda labels: labels != DEFAULT_LABELS)
    return functools.reduce(LabelSet.union, found) if found else DEFAULT_LABELS


def _write(layout: Layout, labels: LabelSet) -> None:
    data = (json.dumps(labels.to_json(), indent=2, sort_keys=True) + "\n").encode()
    name = f"{hashlib.sha256(data).hexdigest()[:DIGEST_LENGTH]}.json"
    put_if_absent(
        join(layout.label_sets, name), data, scratch=layout.scratch(), file_mode=layout.file_mode
    )
