"""A model that others may follow while a stream goes on: the last bundle of a folder decides.

Beam's own way, a side input that watches a pattern, is refused by some engines and stops others. Here
the model looks for itself, now and then, between two batches.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from models.bundle import BUNDLE_FILE, BundleInfo
from models.networks import BodyPartClassifier
from transforms.lake.files import list_files

LOG: Final = logging.getLogger("dicom_router")
Versions = tuple[tuple[str, str], ...]
"""URIs and versions of a bundle's files."""


@dataclass(frozen=True)
class LoadedBundle:
    """A bundle, ready to classify."""

    network: BodyPartClassifier
    info: BundleInfo


class ReloadingModel:
    """The bundle that decides at the moment. Safe between threads."""

    def __init__(
        self,
        first: LoadedBundle,
        load: Callable[[str], LoadedBundle],
        folder: str | None,
        look_every: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Begin with one bundle.

        Args:
            first: it.
            load: loads another; raises what is wrong with it.
            folder: path or URI; each folder below that has a `bundle.json` is a bundle, and the last
                by name decides. None: `first` does for ever.
            look_every: seconds between two looks.
            clock: monotonic, seconds.
        """
        self._served = first
        self._load = load
        self._folder = folder
        self._look_every = look_every
        self._clock = clock
        self._looked = float("-inf")
        self._seen: Versions = ()
        self._lock = threading.Lock()

    def current(self) -> LoadedBundle:
        """Return the bundle for the next batch; while one thread looks, the others go on."""
        if (
            self._folder is not None
            and self._clock() - self._looked >= self._look_every
            and self._lock.acquire(blocking=False)
        ):
            try:
                self._look(self._folder)
            finally:
                self._looked = self._clock()
                self._lock.release()
        return self._served

    def _look(self, folder: str) -> None:
        """Take the last bundle if it is new and sound; one that is not is refused until it changes."""
        try:
            uri, versions = _last(folder)
        except OSError as error:
            LOG.warning("models in %s cannot be listed (%s)", folder, type(error).__name__)
            return
        if uri is None or versions == self._seen:
            return
        self._seen = versions
        before = self._served.info
        try:
            served = self._load(uri)
            if served.info.labels != before.labels:
                raise ValueError(f"model bundle {uri}: other labels than this run's")
        except Exception as error:
            LOG.warning("refused: %s; %s goes on", error, before.model_id)
            return
        self._served = served
        LOG.warning(
            "%s decides from now on; until now %s did", served.info.model_id, before.model_id
        )


def _last(folder: str) -> tuple[str | None, Versions]:
    files = list_files(folder)
    bundles = [
        f.uri.removesuffix(f"/{BUNDLE_FILE}") for f in files if f.uri.endswith(f"/{BUNDLE_FILE}")
    ]
    if not bundles:
        return None, ()
    last = max(bundles)
    return last, tuple((f.uri, f.version) for f in files if f.uri.startswith(f"{last}/"))
