"""A Beam pipeline of your own that decides objects and writes a sink of its own.

Usage: own_sink.py OUTPUT [FILE ...]    Writes OUTPUT-….jsonl, a line of JSON for each object.
"""

import json
import sys

import apache_beam as beam
from apache_beam.options.pipeline_options import PipelineOptions
from pydicom.data import get_testdata_file

from pipeline.api.steps import DECIDED, FAILED, DecideObjects, Failure, IndexRow


def to_line(row: IndexRow) -> str:
    """Return what the sink is to have of an object."""
    names = ("object_key", "content_sha256", "status", "destination", "confidence", "reason")
    return json.dumps({name: getattr(row, name) for name in names})


def to_failure_line(failure: Failure) -> str:
    """Return why an object could not be read."""
    return json.dumps({"object_key": failure.object_key, "failed": failure.reason})


def main(output: str, paths: list[str]) -> None:
    """Decide the objects, and write a line for each."""
    # Beam's in-process runner, with which the router is tested; give the options of your engine instead.
    options = PipelineOptions(["--runner=FnApiRunner"])
    with beam.Pipeline(options=options) as pipeline:
        outputs = pipeline | "Paths" >> beam.Create(paths) | "Decide" >> DecideObjects()
        lines = outputs[DECIDED] | "Lines" >> beam.Map(to_line)
        failures = outputs[FAILED] | "FailureLines" >> beam.Map(to_failure_line)
        _ = (
            (lines, failures)
            | "Both" >> beam.Flatten()
            | "Write" >> beam.io.WriteToText(output, file_name_suffix=".jsonl")
        )


if __name__ == "__main__":
    found = [
        str(get_testdata_file(name)) for name in ("RG1_UNCR.dcm", "RG3_J2KI.dcm", "CT_small.dcm")
    ]
    main(sys.argv[1], sys.argv[2:] or found)
