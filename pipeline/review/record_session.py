"""Write the state of a review into its lake while it is open, for `dicom-router status`."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

from pipeline.review.applier import Progress
from transforms.core.run_id import new_run_id
from transforms.lake.layout import Layout
from transforms.lake.run_state import LAUNCHER, REVIEWS, StateWriter, clear_ended_reviews

INTERVAL_S: Final = 30.0


class RecordSession:
    """Write the state of a review every `INTERVAL_S`, without who reviews.

    Args:
        layout: the lake.
        port: at which the review listens.
        images: returns the number of images that wait.
        progress: returns what has become of the answers.
        clock: returns seconds.
    """

    def __init__(
        self,
        layout: Layout,
        port: int,
        images: Callable[[], int],
        progress: Callable[[], Progress],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._writer = StateWriter(layout, new_run_id(), LAUNCHER, REVIEWS)
        self._port, self._images, self._progress = port, images, progress
        self._clock, self._started_at = clock, time.time()
        self._written_at: float | None = None
        clear_ended_reviews(layout)

    def update(self) -> None:
        """Write the state if it is time to."""
        now = self._clock()
        if self._written_at is not None and now - self._written_at < INTERVAL_S:
            return
        self._written_at = now
        progress = self._progress()
        self._writer.write(
            started_at=self._started_at,
            interval_s=INTERVAL_S,
            port=self._port,
            images=self._images(),
            changed=progress.changed,
            waiting=progress.waiting,
            problem=progress.problem,
        )

    def close(self) -> None:
        """Remove the state."""
        self._writer.remove()
