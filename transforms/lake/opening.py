"""Opens a lake to write into it: whose it is, its format, and what rewrite was interrupted."""

from __future__ import annotations

from transforms.lake.layout import Layout
from transforms.lake.marker import write_marker
from transforms.lake.migration import migrate
from transforms.lake.rewrite_notes import finish_rewrites


def open_lake(layout: Layout) -> None:
    """Make a lake ready to be written into.

    Hold the lake's locks. Repeating it changes nothing.

    Args:
        layout: the lake.

    Raises:
        ForeignLake: the lake is of a later format, or a root belongs to another lake.
        DamagedFile: a file of the lake cannot be read.
        ProcessingFailure: the lake's storage refused.
    """
    migrate(layout)
    write_marker(layout)  # which claims sinks that the policy names only now
    finish_rewrites(layout)
