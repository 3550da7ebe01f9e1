"""The two outputs of every source: references in `REFS`, failures in `FAILED`."""

from __future__ import annotations

from typing import Any, Final

from apache_beam import pvalue

import transforms.coders  # noqa: F401  # registers the coders of its elements
from transforms.config.route_config import RouteConfig
from transforms.core.object_ref import FAILED, ObjectRef, failure_of
from transforms.core.reasons import Stage
from transforms.core.storage_failures import read_failure
from transforms.metrics import CounterName, count, count_failed

REFS: Final = "refs"
"""Tag of the output of references."""


def to_output(found: ObjectRef | OSError, uri: str, config: RouteConfig) -> Any:
    """Count what listing or looking up `uri` gave, and return the element to emit for it.

    Returns:
        The reference, or a `Failure` with the tag `FAILED`.
    """
    if isinstance(found, ObjectRef):
        count(CounterName.DISCOVERED)
        return found
    error = read_failure(found, Stage.FETCH)
    count_failed(error.reason)
    return pvalue.TaggedOutput(FAILED, failure_of(uri, error, log_uris=config.log_uris))
