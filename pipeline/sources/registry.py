"""The sources by the value of `--source`."""

from __future__ import annotations

from collections.abc import Callable, Generator
from functools import partial
from typing import Any, Final

import apache_beam as beam
from apache_beam.pvalue import DoOutputsTuple

from pipeline.sources.dicomweb import QueryDicomWeb, queried_instances
from pipeline.sources.files import MatchFiles, listed_files
from pipeline.sources.manifest import ReadManifests, listed_entries
from pipeline.sources.outputs import SourceOutput
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

LISTINGS: Final[dict[str, Callable[[RouteConfig], Generator[SourceOutput, None, None]]]] = {
    FILES: listed_files,
    MANIFEST: listed_entries,
    DICOMWEB: queried_instances,
}
"""The elements of batch sources, listed in this process, by value of `--source`."""
