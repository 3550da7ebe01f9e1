"""The outputs of every source: references in `REFS`, failures in `FAILED`, skipped names in `SKIPPED`."""

from __future__ import annotations

from typing import Final, TypeAlias

from apache_beam.pvalue import TaggedOutput

import transforms.coders  # noqa: F401  # registers the coders of its elements
from transforms.config.route_config import RouteConfig
from transforms.core.object_ref import FAILED, Failure, ObjectRef, failure_of
from transforms.core.reasons import ProcessingFailure, Stage
from transforms.core.storage_failures import read_failure
from transforms.metrics import CounterName, count, count_failed
from transforms.storage.selection import Skipped

REFS: Final = "refs"
"""Tag of the output of references."""
SKIPPED: Final = "skipped"
"""Tag of the output of skipped names: the reason, a `Skip`, of each."""
SourceOutput: TypeAlias = ObjectRef | TaggedOutput[str, Failure] | TaggedOutput[str, str]
"""What sources emit: a reference, or a failure or reason with the tag `FAILED` or `SKIPPED`."""


def to_output(
    found: ObjectRef | OSError | ProcessingFailure | Skipped, uri: str, config: RouteConfig
) -> SourceOutput:
    """Count the result of listing or looking up `uri`, and return the element to emit for it.

    Returns:
        The reference, a `Failure` with the tag `FAILED`, or why a name is skipped with the tag `SKIPPED`.
    """
    if isinstance(found, ObjectRef):
        count(CounterName.DISCOVERED)
        return found
    if isinstance(found, Skipped):
        return TaggedOutput(SKIPPED, str(found.why))
    error = read_failure(found, Stage.FETCH) if isinstance(found, OSError) else found
    count_failed(error.reason)
    return TaggedOutput(FAILED, failure_of(uri, error, log_uris=config.log_uris))
