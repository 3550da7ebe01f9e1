"""Coders of what crosses a shuffle: no pickles, and bytes that later releases decode.

`python -m tests.pipeline.test_coders` adds records that are new to the golden file. What is there
stays: savepoints of earlier releases hold such bytes.
"""

from __future__ import annotations

import json
import pickle
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import apache_beam as beam
import numpy as np
import pytest
from apache_beam.coders import Coder, typecoders
from apache_beam.runners.pipeline_context import PipelineContext

from pipeline.sources.periodic_trigger import FLINK, PERIODIC
from tests.graphs import batch, proto_of, streaming
from transforms.coders import CODECS, RecordCoder
from transforms.core.object_ref import Failure, ObjectRef
from transforms.lake.schema import IndexRow

GOLDEN = Path(__file__).parent / "golden" / "records-v1.json"
ROW = IndexRow(
    run_id="20260102T030405Z-abcdef",
    object_key="0123456789ab",
    ingest_date="2026-01-02",
    ingested_at=1_767_323_045_000_001,
    router_version="0.2.0",
    source_uri="gs://hospital/incoming/\u00fc.dcm",
    source_version="1767323000000000",
    source_size_bytes=2**33,
    content_sha256="ab" * 32,
    status="routed",
    conflict=False,
    confidence=0.75,
    rows=2048,
    event_time=1_767_323_000.5,
)
EXAMPLES: dict[str, Any] = {
    "ObjectRef": ObjectRef("s3://hospital/a.dcm", "v1", 2**33, 1_767_323_000.5),
    "Failure": Failure("0123456789ab", "fetch", "changed", "", "/in/a.dcm"),
    "IndexRow": ROW,
}
GRAPHS: dict[str, Callable[[], beam.Pipeline]] = {
    "batch": batch,
    "streaming": lambda: streaming(PERIODIC),
    "streaming-on-flink": lambda: streaming(FLINK),
}
TYPED_STEPS = ("Discover/", "Gather/", "Fetch/", "Classify/", "PlaceFilms/", "PlaceOthers/")
"""Steps whose elements are checked."""
UNTYPED = {
    r"Fetch/BatchRefs/": "references of a batch run: their steps are still to be typed",
    r"RunInference/BeamML_RunInference": "Beam's PredictionResult, which the next step takes in",
}
"""Elements without a coder of their own, by the name of the step that emits them, and why."""


def nested(coder: Coder) -> Iterator[Coder]:
    """A coder and all those that it consists of."""
    yield coder
    for component in coder._get_component_coders() or ():
        yield from nested(component)


def untyped_steps(pipeline: beam.Pipeline) -> dict[str, Coder]:
    """Steps with elements that Beam encodes by its fallback coder, and the coders of those."""
    proto = proto_of(pipeline)
    context = PipelineContext(proto.components)
    found = {}
    for step in proto.components.transforms.values():
        for output in () if step.subtransforms else step.outputs.values():
            coder = context.coders.get_by_id(proto.components.pcollections[output].coder_id)
            if any(re.search("FastPrimitives|Pickle", type(c).__name__) for c in nested(coder)):
                found[step.unique_name] = coder
    return found


@pytest.mark.parametrize("graph", GRAPHS)
def test_every_element_has_a_coder_of_its_own(graph: str) -> None:
    found = {s: c for s, c in untyped_steps(GRAPHS[graph]()).items() if s.startswith(TYPED_STEPS)}
    unexpected = {s: c for s, c in found.items() if not any(re.search(p, s) for p in UNTYPED)}
    assert unexpected == {}


@pytest.mark.parametrize("record_type", CODECS, ids=lambda t: t.__name__)
def test_the_coder_of_a_record_is_deterministic_and_survives_pickling(record_type: type) -> None:
    coder = typecoders.registry.get_coder(record_type)
    assert isinstance(coder, RecordCoder) and coder.is_deterministic()
    assert pickle.loads(pickle.dumps(coder)) == coder
    assert coder.to_type_hint() is record_type
    record = EXAMPLES[record_type.__name__]
    assert coder.decode(coder.encode(record)) == record


@pytest.mark.parametrize("name", EXAMPLES)
def test_records_of_earlier_releases_are_decoded(name: str) -> None:
    example = EXAMPLES[name]
    assert CODECS[type(example)].decode(bytes.fromhex(read_golden()[name])) == example


def test_a_row_without_a_column_that_is_new_is_decoded() -> None:
    encoded = CODECS[IndexRow].encode(replace(ROW, rows=None))
    assert b"number_of_frames" not in encoded and b"\xa4rows" not in encoded
    assert CODECS[IndexRow].decode(encoded) == replace(ROW, rows=None)


@pytest.mark.parametrize("dtype", ["uint8", "float32"])
def test_arrays_keep_their_type_and_shape(dtype: str) -> None:
    image = np.arange(12).reshape(1, 3, 4).astype(dtype)
    coder = typecoders.registry.get_coder(np.ndarray)
    assert coder.to_type_hint() is np.ndarray
    decoded = coder.decode(coder.encode(image))
    assert decoded.dtype == image.dtype and np.array_equal(decoded, image)


def read_golden() -> dict[str, str]:
    golden: dict[str, str] = json.loads(GOLDEN.read_text())
    return golden


if __name__ == "__main__":
    golden = read_golden() if GOLDEN.exists() else {}
    new = {name: CODECS[type(r)].encode(r).hex() for name, r in EXAMPLES.items()}
    GOLDEN.write_text(json.dumps({**new, **golden}, indent=2) + "\n")
