"""Opening a lake to write into it: whose it is, what format it has, and what was interrupted."""

from __future__ import annotations

from transforms.lake.index_replica import IndexReplica
from transforms.lake.layout import Layout
from transforms.lake.marker import write_marker
from transforms.lake.migration import migrate
from transforms.lake.recovery import recover


def open_lake(
    layout: Layout,
    shards: int,
    *,
    fingerprint: str | None = None,
    replica: IndexReplica | None = None,
) -> int:
    """Make a lake ready to be written into; returns the number of rows recovered.

    Hold the lake's locks. Repeating it changes nothing.

    Args:
        layout: the lake.
        shards: as of `recover`.
        fingerprint: as of `recover`.
        replica: as of `recover`.

    Raises:
        ForeignLake: the lake is of a later format, or a root belongs to another lake.
        DamagedFile: a file of the lake cannot be read.
        ProcessingFailure: the lake's storage refused.
    """
    migrate(layout)
    write_marker(layout)  # which claims sinks that the policy names only now
    return recover(layout, shards, fingerprint=fingerprint, replica=replica)
