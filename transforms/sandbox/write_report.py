"""Write the structured report about an object, from header values that a child process reads."""

from __future__ import annotations

import datetime
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

import numpy as np
from pydicom.multival import MultiValue
from pydicom.valuerep import PersonName

from transforms.core.object_ref import ObjectRef
from transforms.core.read_object import ObjectTooLarge, read_member, read_ref
from transforms.core.reasons import BY_MODEL, InvalidObject, Reason
from transforms.core.shared_bytes import SharedBytes, map_bytes
from transforms.imaging.limits import Limits
from transforms.imaging.part10 import parse
from transforms.imaging.structured_report import (
    HEADER_KEYWORDS,
    MAX_VALUE,
    ReportedDecision,
    ReportError,
    build_report,
)
from transforms.lake.files import put_if_absent
from transforms.lake.layout import Layout
from transforms.lake.schema import IndexRow
from transforms.lake.structured_reports import report_uri
from transforms.sandbox.child_pool import ChildPool
from transforms.sandbox.child_process import (
    ChildCrashed,
    ChildKilled,
    ChildRaised,
    ChildTimedOut,
)
from transforms.storage.archive_names import is_member
from transforms.storage.extras import is_installed

LOG = logging.getLogger(__name__)

LIBRARY: Final = "highdicom"
"""Module that builds reports; the extra `sr` installs it."""


def can_write_reports() -> bool:
    """Return whether the library that builds reports is installed."""
    return is_installed(LIBRARY)


class ReportWriter:
    """Write structured reports about routed objects. Thread-safe.

    Args:
        layout: The lake.
        limits: Resource limits of an object.
        threads: Number of child processes, which start with the first objects.
    """

    def __init__(self, layout: Layout, limits: Limits, threads: int) -> None:
        self._layout, self._limits = layout, limits
        self._children = ChildPool(threads, limits)

    def close(self) -> None:
        """End the child processes."""
        self._children.close()

    def write(self, row: IndexRow, ref: ObjectRef, data: SharedBytes | None = None) -> bool:
        """Write the report about the object of a routed row, if it is absent.

        Args:
            row: The row.
            ref: Where the bytes of the object are.
            data: The bytes, if they are at hand.

        Returns:
            False if no report can be built from the object, which is logged by its key.

        Raises:
            ProcessingFailure: The object cannot be read, or the storage refused the write.
        """
        target = report_uri(self._layout, row)
        if target is None:
            return False
        try:
            report = build_report(self._header(row, ref, data), decision_of(row))
        except (ReportError, InvalidObject, ObjectTooLarge) as error:
            why = error.reason if isinstance(error, InvalidObject) else error
            LOG.warning("object %s: no structured report (%s)", row.object_key, why)
            return False
        layout = self._layout
        scratch = layout.scratch(row.destination)
        put_if_absent(target, report, scratch=scratch, file_mode=layout.file_mode)
        return True

    def _header(self, row: IndexRow, ref: ObjectRef, data: SharedBytes | None) -> dict[str, str]:
        """Return values of `HEADER_KEYWORDS` in an object.

        Raises:
            ReportError: The object has other bytes than its row says, or the child failed.
            InvalidObject: The object cannot be parsed.
        """
        if data is None:
            with self._open(ref) as opened:
                if opened.sha256() != row.content_sha256:
                    raise ReportError(str(Reason.CHANGED))
                return self._header(row, ref, opened)
        try:
            with self._children.child() as child, data.read_only() as descriptor:
                values: dict[str, str] = child.call(
                    _read_values, self._limits, descriptor=descriptor, parse=_parse_values
                )
                return values
        except (ChildCrashed, ChildKilled, ChildRaised, ChildTimedOut) as error:
            raise ReportError(type(error).__name__) from error

    @contextmanager
    def _open(self, ref: ObjectRef) -> Iterator[SharedBytes]:
        if is_member(ref.uri):
            data, problem = read_member(ref)
        else:
            data, problem = read_ref(ref, max_bytes=self._limits.max_object_bytes), None
        with data:
            if problem is not None:
                raise ReportError(str(problem))
            yield data


def decision_of(row: IndexRow) -> ReportedDecision:
    """Return the decision in a routed row."""
    seconds = (row.decided_at or row.ingested_at) // 1_000_000
    return ReportedDecision(
        content_sha256=str(row.content_sha256),
        label=str(row.destination),
        region=(row.region_code, str(row.region_meaning)) if row.region_code else None,
        confidence=None
        if row.confidence is None
        else round(float(np.float32(row.confidence)), 6),  # as in the index
        decided_by=row.decided_by or BY_MODEL,
        decided_at=datetime.datetime.fromtimestamp(seconds, datetime.UTC),
        model_id=row.model_id,
        router_version=row.router_version,
    )


def _read_values(descriptor: int, limits: Limits) -> tuple[tuple[str, str], ...]:
    """Return keywords and values of an object as text; runs in a child."""
    try:
        dataset = parse(map_bytes(descriptor), limits).dataset
    except Exception:  # its row says that it can be parsed: the caller says that it cannot
        return ()
    found = []
    for keyword in HEADER_KEYWORDS:
        try:
            value = dataset.get(keyword)
        except Exception:  # pydicom raises many types for malformed elements
            continue
        if isinstance(value, MultiValue):
            continue
        if isinstance(value, str | int | PersonName) and not isinstance(value, bool):
            text = str(value).strip(" \0")
            if text and len(text) <= MAX_VALUE and text.isprintable():
                found.append((keyword, text))
    return tuple(found)


def _parse_values(values: Any) -> dict[str, str]:
    """Return what `_read_values` has returned.

    Raises:
        ValueError: `_read_values` cannot have returned it.
    """
    if type(values) is not tuple:
        raise ValueError("invalid answer")
    found: dict[str, str] = {}
    for item in values:
        if type(item) is not tuple or len(item) != 2 or item[0] not in HEADER_KEYWORDS:
            raise ValueError("invalid answer: keyword")
        value = item[1]
        if type(value) is not str or not 0 < len(value) <= MAX_VALUE or not value.isprintable():
            raise ValueError("invalid answer: value")
        found[item[0]] = value
    return found
