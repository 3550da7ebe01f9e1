"""Objects in flight of a streaming source, and when to retry those that stall.

An object is pending from when a source emits it until its row is in the lake's index, even if workers
fail. A process that dies loses its pending objects: its successor emits them again, and
`transforms.lake.append` drops the second rows.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

from transforms.core.object_ref import ObjectRef
from transforms.lake.index_replica import IndexReplica

MAX_DOUBLINGS: Final = 5
"""Maximum number of times that the retry delay is doubled."""


@dataclass
class PendingObject:
    """An object in flight.

    Attributes:
        ref: reference to the object.
        emitted_at: time of the last attempt, seconds on a monotonic clock.
        ack_ids: ack ids of the Pub/Sub messages to acknowledge once its row is in the index.
        attempts: number of times it was emitted.
        added_at: time of the first attempt.
    """

    ref: ObjectRef
    emitted_at: float
    ack_ids: list[str] = field(default_factory=list)
    attempts: int = 1
    added_at: float = field(init=False)

    def __post_init__(self) -> None:
        self.added_at = self.emitted_at


class PendingObjects:
    """The objects in flight of one input.

    Retries back off exponentially. An object is retried only once it stalls: queued objects in an
    engine that still makes progress are left alone, however long the queue.
    """

    def __init__(self, replica: IndexReplica, *, limit: int, retry_after: float) -> None:
        """Start with no object in flight.

        Args:
            replica: index replica of the lake.
            limit: maximum number of objects in flight, which protects the engine from overload; stalled
                objects do not count.
            retry_after: seconds until the first retry; doubled with each attempt.
        """
        self._replica = replica
        self._limit = limit
        self._retry_after = retry_after
        self._pending: dict[ObjectRef, PendingObject] = {}
        self._newest_ingested = float("-inf")
        self._ingested_at = float("-inf")

    def __len__(self) -> int:
        return len(self._pending)

    def __iter__(self) -> Iterator[PendingObject]:
        return iter(list(self._pending.values()))

    def __contains__(self, ref: ObjectRef) -> bool:
        return ref in self._pending

    def oldest_age(self, now: float) -> float:
        """Return for how many seconds the oldest object has been in flight; 0 if none is."""
        return max((now - one.added_at for one in self._pending.values()), default=0.0)

    def capacity(self, now: float) -> int:
        """Return how many more objects may be emitted."""
        in_flight = sum(not self._is_stalled(one, now) for one in self._pending.values())
        return max(0, self._limit - in_flight)

    def add(self, ref: ObjectRef, now: float, ack_id: str | None = None) -> None:
        """Add an object that is being emitted, or another ack id of a pending one."""
        pending = self._pending.setdefault(ref, PendingObject(ref, now))
        if ack_id is not None:
            pending.ack_ids.append(ack_id)

    def overdue(self, now: float) -> list[PendingObject]:
        """Return the stalled objects whose retry is due, the oldest first."""
        stalled = [
            one
            for one in self._pending.values()
            if now - one.emitted_at >= self._retry_delay(one) and self._is_stalled(one, now)
        ]
        return sorted(stalled, key=lambda one: one.emitted_at)

    def retry(self, pending: PendingObject, now: float) -> None:
        """Record that an object is being emitted again."""
        pending.emitted_at = now
        pending.attempts += 1

    def discard(self, ref: ObjectRef) -> None:
        """Stop waiting for an object."""
        self._pending.pop(ref, None)

    def pop_ingested(self, now: float) -> list[PendingObject]:
        """Remove and return the objects that have a row, or were erased, as of its last refresh."""
        refs = {ref.version_key: ref for ref in self._pending}
        ingested = [
            self._pending.pop(refs[version]) for version in self._replica.finished(refs.values())
        ]
        if ingested:
            self._ingested_at = now
            self._newest_ingested = max(
                self._newest_ingested, *(one.emitted_at for one in ingested)
            )
        return ingested

    def _is_stalled(self, pending: PendingObject, now: float) -> bool:
        """Return whether objects emitted later are ingested, or none has been for `retry_after`."""
        if now - pending.emitted_at < self._retry_after:
            return False
        overtaken = pending.emitted_at < self._newest_ingested
        return overtaken or now - self._ingested_at >= self._retry_after

    def _retry_delay(self, pending: PendingObject) -> float:
        return float(self._retry_after * 2 ** min(pending.attempts - 1, MAX_DOUBLINGS))
