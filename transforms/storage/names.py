"""Names of objects in a store: buckets, prefixes and patterns. Stores have no folders."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence

from fsspec.utils import glob_translate

from transforms.storage.base import ObjectInfo

MAGIC = re.compile(r"[*?\[]")
STARS_WITHIN = re.compile(r"(?<=[^/*])\*\*+|\*\*+(?=[^/*])")
"""Stars that are not a whole part of a path mean one star, as they do in Python's glob."""


def split(uri: str) -> tuple[str, str]:
    """Return the bucket and the name within it; a name is taken as it is, nothing is unquoted."""
    bucket, _, name = uri.partition("://")[2].partition("/")
    return bucket, name


def below(uri: str) -> str:
    """Return the prefix of every object below a folder."""
    return uri if uri.endswith("/") else uri + "/"


def is_folder_mark(found: ObjectInfo) -> bool:
    """Whether this is one of the empty objects that consoles make to show a folder."""
    return found.uri.endswith("/") and found.size == 0


def matched(
    pattern: str,
    find: Callable[[str], ObjectInfo | None],
    list_prefix: Callable[[str], Iterator[ObjectInfo]],
    excluded: Sequence[str],
) -> Iterator[ObjectInfo | OSError]:
    """As `Storage.match`, from what a store can do."""
    own = tuple(below(root) for root in excluded)
    try:
        for found in _candidates(pattern, find, list_prefix):
            if not found.uri.startswith(own):
                yield found
    except OSError as error:
        yield error


def _candidates(
    pattern: str,
    find: Callable[[str], ObjectInfo | None],
    list_prefix: Callable[[str], Iterator[ObjectInfo]],
) -> Iterator[ObjectInfo]:
    literal = False
    if split(pattern)[1] and not pattern.endswith("/") and (found := find(pattern)):
        literal = True
        yield found
    for found in list_prefix(below(pattern)):
        literal = True
        yield found
    magic = MAGIC.search(pattern)
    if literal or magic is None:
        return
    plain = STARS_WITHIN.sub("*", pattern)
    wanted = re.compile("|".join(f"(?:{glob_translate(p)})" for p in (plain, below(plain) + "**")))
    for found in list_prefix(pattern[: magic.start()]):
        if wanted.match(found.uri):
            yield found
