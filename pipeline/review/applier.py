"""Apply answers in the background, several at once, because a rewrite of a partition is costly."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from pipeline.derived import ONLY_REPORTS
from transforms.core.object_ref import format_failure
from transforms.core.reasons import ObjectError
from transforms.lake.apply_labels import LakeInUse, apply_labels
from transforms.lake.label_decisions import contents_to_decide
from transforms.lake.labels import EffectiveLabel
from transforms.lake.layout import Layout
from transforms.lake.schema import IndexRow

LOG: Final = logging.getLogger("dicom_router.review")
ERRORS: Final = (RuntimeError, OSError, ObjectError, ValueError)
"""What applying can raise; the answers are stored, and applied later."""


@dataclass(frozen=True)
class Progress:
    """What has become of the answers of this session.

    Attributes:
        changed: number of images whose rows were changed.
        moved: number of objects that were moved.
        waiting: number of images whose answers are not applied yet.
        problem: why they wait, or "".
    """

    changed: int = 0
    moved: int = 0
    waiting: int = 0
    problem: str = ""


class Applier:
    """Apply the answers that are given while it runs, and those of earlier reviews.

    Args:
        layout: the lake.
        effective: returns the effective labels.
        interval: time between two attempts, in seconds.
        then: called with the lake and the changed rows while the locks are held.

    Raises:
        DamagedFile: a file of the lake cannot be read.
    """

    def __init__(
        self,
        layout: Layout,
        effective: Callable[[], Mapping[str, EffectiveLabel]],
        interval: float,
        then: Callable[[Layout, Sequence[IndexRow]], object] = ONLY_REPORTS,
    ) -> None:
        self._layout, self._effective, self._interval = layout, effective, interval
        self._then = then
        self._changed: set[str] = set(contents_to_decide(layout, effective()))
        self._lock = threading.Lock()
        self._applying = threading.Lock()
        self._stop = threading.Event()
        self._progress = Progress(waiting=len(self._changed))
        self._thread = threading.Thread(target=self._run, daemon=True)

    @property
    def progress(self) -> Progress:
        """What has become of the answers."""
        with self._lock:
            return self._progress

    def start(self) -> None:
        """Apply in the background."""
        self._thread.start()

    def add(self, content: str) -> None:
        """Apply the answers about an image, the next time."""
        with self._lock:
            self._changed.add(content)
            self._count()

    def apply(self) -> Progress:
        """Apply the answers now; return what has become of them."""
        with self._applying:
            with self._lock:
                contents = set(self._changed)
            labels = {c: one for c, one in self._effective().items() if c in contents}
            applied, left, problem = None, set[str](), ""
            try:
                applied = apply_labels(self._layout, labels, then=self._then)
                left = set(contents_to_decide(self._layout, labels))
            except LakeInUse as error:
                problem = str(error) if contents else ""
            except ERRORS as error:
                problem = str(error)
                LOG.warning("answers could not be applied: %s", error)
            with self._lock:
                done = self._progress
                if applied is None:
                    self._progress = Progress(done.changed, done.moved, 0, problem)
                else:
                    newer = self._effective()
                    self._changed = {
                        content
                        for content in self._changed
                        if content in left or newer.get(content) != labels.get(content)
                    }
                    self._progress = Progress(
                        done.changed + applied.images, done.moved + applied.moved
                    )
                    for failure in applied.failures:
                        LOG.warning("%s", format_failure(failure))
                self._count()
                return self._progress

    def stop(self) -> Progress:
        """End the background thread, and apply what is left."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()
        return self.apply()

    def _run(self) -> None:
        self.apply()  # also what a killed review has left
        while not self._stop.wait(self._interval):
            if self._changed:
                self.apply()

    def _count(self) -> None:
        done = self._progress
        self._progress = Progress(done.changed, done.moved, len(self._changed), done.problem)
