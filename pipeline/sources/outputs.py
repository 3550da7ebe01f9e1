"""The outputs of every source: references in `REFS`, failures in `FAILED`, counts in `SKIPPED`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final, TypeAlias

from apache_beam.pvalue import TaggedOutput

import transforms.coders  # noqa: F401  # registers the coders of its elements
from transforms.config.route_config import RouteConfig
from transforms.core.object_ref import FAILED, Failure, ObjectRef, failure_of
from transforms.core.reasons import ProcessingFailure, Stage
from transforms.core.storage_failures import read_failure
from transforms.lake.run_counts import RunCounts
from transforms.metrics import CounterName, count, count_failed
from transforms.storage.archive_names import is_member

REFS: Final = "refs"
"""Tag of the output of references."""
SKIPPED: Final = "skipped"
"""Tag of the output of counts: `RunCounts` of skipped names, or of known references that are left out."""
SourceOutput: TypeAlias = ObjectRef | TaggedOutput[str, Failure] | TaggedOutput[str, RunCounts]
"""What sources emit: a reference, or with a tag a failure (`FAILED`) or counts (`SKIPPED`)."""


def to_output(
    found: ObjectRef | OSError | ProcessingFailure, uri: str, config: RouteConfig
) -> SourceOutput:
    """Count the result of listing or looking up `uri`, and return the element to emit for it.

    Returns:
        The reference, or a `Failure` with the tag `FAILED`.
    """
    if isinstance(found, ObjectRef):
        count(CounterName.DISCOVERED)
        return found
    error = read_failure(found, Stage.FETCH) if isinstance(found, OSError) else found
    count_failed(error.reason)
    return TaggedOutput(FAILED, failure_of(uri, error, log_uris=config.log_uris))


def skipped_outputs(numbers: Mapping[str, int]) -> Iterator[SourceOutput]:
    """Yield the elements to emit for skipped names; few, as each is a record of its own.

    Args:
        numbers: number of names by `Skip`.
    """
    for why, number in numbers.items():
        yield TaggedOutput(SKIPPED, RunCounts.of_skipped(str(why), number))


def may_pause_before(following: SourceOutput) -> bool:
    """Return whether a listing may pause before an element, while what it has listed is routed.

    Not before counts of skipped names, which end a listing, nor between the members of an archive: no
    other thread can read it until they are listed. Counts of known references begin where it may pause.
    """
    if isinstance(following, TaggedOutput):
        counted = following.value
        return not isinstance(counted, RunCounts) or counted.counts["unchanged"] > 0
    return not is_member(following.uri)
