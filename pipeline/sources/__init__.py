"""Where objects are discovered; each source is one module and one `PTransform` of the same shape."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Final

import apache_beam as beam

from pipeline.sources.files import MatchFiles
from pipeline.sources.manifest import ReadManifests
from pipeline.sources.poller import PollInputs
from pipeline.sources.pubsub import Subscription
from pipeline.sources.watch import Watcher
from transforms.config.route_config import FILES, MANIFEST, PUBSUB, WATCH, RouteConfig

SOURCES: Final[dict[str, Callable[[RouteConfig], beam.PTransform]]] = {
    FILES: MatchFiles,
    MANIFEST: ReadManifests,
    WATCH: partial(PollInputs, poller=Watcher),
    PUBSUB: partial(PollInputs, poller=Subscription),
}
"""The source that `--source` means; the streaming ones look when the clock of `triggers` says so."""
