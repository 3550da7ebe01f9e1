"""Names in object stores: buckets, prefixes and patterns. Stores have no folders."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence

from fsspec.utils import glob_translate

from transforms.storage.base import ObjectInfo

MAGIC = re.compile(r"[*?\[]")
PARTIAL_STARS = re.compile(r"(?<=[^/*])\*\*+|\*\*+(?=[^/*])")
"""Double stars that are only a part of a path segment mean one star, as in Python's glob."""


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


def match_objects(
    pattern: str,
    stat: Callable[[str], ObjectInfo | None],
    list_prefix: Callable[[str], Iterator[ObjectInfo]],
    excluded: Sequence[str],
) -> Iterator[ObjectInfo | OSError]:
    """Implement `Storage.match` by a store's `stat` and its listing of a prefix."""
    prefixes = tuple(folder_prefix(root) for root in excluded)
    try:
        for found in _candidates(pattern, stat, list_prefix):
            if not found.uri.startswith(prefixes):
                yield found
    except OSError as error:
        yield error


def _candidates(
    pattern: str,
    stat: Callable[[str], ObjectInfo | None],
    list_prefix: Callable[[str], Iterator[ObjectInfo]],
) -> Iterator[ObjectInfo]:
    literal = False
    if split_uri(pattern)[1] and not pattern.endswith("/") and (found := stat(pattern)):
        literal = True
        yield found
    for found in list_prefix(folder_prefix(pattern)):
        literal = True
        yield found
    magic = MAGIC.search(pattern)
    if literal or magic is None:
        return
    glob = PARTIAL_STARS.sub("*", pattern)
    globs = (glob, folder_prefix(glob) + "**")
    wanted = re.compile("|".join(f"(?:{glob_translate(one)})" for one in globs))
    for found in list_prefix(pattern[: magic.start()]):
        if wanted.match(found.uri):
            yield found
