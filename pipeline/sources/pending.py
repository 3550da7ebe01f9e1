"""What a streaming source gave out and the index does not hold yet.

The lake's index is all that a stream remembers: an object is done with when its row stands there,
whatever became of the workers meanwhile. What a source keeps beside is lost with its process and made
up for by the next one, which gives the same objects out again; `lake.append` drops second rows.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

from transforms.core.object_ref import ObjectRef
from transforms.lake.index_replica import IndexReplica

MAX_DOUBLINGS: Final = 5


@dataclass
class PendingObject:
    """An object that was given out.

    Attributes:
        ref: names it.
        tickets: what the source needs when its row stands in the index, as Pub/Sub's ack ids.
        last: when it was last given out, seconds on a monotonic clock.
        times: how often.
    """

    ref: ObjectRef
    last: float
    ack_ids: list[str] = field(default_factory=list)
    times: int = 1


class PendingObjects:
    """The objects that one source waits for."""

    def __init__(self, replica: IndexReplica, *, limit: int, retry_after: float) -> None:
        """Wait for at most `limit` objects at once, those that failed left out.

        Args:
            replica: of the lake.
            limit: see above; it keeps an engine from being flooded.
            retry_after: seconds until an object is given out again, doubled each time.
        """
        self._replica = replica
        self._limit = limit
        self._retry_after = retry_after
        self._given: dict[ObjectRef, PendingObject] = {}
        self._newest_done = float("-inf")
        self._done_at = float("-inf")

    def __len__(self) -> int:
        return len(self._given)

    def __iter__(self) -> Iterator[PendingObject]:
        return iter(list(self._given.values()))

    def get(self, ref: ObjectRef) -> PendingObject | None:
        """Return what is known of an object that is waited for."""
        return self._given.get(ref)

    def room(self, now: float) -> int:
        """How many more objects may be given out."""
        waiting = sum(not self._is_stuck(one, now) for one in self._given.values())
        return max(0, self._limit - waiting)

    def add(self, ref: ObjectRef, now: float, ack_id: str | None = None) -> None:
        """Note that an object is given out."""
        one = self._given.setdefault(ref, PendingObject(ref, now))
        if ack_id is not None:
            one.ack_ids.append(ack_id)

    def due(self, now: float) -> list[PendingObject]:
        """Return what has waited too long, longest first."""
        stuck = [
            one
            for one in self._given.values()
            if now - one.last >= self._patience(one) and self._is_stuck(one, now)
        ]
        return sorted(stuck, key=lambda one: one.last)

    def retry(self, one: PendingObject, now: float) -> None:
        """Note that an object is given out once more."""
        one.last = now
        one.times += 1

    def forget(self, ref: ObjectRef) -> None:
        """Wait for an object no more."""
        self._given.pop(ref, None)

    def pop_ingested(self, now: float) -> list[PendingObject]:
        """Forget and return what the index holds; refresh the catalog before."""
        waited = {(ref.uri, ref.version): ref for ref in self._given}
        held = self._replica.held(list(waited))
        done = [self._given.pop(waited[version]) for version in held]
        if done:
            self._done_at = now
            self._newest_done = max(self._newest_done, *(one.last for one in done))
        return done

    def _is_stuck(self, one: PendingObject, now: float) -> bool:
        """Whether an object is not merely queued: later ones were done, or none was for long."""
        if now - one.last < self._retry_after:
            return False
        return one.last < self._newest_done or now - self._done_at >= self._retry_after

    def _patience(self, one: PendingObject) -> float:
        return float(self._retry_after * 2 ** min(one.times - 1, MAX_DOUBLINGS))
