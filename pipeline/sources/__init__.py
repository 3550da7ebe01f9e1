"""Where objects are discovered; each source is one module and one `PTransform` of the same shape."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import apache_beam as beam

from pipeline.sources.files import MatchFiles
from pipeline.sources.manifest import ReadManifests
from pipeline.sources.pubsub import ReadNotifications
from pipeline.sources.watch import Watch
from transforms.config import FILES, MANIFEST, PUBSUB, WATCH, RouteConfig

SOURCES: Final[dict[str, Callable[[RouteConfig], beam.PTransform]]] = {
    FILES: MatchFiles,
    MANIFEST: ReadManifests,
    WATCH: Watch,
    PUBSUB: ReadNotifications,
}
"""The source that `--source` means; the streaming ones look when the clock of `ticks` says so."""
