"""The outputs of every source: references in `REFS`, failures in `FAILED`."""

from __future__ import annotations

from typing import Final, Literal, TypeAlias

from apache_beam.pvalue import TaggedOutput

import transforms.coders  # noqa: F401  # registers the coders of its elements
from transforms.config.route_config import RouteConfig
from transforms.core.object_ref import FAILED, Failure, ObjectRef, failure_of
from transforms.core.reasons import Stage
from transforms.core.storage_failures import read_failure
from transforms.metrics import CounterName, count, count_failed

REFS: Final = "refs"
"""Tag of the output of references."""
SourceOutput: TypeAlias = ObjectRef | TaggedOutput[Literal["failed"], Failure]
"""What sources emit: a reference, or a failure with the tag `FAILED`."""


def to_output(found: ObjectRef | OSError, uri: str, config: RouteConfig) -> SourceOutput:
    """Count the result of listing or looking up `uri`, and return the element to emit for it.

    Returns:
        The reference, or a `Failure` with the tag `FAILED`.
    """
    if isinstance(found, ObjectRef):
        count(CounterName.DISCOVERED)
        return found
    error = read_failure(found, Stage.FETCH)
    count_failed(error.reason)
    return TaggedOutput(FAILED, failure_of(uri, error, log_uris=config.log_uris))
