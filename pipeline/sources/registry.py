"""The sources by the value of `--source`."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Final

import apache_beam as beam
from apache_beam.pvalue import DoOutputsTuple

from pipeline.sources.dicomweb import QueryDicomWeb
from pipeline.sources.files import MatchFiles
from pipeline.sources.manifest import ReadManifests
from pipeline.sources.poller import PollInputs
from pipeline.sources.pubsub import Subscription
from pipeline.sources.watch import Watcher
from transforms.config.route_config import RouteConfig
from transforms.core.choices import DICOMWEB, FILES, MANIFEST, PUBSUB, WATCH

SOURCES: Final[dict[str, Callable[[RouteConfig], beam.PTransform[Any, DoOutputsTuple]]]] = {
    FILES: MatchFiles,
    MANIFEST: ReadManifests,
    DICOMWEB: QueryDicomWeb,
    WATCH: partial(PollInputs, poller=Watcher),
    PUBSUB: partial(PollInputs, poller=Subscription),
}
"""Transform by value of `--source`; streaming sources take the elements of `PeriodicTrigger`."""
