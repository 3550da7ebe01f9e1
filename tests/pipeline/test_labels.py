"""Step labels do not change: engines match the saved state of a job with steps by their labels.

`python -m tests.pipeline.test_labels` writes the golden files.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import apache_beam as beam
import pytest

from pipeline.sources.periodic_trigger import FLINK, PERIODIC
from tests.graphs import batch, proto_of, streaming

GOLDEN = Path(__file__).parent / "golden"
GRAPHS: dict[str, Callable[[], beam.Pipeline]] = {
    "batch": batch,
    "streaming": lambda: streaming(PERIODIC),
    "streaming-on-flink": lambda: streaming(FLINK),
}
CHANGED = """the labels of the {name} graph are no longer those of {file}.
Flink's savepoints and Dataflow's updates match steps by label: a running job cannot be moved to a graph
with other labels, or only with --transform_name_mapping. If the change is intended, run
'python -m tests.pipeline.test_labels' and note in CHANGELOG.md that jobs must be drained first."""


def file_of(name: str) -> Path:
    return GOLDEN / f"labels-{name}.txt"


def labels_of(name: str) -> list[str]:
    """Full names of all steps, sorted; the root has none."""
    transforms = proto_of(GRAPHS[name]()).components.transforms.values()
    return sorted(t.unique_name for t in transforms if t.unique_name)


@pytest.mark.parametrize("name", GRAPHS)
def test_labels_stay_as_they_are(name: str) -> None:
    expected, found = file_of(name).read_text().splitlines(), labels_of(name)
    gone, new = sorted(set(expected) - set(found)), sorted(set(found) - set(expected))
    message = CHANGED.format(name=name, file=file_of(name).name)
    assert (gone, new) == ([], []), f"{message}\ngone: {gone}\nnew: {new}"
    assert found == expected, message


if __name__ == "__main__":
    for graph in GRAPHS:
        file_of(graph).write_text("".join(f"{label}\n" for label in labels_of(graph)))
        print(file_of(graph))
