"""What every source gives: references, and the failures of what could not be looked at."""

from __future__ import annotations

from typing import Any, Final

from apache_beam import pvalue

from transforms.config.route_config import RouteConfig
from transforms.core.object_ref import FAILED, ObjectRef, failure_of, processing_failure
from transforms.core.reasons import Stage
from transforms.metrics import CounterName, count, count_failed

REFS: Final = "refs"
"""Tag of a source's references."""


def discovered(found: ObjectRef | OSError, uri: str, config: RouteConfig) -> Any:
    """Count what was found, and tag it if it is an error of looking at `uri`."""
    if isinstance(found, ObjectRef):
        count(CounterName.DISCOVERED)
        return found
    error = processing_failure(found, Stage.FETCH)
    count_failed(error.reason)
    why = failure_of(uri, error, log_uris=config.log_uris)
    return pvalue.TaggedOutput(FAILED, why)
