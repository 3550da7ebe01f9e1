"""Name, list and remove the structured reports of a lake, which are beside `objects/`.

The report about `objects/NAME` is `structured_reports/NAME` below the same root; a folder by region is no
part of its name. An image that is not routed has none. Reports are removed with their objects, and when a
decision changes; `pipeline.structured_reports` writes those that are missing.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from transforms.core.reasons import Status
from transforms.lake.files import iter_files, remove_all
from transforms.lake.layout import REPORTS, Layout, without_region
from transforms.lake.schema import IndexRow
from transforms.storage.local import uri_to_path
from transforms.storage.schemes import is_below, is_local, join, storage_of


def report_uri(layout: Layout, row: IndexRow) -> str | None:
    """Return the URI of the report about the image of a row, or None if it is not routed."""
    if row.status != Status.ROUTED:
        return None
    return layout.report_uri(*row.uri_parts)


def has_reports(layout: Layout) -> bool:
    """Return whether a lake has structured reports.

    Raises:
        OSError: a folder cannot be listed.
    """
    return any(map(_exists, _folders(layout)))


def list_reports(layout: Layout) -> Iterator[str]:
    """Yield the URIs of the structured reports of a lake.

    Raises:
        OSError: a folder cannot be listed.
    """
    for folder in _folders(layout):
        for found in iter_files(folder):
            yield found.uri


def remove_reports_of_objects(layout: Layout, object_uris: Iterable[str]) -> None:
    """Remove the reports about objects, if there are any.

    Args:
        layout: the lake.
        object_uris: absolute paths or URIs of objects.

    Raises:
        OSError: a report cannot be removed.
    """
    remove_all(reports_of_objects(layout, object_uris))


def reports_of_objects(layout: Layout, object_uris: Iterable[str]) -> list[str]:
    """Return the names that reports about objects have, in the roots that have any reports.

    Args:
        layout: the lake.
        object_uris: absolute paths or URIs of objects.

    Raises:
        OSError: a folder cannot be listed.
    """
    reports: list[str] = []
    roots = [root for root in layout.object_roots if _exists(join(root, REPORTS))]
    for uri in object_uris if roots else ():
        for root in roots:
            objects = join(root, "objects")
            if is_below(uri, objects):
                name = without_region(uri[len(objects) + 1 :])
                reports.append(join(root, REPORTS, name))
    return reports


def _folders(layout: Layout) -> list[str]:
    return [join(root, REPORTS) for root in layout.object_roots]


def _exists(folder: str) -> bool:
    if is_local(folder):
        return uri_to_path(folder).is_dir()
    return next(iter(storage_of(folder).list_below(folder)), None) is not None
