"""Names in object stores: buckets, prefixes and patterns. Stores have no folders."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from itertools import chain

from transforms.storage.base import ObjectInfo
from transforms.storage.selection import (
    LAKE_FOLDERS,
    LAKE_MARKERS,
    PARTIAL_STARS,
    Selection,
    Skip,
    Skipped,
    to_regex,
)

MAGIC = re.compile(r"[*?\[]")


def split_uri(uri: str) -> tuple[str, str]:
    """Return the bucket and the name within it; names are taken as they are, nothing is unquoted."""
    bucket, _, name = uri.partition("://")[2].partition("/")
    return bucket, name


def folder_prefix(uri: str) -> str:
    """Return the prefix of every object below a folder."""
    return uri if uri.endswith("/") else uri + "/"


def is_folder_marker(found: ObjectInfo) -> bool:
    """Return whether this is one of the empty objects with which consoles show a folder."""
    return found.uri.endswith("/") and found.size == 0


class LakeFinder:
    """Find the lakes among listed names by the folders that every lake has.

    A listing in order of name comes to them before the marker, so the marker is looked up.
    """

    def __init__(self, base: str, exists: Callable[[str], bool]) -> None:
        """Start with no lake found.

        Args:
            base: folder of the listing, ending in a slash; lakes that contain it are not looked up.
            exists: returns whether an object exists.
        """
        self._base = base
        self._exists = exists
        self._is_lake: dict[str, bool] = {}

    def lake_of(self, uri: str) -> str | None:
        """Return the folder, ending in a slash, of the lake to which an object belongs, or None.

        Raises:
            OSError: the marker cannot be looked up.
        """
        relative = uri.removeprefix(self._base)
        if relative == uri and self._base:
            return None
        parts = relative.split("/")
        for number, part in enumerate(parts):
            if (part in LAKE_FOLDERS and number < len(parts) - 1) or part in LAKE_MARKERS:
                folder = self._base + "".join(f"{one}/" for one in parts[:number])
                if folder not in self._is_lake:
                    markers = (folder + name for name in LAKE_MARKERS)
                    self._is_lake[folder] = any(map(self._exists, markers))
                if self._is_lake[folder]:
                    return folder
        return None


def match_objects(
    pattern: str,
    stat: Callable[[str], ObjectInfo | None],
    list_prefix: Callable[[str], Iterator[ObjectInfo]],
    selection: Selection,
) -> Iterator[ObjectInfo | OSError | Skipped]:
    """Implement `Storage.match` by a store's `stat` and its listing of a prefix."""
    prefixes = tuple(folder_prefix(root) for root in selection.roots)
    magic = MAGIC.search(pattern)
    lakes: set[str] = set()
    try:
        base, matches = _candidates(pattern, magic.start() if magic else None, stat, list_prefix)
        finder = LakeFinder(base, lambda uri: stat(uri) is not None)
        for found in matches:
            own = [prefix for prefix in prefixes if found.uri.startswith(prefix)]
            lake = own[0] if own else finder.lake_of(found.uri)
            if lake is not None:
                if lake not in lakes:
                    yield Skipped(Skip.LAKE)
                lakes.add(lake)
            elif why := selection.skip_file(found.uri[len(base) :]):
                yield Skipped(why)
            else:
                yield found
    except OSError as error:
        yield error


def _candidates(
    pattern: str,
    magic: int | None,
    stat: Callable[[str], ObjectInfo | None],
    list_prefix: Callable[[str], Iterator[ObjectInfo]],
) -> tuple[str, Iterator[ObjectInfo]]:
    """Return the folder to which the matches of a pattern are relative, and the matches."""
    folder = folder_prefix(pattern)
    below = list_prefix(folder)
    first = next(below, None)
    own = None
    if split_uri(pattern)[1] and not pattern.endswith("/"):
        own = stat(pattern)
    if first is not None:
        literal = [first] if own is None else [own, first]
        return (folder if own is None else _parent(pattern)), chain(literal, below)
    if own is not None:
        return _parent(pattern), iter([own])
    if magic is None:
        return folder, iter([])
    glob = PARTIAL_STARS.sub("*", pattern)
    wanted = re.compile(f"{to_regex(glob)}|{to_regex(folder_prefix(glob) + '**')}")
    listed = list_prefix(pattern[:magic])
    return _parent(pattern[:magic]), (found for found in listed if wanted.match(found.uri))


def _parent(uri: str) -> str:
    """Return the part of a URI up to its last slash."""
    return uri[: uri.rindex("/") + 1]
