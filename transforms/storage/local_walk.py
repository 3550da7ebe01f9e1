"""Walk local inputs: each real folder once, whatever the form of the pattern."""

from __future__ import annotations

import errno
import glob
import os
import re
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

from transforms.storage.names import MAGIC
from transforms.storage.selection import (
    LAKE_MARKERS,
    Selection,
    Skip,
    Skipped,
    is_below_folder,
    to_regex,
)
from transforms.storage.temporary import is_temporary

_DOUBLE_STAR: Final = re.compile(r"(?:^|/)\*\*(?:/|$)")
_LOOP_OR_MISSING: Final = (errno.ELOOP, errno.ENOENT, errno.ENOTDIR)

Found = tuple[str, os.stat_result] | OSError | Skipped
"""A file with its status, the error of a folder or file that cannot be listed, or a skipped name."""


@dataclass(frozen=True)
class _Root:
    """A file or folder that a pattern matches.

    Attributes:
        path: its absolute path.
        base: the folder of the pattern to which --include and --exclude are relative.
        wanted: the expression that files below it must match; "" for all.
    """

    path: str
    base: str
    wanted: str = ""

    def relative(self, path: str) -> str:
        """Return a path below the base."""
        return path[len(self.base.rstrip("/")) + 1 :]


@dataclass
class LocalWalk:
    """One listing of local patterns.

    Links to files are followed. Links to folders are followed after all that is not behind a link was
    listed, and only to folders that were not listed yet and do not contain an input: so a loop ends, and
    a folder has the same name however it is reached.

    Attributes:
        selection: the names that are inputs.
    """

    selection: Selection
    _listed: dict[str, set[str]] = field(default_factory=dict)
    _files: set[tuple[str, str]] = field(default_factory=set)
    _links: list[tuple[_Root, str]] = field(default_factory=list)
    _real_roots: list[str] = field(default_factory=list)
    _real_paths: dict[str, str] = field(default_factory=dict)
    _in_lake: dict[tuple[str, str], bool] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._excluded = tuple(os.path.realpath(root) for root in self.selection.roots)

    def match(self, patterns: Sequence[str]) -> Iterator[Found]:
        """Yield the files that match patterns, which are absolute paths.

        An existing file or folder is taken literally, even if its name has glob characters.
        """
        roots = [root for pattern in patterns for root in _expand(pattern)]
        self._real_roots = [os.path.realpath(root.path) for root in roots]
        behind_links = [root for root in roots if _passes_link(root)]
        for root in roots:
            if root not in behind_links:
                yield from self._list_root(root)
        for root in behind_links:
            if os.path.isdir(root.path) and self._is_listed_folder(root.path, root.wanted):
                yield Skipped(Skip.LINK)
            elif root.path != root.base and self._is_in_lake(self._real(root.path), os.sep):
                yield Skipped(Skip.LAKE)
            else:
                yield from self._list_root(root)
        while self._links:
            links, self._links = self._links, []
            for root, path in links:
                yield from self._follow(root, path)

    def _list_root(self, root: _Root) -> Iterator[Found]:
        is_folder = os.path.isdir(root.path)
        folder = root.path if is_folder else os.path.dirname(root.path)
        if self._is_in_lake(folder, root.base):
            yield Skipped(Skip.LAKE)
        elif is_folder:
            relative = root.relative(folder)
            if relative and (why := self.selection.skip_folder(relative)):
                yield Skipped(why)
            else:
                yield from self._walk(root, folder)
        elif not self._is_listed(folder, os.path.basename(root.path), root.wanted):
            self._files.add((self._real(folder), os.path.basename(root.path)))
            yield from self._file(root, root.path)

    def _is_listed(self, folder: str, name: str, wanted: str) -> bool:
        if (self._real(folder), name) in self._files:
            return True
        return os.path.isdir(folder) and self._is_listed_folder(folder, wanted)

    def _is_listed_folder(self, folder: str, wanted: str) -> bool:
        return self._real(folder) in self._listed.get(wanted, ())

    def _is_in_lake(self, folder: str, base: str) -> bool:
        """Return whether a folder is in the own lake, or a folder from `base` to it is a lake."""
        key = folder, base
        if key not in self._in_lake:
            self._in_lake[key] = (
                any(is_below_folder(self._real(folder), root) for root in self._excluded)
                or any(os.path.lexists(os.path.join(folder, name)) for name in LAKE_MARKERS)
                or (len(folder) > len(base) and self._is_in_lake(os.path.dirname(folder), base))
            )
        return self._in_lake[key]

    def _real(self, folder: str) -> str:
        if folder not in self._real_paths:
            self._real_paths[folder] = os.path.realpath(folder)
        return self._real_paths[folder]

    def _walk(self, root: _Root, folder: str) -> Iterator[Found]:
        """Yield what is in a folder, then what is in the folders below it, in order of name.

        Folders are identified by their real paths, as some file systems repeat inodes.
        """
        top, real_top = folder, os.path.realpath(folder)
        waiting = [folder]
        while waiting:
            folder = waiting.pop()
            real = real_top + folder[len(top) :]
            try:
                with os.scandir(folder) as scan:
                    entries = sorted(scan, key=lambda entry: entry.name)
            except OSError as error:
                error.filename = folder
                yield error
                continue
            if real in self._excluded or any(entry.name in LAKE_MARKERS for entry in entries):
                yield Skipped(Skip.LAKE)
                continue
            listed = self._listed.setdefault(root.wanted, set())
            if real in listed:
                continue
            listed.add(real)
            below: list[str] = []
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    if why := self.selection.skip_folder(root.relative(entry.path)):
                        yield Skipped(why)
                    else:
                        below.append(entry.path)
                elif entry.is_symlink() and os.path.isdir(entry.path):
                    self._links.append((root, entry.path))
                else:
                    yield from self._file(root, entry.path)
            waiting += reversed(below)

    def _follow(self, root: _Root, link: str) -> Iterator[Found]:
        """Yield what is in the folder to which a link leads, unless it is listed elsewhere."""
        if why := self.selection.skip_folder(root.relative(link)):
            yield Skipped(why)
            return
        real = os.path.realpath(link)
        if real in self._listed.get(root.wanted, ()) or self._contains_input(real):
            yield Skipped(Skip.LINK)
        elif self._is_in_lake(real, os.sep):
            yield Skipped(Skip.LAKE)
        else:
            yield from self._walk(root, link)

    def _contains_input(self, folder: str) -> bool:
        return any(is_below_folder(root, folder) for root in self._real_roots)

    def _file(self, root: _Root, path: str) -> Iterator[Found]:
        if root.wanted and not re.match(root.wanted, path):
            return
        if why := self.selection.skip_file(root.relative(path)):
            yield Skipped(why)
            return
        if is_temporary(os.path.basename(path)):  # a receiver is writing it
            yield Skipped(Skip.EXCLUDED)
            return
        if self._files and root.path != path:
            folder, name = os.path.split(path)
            if (self._real(folder), name) in self._files:
                return
        try:
            status = os.stat(path)
        except OSError as error:
            if os.path.islink(path):
                yield _link_error(error)
            elif not isinstance(error, FileNotFoundError):  # removed since it was listed
                yield error
            return
        if os.path.islink(path):
            folder = os.path.dirname(os.path.realpath(path))
            if self._is_in_lake(folder, os.sep):
                yield Skipped(Skip.LAKE)
                return
        yield (path, status) if stat.S_ISREG(status.st_mode) else Skipped(Skip.SPECIAL_FILE)


def _expand(pattern: str) -> Iterator[_Root]:
    """Yield the files and folders that a pattern matches; `**` is left to the walk."""
    base, rest = _existing_prefix(pattern)
    if not rest:
        yield _Root(base, base if os.path.isdir(base) else os.path.dirname(base))
        return
    if not MAGIC.search(rest):
        return
    literal = glob.escape(base)
    stars = _DOUBLE_STAR.search(rest)
    if stars is None:
        for path in sorted(glob.glob(literal + rest, include_hidden=True)):
            yield _Root(path, base)
        return
    expression = re.escape(base) + to_regex(rest) + "|" + re.escape(base) + to_regex(rest + "/**")
    head = rest[: stars.start()]
    for path in sorted(glob.glob(literal + head, include_hidden=True)):
        if os.path.isdir(path):
            yield _Root(path, base or os.sep, expression)


def _existing_prefix(pattern: str) -> tuple[str, str]:
    """Split an absolute pattern into the longest part that exists, and the rest with its slash."""
    parts = pattern.split("/")
    for number in range(len(parts), 1, -1):
        prefix = "/".join(parts[:number])
        if os.path.lexists(prefix):
            return prefix, pattern[len(prefix) :]
    return "", pattern


def _passes_link(root: _Root) -> bool:
    """Return whether the path of a root has a link at its end or below its base."""
    path = root.path
    while True:
        if os.path.islink(path):
            return True
        parent = os.path.dirname(path)
        if len(parent) <= len(root.base) or parent == path:
            return False
        path = parent


def _link_error(error: OSError) -> OSError | Skipped:
    return Skipped(Skip.LINK) if error.errno in _LOOP_OR_MISSING else error
