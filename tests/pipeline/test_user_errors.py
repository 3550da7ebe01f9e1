"""What ended a job is reported by the type of the exception, whatever its words."""

from __future__ import annotations

import errno
import traceback
from typing import Any

import apache_beam as beam
import duckdb
import pytest
from apache_beam.options.pipeline_options import PipelineOptions

from pipeline.user_errors import to_user_error
from transforms.core.errors import UsageError
from transforms.core.reasons import MEANINGS, ProcessingFailure, Reason, Stage

RUNNERS = ("FnApiRunner", "BundleBasedDirectRunner", "traceback")
"""Runners that raise what a step raised, and the text that workers elsewhere send instead."""
FAULTS: dict[str, Exception] = {
    "failure": ProcessingFailure(Stage.PLACE, Reason.NO_SPACE, "ENOSPC"),
    "usage": UsageError("no usable CUDA device"),
    "system": OSError(errno.ENOSPC, "No space left on device", "/data/DOE^JOHN.dcm"),
    "words": ValueError("softmax: empty axis"),
    "database": duckdb.ConversionException("Could not convert string 'DOE^JOHN' to INT32"),
}


class Fail(beam.DoFn):
    def __init__(self, fault: str) -> None:
        self.fault = fault

    def process(self, element: Any) -> None:
        raise FAULTS[self.fault]


def reported(fault: str, runner: str) -> BaseException:
    name = "FnApiRunner" if runner == "traceback" else runner
    try:
        with beam.Pipeline(options=PipelineOptions([f"--runner={name}"])) as pipeline:
            pipeline | beam.Create([1]) | beam.ParDo(Fail(fault))
    except Exception as error:
        text = traceback.format_exc()
        return to_user_error(RuntimeError(text) if runner == "traceback" else error)
    raise AssertionError("the fault did not end the run")


@pytest.mark.parametrize("runner", RUNNERS)
def test_a_failure_is_reported_with_its_meaning_and_remedy(runner: str) -> None:
    error = reported("failure", runner)
    assert type(error) is RuntimeError
    assert str(error) == "{0.text}; {0.remedy} (place: no_space (ENOSPC))".format(
        MEANINGS[Reason.NO_SPACE]
    )


@pytest.mark.parametrize("runner", RUNNERS)
def test_words_that_are_also_reasons_mean_nothing(runner: str) -> None:
    error = reported("words", runner)
    assert (type(error), str(error)) == (RuntimeError, "softmax: empty axis")


@pytest.mark.parametrize("runner", RUNNERS[:2])
def test_wrong_usage_keeps_its_type(runner: str) -> None:
    error = reported("usage", runner)
    assert (type(error), str(error)) == (UsageError, "no usable CUDA device")


@pytest.mark.parametrize("runner", RUNNERS[:2])
def test_a_database_error_has_a_remedy_and_no_values(runner: str) -> None:
    error = reported("database", runner)
    assert type(error) is RuntimeError
    assert str(error).startswith(
        "the temporary database has failed (ConversionException); give it more memory or disk space"
    )
    assert "DOE" not in str(error)


@pytest.mark.parametrize("runner", RUNNERS)
def test_a_system_error_does_not_name_the_file(runner: str) -> None:
    assert str(reported("system", runner)).endswith("[Errno 28] No space left on device")


@pytest.mark.parametrize(
    "line",
    [
        "ValueError: transforms.core.reasons.ProcessingFailure: place: no_space",
        "transforms.core.reasons.ProcessingFailure: place: unheard_of",
        "    transforms.core.reasons.ProcessingFailure: place: no_space",
        "other.ProcessingFailure: place: no_space",
    ],
)
def test_only_the_line_of_the_very_class_counts(line: str) -> None:
    text = f"Traceback (most recent call last):\n{line}\nValueError: another: empty"
    assert str(to_user_error(RuntimeError(text))) == "another: empty"


def test_an_interrupt_of_a_worker_is_an_interrupt() -> None:
    text = "Traceback (most recent call last):\nKeyboardInterrupt\n\nDuring handling …\nRuntimeError: x"
    assert isinstance(to_user_error(RuntimeError(text)), KeyboardInterrupt)
    text = "Traceback (most recent call last):\nValueError: KeyboardInterrupt"
    assert isinstance(to_user_error(RuntimeError(text)), RuntimeError)


def test_an_error_without_words_is_named_by_its_type() -> None:
    assert str(to_user_error(ZeroDivisionError())) == "ZeroDivisionError"
