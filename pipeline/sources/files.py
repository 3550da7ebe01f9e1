"""Discovers local files: paths, folders (with all below) and globs."""

from __future__ import annotations

import glob
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import apache_beam as beam
from apache_beam import pvalue

from transforms.config import RouteConfig
from transforms.lake.layout import path_to_uri, uri_to_path
from transforms.metrics import Count, count
from transforms.reasons import Stage
from transforms.refs import FAILED, ObjectRef, failure_of, unaccounted, version_of

REFS = "refs"


@dataclass
class MatchFiles(beam.PTransform):  # type: ignore[misc]
    """Input patterns to references in `REFS`, and `FAILED` for folders that cannot be listed."""

    config: RouteConfig

    def expand(self, pbegin: pvalue.PBegin) -> pvalue.DoOutputsTuple:
        return (
            pbegin
            | "Patterns" >> beam.Create(self.config.inputs)
            | "Match"
            >> beam.FlatMap(_match, self.config)
            .with_output_types(Any)
            .with_outputs(FAILED, main=REFS)
        )


def _match(pattern: str, config: RouteConfig) -> Iterator[Any]:
    for found in list_objects(pattern, tuple(map(str, config.layout.object_roots))):
        if isinstance(found, ObjectRef):
            count(Count.DISCOVERED)
            yield found
        else:
            count(Count.FAILED)
            error = unaccounted(found, Stage.FETCH)
            uri = path_to_uri(str(found.filename or pattern))
            yield pvalue.TaggedOutput(FAILED, failure_of(uri, error, log_uris=config.log_uris))


def list_objects(pattern: str, lakes: tuple[str, ...]) -> Iterator[ObjectRef | OSError]:
    """List the regular files that a pattern names, in order of their paths.

    What exists under the very name is taken literally, so that names with glob characters work.
    Links to files are followed, links to folders below a folder are not; sockets, pipes and links
    to nowhere are no objects.

    Args:
        pattern: path of a file or folder, or a glob where ** spans folders.
        lakes: folders whose files are never listed: a lake is not routed into itself.

    Yields:
        References, and the error of each folder or file that could not be looked at.
    """
    base = os.path.abspath(uri_to_path(pattern))
    if os.path.lexists(base):
        matches = [base]
    else:
        matches = sorted(glob.glob(base, recursive=True, include_hidden=True))
    own = tuple(map(os.path.realpath, lakes))
    seen: set[str] = set()
    for match in matches:
        for path in _files_below(match, own):
            if isinstance(path, OSError):
                yield path
            elif path not in seen:
                seen.add(path)
                found = _ref(path)
                if found is not None:
                    yield found


def _files_below(path: str, own: tuple[str, ...]) -> Iterator[str | OSError]:
    if not os.path.isdir(path):
        if not _stands_in(os.path.dirname(path), own):
            yield path
        return
    errors: list[OSError] = []
    for folder, folders, files in os.walk(path, onerror=errors.append):
        if _stands_in(folder, own):
            folders.clear()
            continue
        folders.sort()
        for name in sorted(files):
            yield os.path.join(folder, name)
    yield from errors


def _stands_in(folder: str, roots: tuple[str, ...]) -> bool:
    """Whether a folder is one of the real paths `roots` or below one, whatever links lead there."""
    real = os.path.realpath(folder)
    return any(os.path.commonpath((real, root)) == root for root in roots)


def _ref(path: str) -> ObjectRef | OSError | None:
    try:
        status = os.stat(path)
    except FileNotFoundError:
        return None  # a link to nowhere, or gone since it was listed
    except OSError as error:
        return error
    if not stat.S_ISREG(status.st_mode):
        return None
    return ObjectRef(path_to_uri(path), version_of(status), status.st_size)
