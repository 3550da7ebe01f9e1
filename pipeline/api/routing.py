"""Route objects from a program or a notebook."""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Unpack

from pipeline.api.options import RouteKeywords, StrPath
from pipeline.api.route_process import Finished, run_process
from pipeline.exit_codes import DONE, EXIT_CODES, FAILED, SIGNALLED, UNEXPECTED, USAGE
from pipeline.summaries import unmet_lines
from transforms.core.choices import FILES, MANIFEST
from transforms.core.errors import UsageError

MAX_PATTERNS: Final = 1000
"""Maximum number of inputs that may be folders and globs. More are a list of objects."""


class RouteFailed(RuntimeError):
    """A run has failed; the message has the cause and the remedy. Running it again completes the lake."""


class IncompleteRun(RouteFailed):
    """A run has ended, but objects have failed. Running it again completes the lake.

    Attributes:
        summary: summary of the run.
    """

    def __init__(self, message: str, summary: RunSummary) -> None:
        super().__init__(message)
        self.summary = summary


@dataclass(frozen=True)
class RunSummary:
    """The summary of a run.

    Attributes:
        run_id: id of the run, as in the index.
        complete: whether every discovered object has a row or was unchanged.
        counts: number of objects by term of the equation: discovered, routed, review, not_xray,
            quarantined, duplicate, unchanged, failed, and others.
        equation: the completeness equation, such as `3 discovered = 2 routed + 1 review`.
        destinations: number of objects by sink.
        unmet: expectations of the policy that are not met, as text.
        exit_code: what the command line would exit with: 0, 1 or 3.
        values: everything that `dicom-router route --json` prints.
    """

    run_id: str
    complete: bool
    counts: Mapping[str, int]
    equation: str
    destinations: Mapping[str, int]
    unmet: Sequence[str]
    exit_code: int
    values: Mapping[str, Any] = field(repr=False)

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> RunSummary:
        """Return the summary with these values, as printed with `--json`."""
        unmet = [line.strip() for line in unmet_lines(values)]
        code = UNEXPECTED if unmet else DONE
        return cls(
            run_id=values["run_id"],
            complete=values["complete"],
            counts=values["counts"],
            equation=values["equation"],
            destinations=values["destinations"],
            unmet=unmet,
            exit_code=code if values["complete"] else FAILED,
            values=values,
        )

    @property
    def exit_meaning(self) -> str:
        """Meaning of `exit_code`."""
        return EXIT_CODES[self.exit_code]


def route(
    inputs: StrPath | Iterable[StrPath],
    lake: StrPath,
    *,
    check: bool = True,
    beam_options: Sequence[str] = (),
    **options: Unpack[RouteKeywords],
) -> RunSummary:
    """Route objects into a lake, as `dicom-router route` does, and return the run's summary.

    The run is a process of its own, which ends with this one. An interrupt (`KeyboardInterrupt`) ends
    it at once; the next run completes the lake. Signal handlers, logging and memory of this process are
    not touched. Warnings of the run are logged by the logger `dicom_router`. A run with a streaming
    source continues until it is interrupted or stopped by `dicom-router stop`, and then returns.

    Args:
        inputs: paths or URIs of objects, folders or globs. More than 1000 are objects only; the iterable
            is read while the run reads it, and may be a generator of millions.
        lake: root of the lake: a folder, or a gs:// or s3:// URI as str.
        check: whether to raise an error if the run is incomplete.
        beam_options: options of Beam as command line arguments, such as `--direct_num_workers=2`.
        **options: options of `route`, named as on the command line; see docs/options.md.

    Returns:
        The summary, also if an expectation of the policy is not met; see `RunSummary.unmet`.

    Raises:
        UsageError: an option, the model, the policy or an input cannot be used; nothing was started.
        IncompleteRun: objects have failed.
        RouteFailed: the run has failed.
        KeyboardInterrupt: the run was interrupted; the next one completes the lake.
    """
    patterns, objects = _split(inputs)
    given: dict[str, Any] = dict(options)
    if objects is not None:
        if given.get("source", FILES) != FILES:
            raise UsageError(
                f"inputs: more than {MAX_PATTERNS} are objects; give a list of them for source="
                f"{given['source']!r} in one manifest"
            )
        patterns, given["source"] = ["-"], MANIFEST
    arguments = [
        *(f"--input={_text(one)}" for one in patterns),
        f"--lake={_text(lake)}",
        *_arguments(given),
        *beam_options,
    ]
    return _summary_of(run_process(arguments, objects), check=check)


def _split(
    inputs: StrPath | Iterable[StrPath],
) -> tuple[list[StrPath], Iterator[bytes] | None]:
    """Return patterns, or no patterns and the lines of a manifest of objects."""
    if isinstance(inputs, (str, os.PathLike)):
        return [inputs], None
    remaining = iter(inputs)
    first = list(itertools.islice(remaining, MAX_PATTERNS + 1))
    if not first:
        raise UsageError("inputs: the list is empty; give at least one object, folder or glob")
    if len(first) <= MAX_PATTERNS:
        return first, None
    return [], map(_line, itertools.chain(first, remaining))


def _line(path: StrPath) -> bytes:
    text = _text(path)
    if "\n" in text or "\r" in text:
        raise UsageError("inputs: a name with a line break cannot be in a list; give its folder")
    return os.fsencode(text) + b"\n"


def _text(value: object) -> str:
    return os.fspath(value) if isinstance(value, os.PathLike) else str(value)


def _arguments(options: Mapping[str, Any]) -> Iterator[str]:
    """Yield options as arguments; None stands for the default."""
    for name, value in options.items():
        if isinstance(value, bool):
            if value:
                yield f"--{name}"
        elif isinstance(value, (list, tuple)):
            yield from (f"--{name}={_text(one)}" for one in value)
        elif value is not None:
            yield f"--{name}={_text(value)}"


def _summary_of(finished: Finished, *, check: bool) -> RunSummary:
    """Return the summary that a run has printed, or raise the error that it reported."""
    code, message = finished.code, finished.message
    if finished.output.strip():
        summary = RunSummary.of(json.loads(finished.output))
        if check and not summary.complete:
            raise IncompleteRun(message, summary)
        return summary
    if code == USAGE:
        raise UsageError(message)
    if code < 0:
        message = f"signal {-code} killed the run; route again to complete the lake"
    elif code > SIGNALLED:
        message = "the run was interrupted; route again to complete the lake"
    raise RouteFailed(message or f"the run ended with exit code {code} and no message")
