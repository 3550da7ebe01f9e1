"""What every source gives: references, and the failures of what could not be looked at."""

from __future__ import annotations

from typing import Any, Final

from apache_beam import pvalue

from transforms.config import RouteConfig
from transforms.metrics import Count, count, count_failed
from transforms.reasons import Stage
from transforms.refs import FAILED, ObjectRef, failure_of, unaccounted

REFS: Final = "refs"
"""Tag of a source's references."""


def discovered(found: ObjectRef | OSError, uri: str, config: RouteConfig) -> Any:
    """Count what was found, and tag it if it is an error of looking at `uri`."""
    if isinstance(found, ObjectRef):
        count(Count.DISCOVERED)
        return found
    error = unaccounted(found, Stage.FETCH)
    count_failed(error.reason)
    why = failure_of(uri, error, log_uris=config.log_uris)
    return pvalue.TaggedOutput(FAILED, why)
