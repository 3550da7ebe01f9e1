"""The Python API: route objects, read decisions, decide single objects, and the steps for Beam pipelines.

Importing it is cheap: PyTorch, Beam and PyArrow are imported when they are needed. It changes neither
signal handlers nor logging. `pipeline.api.steps` has the steps for pipelines of your own.
"""

from __future__ import annotations

from pipeline.api.decide import Decider
from pipeline.api.lake import Decisions, Lake
from pipeline.api.options import ObjectKeywords, RouteKeywords
from pipeline.api.routing import IncompleteRun, RouteFailed, RunSummary, route
from transforms.core.errors import UsageError

__all__ = [
    "Decider",
    "Decisions",
    "IncompleteRun",
    "Lake",
    "ObjectKeywords",
    "RouteFailed",
    "RouteKeywords",
    "RunSummary",
    "UsageError",
    "route",
]
