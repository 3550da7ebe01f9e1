"""A model that a stream can replace: the last bundle of a folder takes over.

Beam's own mechanism, a side input that watches a pattern, fails on some runners and stalls others. So the
model checks the folder itself, between two batches.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, TypeAlias

from models.bundle import BUNDLE_FILE, BundleInfo
from models.networks import BodyPartClassifier
from transforms.lake.files import list_files

LOG: Final = logging.getLogger("dicom_router")
Versions: TypeAlias = tuple[tuple[str, str], ...]
"""URI and version of each file of a bundle."""


@dataclass(frozen=True)
class LoadedBundle:
    """A bundle that is ready to classify."""

    network: BodyPartClassifier
    info: BundleInfo


class ReloadingModel:
    """The bundle in use. Thread-safe."""

    def __init__(
        self,
        first: LoadedBundle,
        load: Callable[[str], LoadedBundle],
        folder: str | None,
        check_every: float,
        clock: Callable[[], float] = time.monotonic,
        *,
        shadow: LoadedBundle | None = None,
    ) -> None:
        """Start with one bundle.

        Args:
            first: the bundle in use until another one is loaded.
            load: loads a bundle by URI; raises if it is unusable.
            folder: path or URI; each sub-folder with a `bundle.json` is a bundle, and the last by name
                is used. None keeps `first`.
            check_every: seconds between two checks of the folder.
            clock: monotonic, in seconds.
            shadow: bundle that answers beside the one in use, and is not reloaded.
        """
        self.shadow = shadow
        self._bundle = first
        self._load = load
        self._folder = folder
        self._check_every = check_every
        self._clock = clock
        self._checked_at = float("-inf")
        self._seen: Versions = ()
        self._lock = threading.Lock()

    def current(self) -> LoadedBundle:
        """Return the bundle for the next batch; while one thread checks, others do not wait."""
        if (
            self._folder is not None
            and self._clock() - self._checked_at >= self._check_every
            and self._lock.acquire(blocking=False)
        ):
            try:
                self._check(self._folder)
            finally:
                self._checked_at = self._clock()
                self._lock.release()
        return self._bundle

    def _check(self, folder: str) -> None:
        """Load the last bundle if it is new; an unusable one is not tried again until it changes."""
        try:
            uri, versions = _last_bundle(folder)
        except OSError as error:
            LOG.warning("models in %s cannot be listed (%s)", folder, type(error).__name__)
            return
        if uri is None or versions == self._seen:
            return
        self._seen = versions
        previous = self._bundle.info
        try:
            loaded = self._load(uri)
            if loaded.info.label_set != previous.label_set:
                raise ValueError(f"model bundle {uri}: its labels are not this run's")
        except Exception as error:
            LOG.warning("refused: %s; %s stays in use", error, previous.model_id)
            return
        self._bundle = loaded
        LOG.warning("model %s replaces %s", loaded.info.model_id, previous.model_id)


def _last_bundle(folder: str) -> tuple[str | None, Versions]:
    files = list_files(folder)
    bundles = [
        f.uri.removesuffix(f"/{BUNDLE_FILE}") for f in files if f.uri.endswith(f"/{BUNDLE_FILE}")
    ]
    if not bundles:
        return None, ()
    last = max(bundles)
    return last, tuple((f.uri, f.version) for f in files if f.uri.startswith(f"{last}/"))
