"""Ids of runs."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime


def new_run_id() -> str:
    """Return an id for a run or a change of decisions.

    Ids sort by time, to the microsecond: the latest run of a lake is the last by name.
    """
    return f"{datetime.now(UTC):%Y%m%dT%H%M%SZ-%f}-{uuid.uuid4().hex[:8]}"
