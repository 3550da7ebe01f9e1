"""Ids of runs."""

from __future__ import annotations

import time
import uuid


def new_run_id() -> str:
    """Return an id for a run or a change of decisions; it sorts by time."""
    return f"{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}-{uuid.uuid4().hex[:8]}"
