"""Watches folders and prefixes for new objects, and gives each out once the lake lacks it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

from pipeline.sources.discovered import discovered
from pipeline.sources.files import list_objects
from pipeline.sources.poller import Poller
from transforms.config.route_config import RouteConfig
from transforms.core.object_ref import ObjectRef
from transforms.storage.local import path_to_uri
from transforms.storage.schemes import is_local


class Watcher(Poller):
    """Looks below one input pattern.

    Local files are given out once two looks, `settle_for` seconds or more apart, found them the
    same: who writes a file where it is watched is seldom done at once. Objects in stores appear whole.
    """

    def __init__(
        self, config: RouteConfig, pattern: str, clock: Callable[[], float] = time.monotonic
    ) -> None:
        super().__init__(config, pattern, clock)
        self._settle_for = self._stream.settle_for if is_local(pattern) else 0.0
        self._held: set[bytes] = set()
        self._unlisted: set[str] = set()
        self._first_seen: dict[ObjectRef, float] = {}

    def poll(self, *, stopping: bool) -> Iterator[Any]:
        """As `Poller.poll`; all that is listed and not held is looked at each time."""
        self._replica.refresh()
        for done in self.pending.pop_ingested(self._clock()):
            self._held.add(done.ref.digest())
        if stopping:
            return
        listed: dict[ObjectRef, bytes] = {}
        unlisted: set[str] = set()
        for found in list_objects(self._named, self._config.layout.object_roots):
            if isinstance(found, OSError):
                named = path_to_uri(str(found.filename or self._named))
                unlisted.add(named)
                if named not in self._unlisted:  # said once, until it was seen again
                    yield discovered(found, named, self._config)
            else:
                listed[found] = found.digest()
        self._unlisted = unlisted
        if not unlisted:
            self._forget_all_but(listed)
        yield from self._redeliver(listed)
        yield from self._new(listed)

    def _forget_all_but(self, listed: dict[ObjectRef, bytes]) -> None:
        self._held &= set(listed.values())
        self._first_seen = {r: t for r, t in self._first_seen.items() if r in listed}
        for one in list(self.pending):
            if one.ref not in listed:  # removed, or there in another version
                self.pending.forget(one.ref)

    def _new(self, listed: dict[ObjectRef, bytes]) -> Iterator[Any]:
        now = self._clock()
        unknown = {
            (ref.uri, ref.version): ref
            for ref, digest in listed.items()
            if digest not in self._held and self.pending.get(ref) is None
        }
        held = self._replica.held(list(unknown))
        self._held |= {listed[unknown[version]] for version in held}
        room = self.pending.room(now)
        for version, ref in unknown.items():
            if version in held:
                continue
            if now - self._first_seen.setdefault(ref, now) < self._settle_for:
                continue
            if room <= 0:
                return
            room -= 1
            del self._first_seen[ref]
            self.pending.add(ref, now)
            yield discovered(ref, ref.uri, self._config)

    def _redeliver(self, listed: dict[ObjectRef, bytes]) -> Iterator[Any]:
        now = self._clock()
        for one in self.pending.due(now)[: self.pending.room(now)]:
            if one.ref in listed:
                self.pending.retry(one, now)
                yield one.ref
