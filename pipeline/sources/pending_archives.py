"""Archives in flight of a source that acknowledges messages: one, once all members have rows."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from transforms.core.object_ref import ObjectRef


@dataclass
class _PendingArchive:
    """An archive in flight.

    Attributes:
        unemitted: members that are still to be emitted.
        emitted: members without a row.
        ack_ids: ack ids of its messages.
    """

    unemitted: deque[ObjectRef]
    emitted: set[ObjectRef] = field(default_factory=set)
    ack_ids: list[str] = field(default_factory=list)


class PendingArchives:
    """The archives whose members are emitted as there is room for them. Not thread-safe."""

    def __init__(self) -> None:
        """Start with no archive in flight."""
        self._archives: dict[ObjectRef, _PendingArchive] = {}
        self._archive_of: dict[ObjectRef, ObjectRef] = {}

    def __contains__(self, archive: ObjectRef) -> bool:
        return archive in self._archives

    @property
    def ack_ids(self) -> Iterator[str]:
        """The ack ids of the messages of all archives."""
        return (ack_id for one in self._archives.values() for ack_id in one.ack_ids)

    def add(self, archive: ObjectRef, members: Iterable[ObjectRef]) -> None:
        """Add an archive, with at least one member that has no row."""
        self._archives[archive] = _PendingArchive(deque(members))

    def add_message(self, archive: ObjectRef, ack_id: str) -> None:
        """Add the message of an archive in flight."""
        self._archives[archive].ack_ids.append(ack_id)

    def next_members(self, capacity: int) -> Iterator[ObjectRef]:
        """Yield members to emit, at most `capacity`."""
        for archive, pending in self._archives.items():
            while pending.unemitted:
                if capacity <= 0:
                    return
                capacity -= 1
                member = pending.unemitted.popleft()
                pending.emitted.add(member)
                self._archive_of[member] = archive
                yield member

    def pop(self, member: ObjectRef) -> list[str]:
        """Stop waiting for a member, and return the ack ids of its archive if it was the last one."""
        archive = self._archive_of.pop(member, None)
        if archive is None:
            return []
        pending = self._archives[archive]
        pending.emitted.discard(member)
        if pending.unemitted or pending.emitted:
            return []
        return self._archives.pop(archive).ack_ids
