"""Publish the index as tables of open formats, and keep them in step with it.

The index stays the truth. Publishing compares its list of files with that of a table, and commits the
difference in one step: whatever was missed, because a process was killed or a catalog did not answer, the
next call adds. Each attempt loads the table before it lists the index, and commits only if the table has
not changed since, so that a table never goes back to an earlier state of the index.

Tables have second names of the files (see `lake.table_files`), which a rewrite does not remove: a reader
of any recent version finds all of its files.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, Protocol

from transforms.core.errors import UsageError
from transforms.core.reasons import ObjectError
from transforms.lake.delta_table import DeltaIndex
from transforms.lake.iceberg_table import IcebergIndex, MovedLake
from transforms.lake.index_files import DamagedFile
from transforms.lake.layout import Layout
from transforms.lake.table_files import (
    TableFile,
    add_files,
    new_columns,
    note_replaced,
    remove_all_but,
    remove_replaced,
    table_names,
)
from transforms.lake.table_settings import Format, TableSettings, read_settings, recorded_settings
from transforms.storage.extras import how_to_install, is_installed

LOG = logging.getLogger(__name__)
MAX_ATTEMPTS: Final = 100
BEHIND: Final = (
    "the published tables are behind the index (%s); the next run brings them into step, or "
    "'dicom-router publish %s'"
)


NOT_AFFECTED: Final = (
    "{name}: {error}; the index is complete and not affected: correct this, then run 'dicom-router "
    "publish {root}'"
)

NOT_RECORDED: Final = (
    "{name}: {error}; nothing was changed: correct this, then run the same command again"
)

_IN_STEP: Final[dict[str, tuple[str, frozenset[str]]]] = {}
"""What this process has published last, by root of the lake: `TableSettings.recorded`, and names of index
files."""


class TableError(RuntimeError):
    """A published table cannot be read or written; the index is not affected."""


class PublishedTable(Protocol):
    """A table of one format; see `DeltaIndex` and `IcebergIndex`."""

    location: str

    @property
    def name(self) -> str:
        """For messages."""

    @property
    def format(self) -> Format:
        """Its format."""

    def current(self) -> Any | None:
        """Return the current version, or None if there is no table."""

    def commit(
        self, version: Any | None, added: Sequence[TableFile], removed: Collection[str]
    ) -> str | None:
        """Commit the next version and return it; None: try again, another process was first."""

    def remove_old_versions(self) -> None:
        """Remove all versions but the current one, as far as they have entries of their own."""

    def maintain(self, keep_s: float) -> None:
        """Limit what the table keeps about its past."""


@dataclass(frozen=True)
class TableState:
    """The state of a published table.

    Attributes:
        name: format, and name in the catalog if there is one.
        location: path or URI.
        version: current version, as its format names it; None if there is no table.
        files: number of its files.
        missing: number of index files that it lacks.
        extra: number of files that it has and the index does not.
        problem: why the table cannot be read, or None.
    """

    name: str
    location: str
    version: str | None = None
    files: int = 0
    missing: int = 0
    extra: int = 0
    problem: str | None = None

    @property
    def in_step(self) -> bool:
        """Whether the table has the files of the index."""
        return self.version is not None and not (self.missing or self.extra or self.problem)


def publish(layout: Layout, *, moved: bool = False) -> list[TableState]:
    """Bring the tables that a lake publishes into step with its index. Idempotent.

    Args:
        layout: the lake.
        moved: whether to publish tables again that have the paths of another place of the lake.

    Returns:
        The state of each table; empty if the lake publishes none.

    Raises:
        TableError: a table cannot be read or written; the others are in step.
        UsageError: a table belongs to another lake.
        ProcessingFailure: the lake's storage refused a write.
        DamagedFile: an index file cannot be read.
    """
    settings = read_settings(layout)
    return [] if settings is None else _publish(layout, settings, moved=moved)


def require_usable(layout: Layout, settings: TableSettings) -> None:
    """Raise if tables cannot be reached, before they are recorded for every writer of a lake.

    Raises:
        TableError: a catalog or table cannot be read.
        UsageError: a table belongs to another lake.
    """
    for table in _tables(layout, settings):
        try:
            table.current()
        except MovedLake:  # `publish` makes it again
            continue
        except UsageError:
            raise
        except Exception as error:  # of a catalog's or store's client, of any type
            raise TableError(NOT_RECORDED.format(name=table.name, error=_text(error))) from error


def _publish(layout: Layout, settings: TableSettings, *, moved: bool = False) -> list[TableState]:
    states, failed = [], []
    added: dict[str, TableFile] = {}
    for table in _tables(layout, settings):
        try:
            states.append(_bring_into_step(layout, table, settings.keep_s, added, moved=moved))
        except (UsageError, ObjectError, DamagedFile, TableError) as error:
            failed.append(error)
        except Exception as error:  # of a catalog's or store's client, of any type
            failed.append(_failure(layout, table, _text(error)))
    if failed:
        raise failed[0]
    names = _names(layout)
    remove_replaced(layout, names, settings.keep_s)
    _IN_STEP[layout.root] = settings.recorded, names
    return states


def keep_in_step(layout: Layout) -> None:
    """As `publish`, after a commit to the index, which does not fail if a table cannot be written.

    The verbs *append* and *rewrite* of the index end with this call.
    """
    try:
        require_in_step(layout)
    except Exception as error:  # the index is written, and the next call brings tables into step
        LOG.warning(BEHIND, _text(error), layout.root)


def require_in_step(layout: Layout) -> None:
    """As `publish`, at the end of a run, unless this process has published the index as it is now.

    Raises:
        TableError: a table cannot be read or written, or belongs to another lake.
        ProcessingFailure, DamagedFile: as `publish`.
    """
    settings = read_settings(layout)
    if settings is None or _IN_STEP.get(layout.root) == (settings.recorded, _names(layout)):
        return
    try:
        _publish(layout, settings)
    except UsageError as error:
        raise TableError(f"{error}; the index is complete and not affected") from error


def remove_old_versions(layout: Layout) -> None:
    """Remove every version of published tables but the current one, with the files that only they have.

    Call this after rows were erased from the index, so that no version of a table still has them. Tables
    are brought into step first, also those that are no longer kept in step. A table that cannot be
    written, because its catalog does not answer, is behind then, and lacks files until it is brought into
    step: the files are removed all the same. Does nothing in a lake that never published a table.

    Raises:
        OSError: the lake cannot be listed, or a file cannot be removed.
    """
    settings = recorded_settings(layout)
    if settings is None:
        return
    steps: list[Callable[[], object]] = [partial(_publish, layout, settings)]
    steps += [table.remove_old_versions for table in _tables(layout, settings)]
    for step in steps:
        try:
            step()
        except Exception as error:  # erasing goes first
            LOG.warning(BEHIND, _text(error), layout.root)
    remove_all_but(layout, _names(layout))


def table_states(layout: Layout) -> list[TableState]:
    """Return the state of each published table of a lake; writes nothing.

    Raises:
        OSError: the lake cannot be listed.
    """
    settings = read_settings(layout)
    return [] if settings is None else [_state(layout, one) for one in _tables(layout, settings)]


class Publisher:
    """Keep tables in step from time to time; once in a process for each lake."""

    _last: Final[dict[str, float]] = {}
    _lock: Final = threading.Lock()

    @classmethod
    def keep_in_step(cls, layout: Layout, every_s: float) -> None:
        """As `keep_in_step`, at most once in a number of seconds."""
        now = time.monotonic()
        with cls._lock:
            if now - cls._last.get(layout.root, -every_s) < every_s:
                return
            cls._last[layout.root] = now
        keep_in_step(layout)


def _tables(layout: Layout, settings: TableSettings) -> list[PublishedTable]:
    tables: list[PublishedTable] = []
    if settings.delta:
        tables.append(DeltaIndex(layout))
    if settings.iceberg is not None:
        tables.append(IcebergIndex(layout, settings.iceberg))
    return tables


def _bring_into_step(
    layout: Layout,
    table: PublishedTable,
    keep_s: float,
    known: dict[str, TableFile],
    *,
    moved: bool,
) -> TableState:
    if not is_installed(table.format.module):
        raise _failure(layout, table, f"needs a package: {how_to_install(table.format.extra)}")
    for _ in range(MAX_ATTEMPTS):
        try:
            version = table.current()  # before the index is listed
        except MovedLake:
            if not moved or not isinstance(table, IcebergIndex):
                raise
            table.drop()
            continue
        listed = table_names(layout)
        names = frozenset(listed)
        files: frozenset[str] = frozenset() if version is None else version.files
        removed = files - names
        try:
            added = add_files(layout, {name: listed[name] for name in names - files}, known)
        except FileNotFoundError:
            if _names(layout) == names:
                raise
            continue  # a rewrite has replaced one since
        lacks = version is None or new_columns(version.columns, added)
        if version is not None and not (added or removed or lacks):
            return TableState(table.name, table.location, str(version), len(files))
        note_replaced(layout, removed)
        committed = table.commit(version, added, removed)
        if committed is not None:
            table.maintain(keep_s)
        if committed is not None and _names(layout) == names:
            return TableState(table.name, table.location, committed, len(names))
    raise _failure(layout, table, f"other processes were first in {MAX_ATTEMPTS} attempts")


def _state(layout: Layout, table: PublishedTable) -> TableState:
    if not is_installed(table.format.module):
        return TableState(table.name, table.location, problem=how_to_install(table.format.extra))
    try:
        version = table.current()
    except Exception as error:
        return TableState(table.name, table.location, problem=_text(error))
    names = _names(layout)
    if version is None:
        return TableState(table.name, table.location, missing=len(names))
    missing, extra = len(names - version.files), len(version.files - names)
    return TableState(table.name, table.location, str(version), len(version.files), missing, extra)


def _names(layout: Layout) -> frozenset[str]:
    return frozenset(table_names(layout))


def _failure(layout: Layout, table: PublishedTable, error: str) -> TableError:
    return TableError(NOT_AFFECTED.format(name=table.name, error=error, root=layout.root))


def _text(error: Exception) -> str:
    """Return an error in one line."""
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}: {text[0]}" if text else type(error).__name__
