"""Watch folders and prefixes, and emit each object that the lake has not ingested."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Final, TypeAlias

from pipeline.sources.archives import expand_archive, is_archive
from pipeline.sources.listing import list_objects
from pipeline.sources.outputs import SourceOutput, to_output
from pipeline.sources.poller import Poller
from transforms.config.route_config import RouteConfig
from transforms.core.object_ref import ObjectRef
from transforms.core.reasons import ProcessingFailure
from transforms.lake.source_states import SourceStates, group_of
from transforms.lake.source_versions import resolve_version
from transforms.storage.local import path_to_uri
from transforms.storage.schemes import is_local
from transforms.storage.selection import Skipped

_Listed: TypeAlias = ObjectRef | OSError | ProcessingFailure | Skipped
MAX_COMPARED: Final = 256
"""Maximum number of files that one poll reads because only their state has changed."""


def _uri_of(found: OSError | Skipped, pattern: str) -> str:
    return path_to_uri(str(getattr(found, "filename", None) or pattern))


class Watcher(Poller):
    """Watch one input pattern.

    A local file may be listed while it is still being written, so it is emitted only after two polls,
    at least `stable_for` seconds apart, found the same version. Objects in stores appear whole.
    """

    def __init__(
        self, config: RouteConfig, pattern: str, clock: Callable[[], float] = time.monotonic
    ) -> None:
        super().__init__(config, clock)
        self._pattern = pattern
        self._stable_for = self._stream.stable_for if is_local(pattern) else 0.0
        self._ingested: set[bytes] = set()
        self._unreadable: set[str] = set()
        self._first_seen: dict[ObjectRef, float] = {}
        self._archive_seen: dict[ObjectRef, float] = {}
        self._members: dict[ObjectRef, tuple[str | None, list[_Listed]]] = {}
        self._resolved: dict[bytes, ObjectRef] = {}

    def poll(self, *, draining: bool) -> Iterator[SourceOutput]:
        """See `Poller.poll`; lists the whole pattern each time."""
        self._replica.refresh()
        for done in self.pending.pop_ingested(self._clock()):
            self._ingested.add(done.ref.digest())
        if draining:
            return
        listed: dict[ObjectRef, bytes] = {}
        unreadable: set[str] = set()
        skipped: Counter[str] = Counter()
        current: set[ObjectRef] = set()
        for found in list_objects([self._pattern], self._config.selection):
            if isinstance(found, ObjectRef):
                current.add(found)
            uri = found.uri if isinstance(found, ObjectRef) else _uri_of(found, self._pattern)
            for one in self._expand(found):
                if isinstance(one, ObjectRef):
                    ref = self._resolved.get(one.digest(), one)
                    listed[ref] = ref.digest()
                elif isinstance(one, Skipped):
                    skipped[one.why] += 1
                else:
                    unreadable.add(uri)
                    if uri not in self._unreadable:  # report it once, until it is readable again
                        yield to_output(one, uri, self._config)
        self._unreadable, self.skipped = unreadable, skipped
        for replaced in self._archive_seen.keys() - current:
            del self._archive_seen[replaced]
            self._members.pop(replaced, None)
        if not unreadable:
            self._discard_missing(listed)
        yield from self._redeliver(listed)
        yield from self._emit_new(listed)

    def _expand(self, found: ObjectRef | OSError | Skipped) -> Sequence[_Listed]:
        """Return the members of an archive that was not written for a while; else what was found."""
        if not isinstance(found, ObjectRef) or not is_archive(found):
            return [found]
        now = self._clock()
        if now - self._archive_seen.setdefault(found, now) < self._stable_for:
            return []
        state, members = self._members.get(found, (None, []))
        if found not in self._members or state != found.state:
            members = list(expand_archive(found, self._config))
            if not any(
                isinstance(one, OSError) for one in members
            ):  # else the next poll tries again
                self._members[found] = found.state, members
        return members

    def _discard_missing(self, listed: dict[ObjectRef, bytes]) -> None:
        """Forget the versions of objects that were removed or replaced."""
        self._ingested &= set(listed.values())
        self._resolved = {d: ref for d, ref in self._resolved.items() if ref in listed}
        self._first_seen = {r: t for r, t in self._first_seen.items() if r in listed}
        for pending in self.pending:
            if pending.ref not in listed:
                self.pending.discard(pending.ref)

    def _emit_new(self, listed: dict[ObjectRef, bytes]) -> Iterator[SourceOutput]:
        now = self._clock()
        unknown = {
            ref.version_key: ref
            for ref, digest in listed.items()
            if digest not in self._ingested and ref not in self.pending
        }
        known = self._replica.find({version: ref.state for version, ref in unknown.items()})
        known |= dict.fromkeys(self._replica.forgotten(unknown.values()), True)
        changed = [unknown[version] for version, has_state in known.items() if not has_state]
        self._ingested |= {listed[unknown[version]] for version in known}
        for ref in changed:
            self._ingested.discard(listed[ref])
        for ref in changed[:MAX_COMPARED]:
            self._compare(ref)
        self.waiting = len(unknown) - len(known)
        capacity = self.pending.capacity(now)
        for version, ref in unknown.items():
            if version in known:
                continue
            if now - self._first_seen.setdefault(ref, now) < self._stable_for:
                continue
            if capacity <= 0:
                return
            capacity -= 1
            del self._first_seen[ref]
            self.waiting -= 1
            self.pending.add(ref, now)
            yield to_output(ref, ref.uri, self._config)

    def _compare(self, ref: ObjectRef) -> None:
        """Compare the content of a file whose state is unknown with the rows of its source.

        Content that no row has is emitted from the next poll on, as a version of its own.
        """
        known = self._replica.rows_of_source(ref.uri)
        states = SourceStates(self._config.layout, group_of(ref.uri))
        resolved = resolve_version(ref, known, states)
        states.save()
        if any(row.source_version == resolved.version for row in known):
            self._ingested.add(ref.digest())
        else:
            self._resolved[ref.digest()] = resolved

    def _redeliver(self, listed: dict[ObjectRef, bytes]) -> Iterator[SourceOutput]:
        now = self._clock()
        for pending in self.pending.overdue(now)[: self.pending.capacity(now)]:
            if pending.ref in listed:
                self.pending.retry(pending, now)
                yield pending.ref
