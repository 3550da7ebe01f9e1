"""Verify that published tables are in step with the index, and that their files exist."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from transforms.lake.files import list_files
from transforms.lake.layout import LOCK, WRITER_LOCK, Layout
from transforms.lake.lock import read_lock_state
from transforms.lake.published_tables import table_states
from transforms.lake.table_files import table_names
from transforms.lake.table_settings import read_settings
from transforms.lake.verify_report import Violation
from transforms.storage.schemes import join

BEHIND: Final = "published table behind the index; run 'dicom-router publish'"
UNREADABLE: Final = "published table that cannot be read"
MISSING: Final = "published table without a file of the index; run 'dicom-router publish'"


def check_tables(layout: Layout) -> Iterator[Violation]:
    """Yield the violations of published tables.

    A table may be behind while a process writes to the lake, which then brings it into step.
    """
    if read_settings(layout) is None:
        return
    in_use = any(read_lock_state(layout, name).held is not False for name in (WRITER_LOCK, LOCK))
    states = table_states(layout)
    for state in states:
        if state.problem is not None:
            yield Violation(f"{UNREADABLE}: {state.problem}", "", state.location)
        elif not state.in_step and not in_use:
            yield Violation(BEHIND, "", state.location)
    if not all(state.in_step for state in states):
        return
    found = {one.uri: one.size for one in list_files(layout.published_index, ".parquet")}
    names = table_names(layout)
    sizes = {one.uri: one.size for one in list_files(layout.index, ".parquet")}
    for name, uri in names.items():
        target = join(layout.published_index, name)
        if uri in sizes and found.get(target) != sizes[uri]:  # else it was replaced meanwhile
            yield Violation(MISSING, "", target)
