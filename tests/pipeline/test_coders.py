"""Coders of what crosses a shuffle: no pickles, and bytes that later releases decode.

`python -m tests.pipeline.test_coders` adds records that are new to the golden file. What is there
stays: savepoints of earlier releases hold such bytes.
"""

from __future__ import annotations

import json
import pickle
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import apache_beam as beam
import numpy as np
import pytest
from apache_beam.coders import typecoders
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.portability import common_urns
from apache_beam.portability.api import beam_runner_api_pb2
from apache_beam.runners.pipeline_context import PipelineContext

from pipeline.sources.periodic_trigger import FLINK, PERIODIC
from tests.graphs import batch, proto_of, streaming
from transforms.coders import CODECS, ArrayCoder, RecordCoder
from transforms.core.manifest_part import ManifestPart
from transforms.core.object_ref import Failure, ObjectRef
from transforms.core.record_batch import RecordBatch
from transforms.lake.existing_rows import ExistingRow, ExistingVersion
from transforms.lake.run_counts import RunCounts
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
    "ExistingRow": ExistingRow(
        source_uri="/in/a.dcm",
        source_version="5-7",
        model_id=None,
        status="quarantined",
        destination="quarantine",
        object_uri="quarantine/ab/abab.dcm",
        sop_instance_uid=None,
        content_sha256="ab" * 32,
    ),
    "ExistingVersion": ExistingVersion("/in/a.dcm", "5-7", "m", "p", "review"),
    "ManifestPart": ManifestPart(1, "/in/list.csv", "5-7", 5, "csv", columns=("uri", "size")),
    "RecordBatch": RecordBatch("refs", 3, b"\x00\x01"),
    "RunCounts": RunCounts(
        counts=Counter({"routed": 2, "failed": 1}),
        destinations=Counter({"spine": 2}),
        reasons=Counter({("routed", "decide", "confident"): 2}),
        conflicts=1,
        size_bytes=2**40,
        failures=(Failure("0123456789ab", "fetch", "changed", ""),),
    ),
}
GRAPHS: dict[str, Callable[[], beam.Pipeline]] = {
    "batch": batch,
    "streaming": lambda: streaming(PERIODIC),
    "streaming-on-flink": lambda: streaming(FLINK),
}
FALLBACK = re.compile("FastPrimitives|Pickle")
OF_BEAM = {
    r"/ReshufflePerKey/.*NullableCoder\[FastPrimitivesCoder\], PaneInfoCoder": "timestamps or None",
    r"RunInference.*\[RecordCoder, FastPrimitivesCoder\]": "PredictionResult",
    r"^PeriodicTrigger/Impulse/.*": "what PeriodicImpulse makes its timestamps of",
    r"/(KeyWithVoid|CombinePerKey/.*): TupleCoder\[\w*FastPrimitives\w*, ": "None, the key of all",
    r"/DoOnce/Map\(decode\): .*": "None",
    r"^(LogFailures|SweepJournal): .*": "no elements, or None",
}
"""Fallback coders of elements that are none of ours, by the step and its coder, and what they are."""


def fallbacks(pipeline: beam.Pipeline) -> dict[str, str]:
    """Steps with elements of ours that Beam encodes by a fallback coder, and the coders of those."""
    proto = proto_of(pipeline)
    coders = PipelineContext(proto.components).coders
    found = {}
    for step in proto.components.transforms.values():
        for output in () if step.subtransforms else step.outputs.values():
            coder = str(coders.get_by_id(proto.components.pcollections[output].coder_id))
            named = f"{step.unique_name}: {coder}"
            for pattern in OF_BEAM:
                named = re.sub(pattern, "", named)
            if FALLBACK.search(named):
                found[step.unique_name] = coder
    return found


@pytest.mark.parametrize("graph", GRAPHS)
def test_every_element_has_a_coder_of_its_own(graph: str) -> None:
    assert fallbacks(GRAPHS[graph]()) == {}


def coders_of_stateful_steps(pipeline: beam.Pipeline) -> dict[str, str]:
    """Return the coder of the elements of each step that keeps state."""
    proto = proto_of(pipeline)
    coders = PipelineContext(proto.components).coders
    found = {}
    for step in proto.components.transforms.values():
        if step.spec.urn == common_urns.primitives.PAR_DO.urn:
            payload = beam_runner_api_pb2.ParDoPayload.FromString(step.spec.payload)
            if payload.state_specs:
                (elements,) = step.inputs.values()
                coder_id = proto.components.pcollections[elements].coder_id
                found[step.unique_name] = str(coders.get_by_id(coder_id))
    return found


@pytest.mark.parametrize("impulse", [PERIODIC, FLINK])
def test_nothing_is_pickled_into_state(impulse: str) -> None:
    """GroupIntoBatches encodes its state by a fallback coder, which pickles all but built-in types."""
    found = coders_of_stateful_steps(streaming(impulse))
    assert any(name.startswith("BatchRefs/") for name in found)
    assert set(found.values()) == {"TupleCoder[VarIntCoder, BytesCoder]"}


def test_sizes_are_estimated_without_encoding_each_record() -> None:
    coder = RecordCoder(IndexRow)
    size = len(coder.encode(ROW))
    assert [coder.estimate_size(row) for row in (ROW, replace(ROW, reason="x" * 100))] == [size] * 2
    assert ArrayCoder().estimate_size(np.zeros((1, 128, 128), np.uint8)) == 128 * 128


def test_an_element_without_a_coder_of_its_own_is_found() -> None:
    pipeline = beam.Pipeline(options=PipelineOptions(["--runner=FnApiRunner"]))
    _ = pipeline | beam.Create([1]) | "Any" >> beam.Map(lambda n: object())
    assert fallbacks(pipeline) == {"Any": "FastPrimitivesCoder"}


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
