"""Which of the listed names are inputs: --include, --exclude, and the names that are never inputs."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import cached_property
from typing import Final

from fsspec.utils import glob_translate

PARTIAL_STARS: Final = re.compile(r"(?<=[^/*])\*\*+|\*\*+(?=[^/*])")
"""Double stars that are only a part of a path segment mean one star, as in Python's glob."""

DEFAULT_EXCLUDE: Final = (
    # macOS
    ".DS_Store", "._*", ".AppleDouble", ".Spotlight-V100", ".Trashes", ".Trash-*", ".fseventsd",
    ".TemporaryItems", ".apdisk", ".localized", ".DocumentRevisions-V100", ".VolumeIcon.icns", "Icon\r",
    "__MACOSX",
    # Windows
    "Thumbs.db", "Thumbs.db:encryptable", "ehthumbs.db", "ehthumbs_vista.db", "desktop.ini",
    "$RECYCLE.BIN", "System Volume Information", "~$*",
    # NAS devices and network file systems
    "@eaDir", "#recycle", ".@__thumb", "@Recycle", ".nfs[0-9a-f]*", ".fuse_hidden*", ".smbdelete*",
    "lost+found", ".snapshot",
    # files that are still being copied
    ".*.[A-Za-z0-9][A-Za-z0-9][A-Za-z0-9][A-Za-z0-9][A-Za-z0-9][A-Za-z0-9]", ".~tmp~", ".rsync-partial",
    "*.part", "*.partial", "*.filepart", "*.crdownload", "*.tmp",
    # editors and office programs
    "*~", ".*.sw[a-p]", ".#*", "#*#", ".~lock.*#", ".directory",
)  # fmt: skip
"""Names that file managers, copying programs and editors leave; rsync's partial files are
`.NAME.XXXXXX`."""
ARCHIVE: Final = re.compile(r"\.(?:zip|tar|tar\.gz|tgz)\Z", re.IGNORECASE)
"""End of the names of archives that are opened."""
LAKE_MARKER: Final = "lake.json"
"""Name of the file that marks a folder as a lake."""
LAKE_CLAIM: Final = ".dicom-router-lake.json"
"""Name of the file that marks a root of sinks outside their lake."""
LAKE_MARKERS: Final = (LAKE_MARKER, LAKE_CLAIM)
LAKE_FOLDERS: Final = (
    "dead_letters", "headers", "history", "index", "journal", "labels", "objects", "quarantine",
    "runs", "thumbnails",
)  # fmt: skip
"""Folders of a lake."""
MEDIA_DIRECTORY: Final = re.compile(r"DICOMDIR(\.|;1)?", re.IGNORECASE)
"""Name of the file that lists the objects of a medium (PS3.10 section 8.6); ISO 9660 adds a version."""


class Skip(StrEnum):
    """Why a name that an input matches is not an object of the run."""

    EXCLUDED = "excluded"
    LINK = "link"
    SPECIAL_FILE = "special_file"
    LAKE = "lake"
    MEDIA_DIRECTORY = "media_directory"
    NOT_CURRENT = "not_current"


SKIP_MEANINGS: Final[dict[Skip, str]] = {
    Skip.EXCLUDED: "excluded by name (--include, --exclude and the names that are excluded by default)",
    Skip.LINK: "links to folders that are listed elsewhere or contain an input, broken links, and "
    "links in archives",
    Skip.SPECIAL_FILE: "sockets, pipes and devices",
    Skip.LAKE: "lakes",
    Skip.MEDIA_DIRECTORY: "DICOMDIR files, whose objects are read without them",
    Skip.NOT_CURRENT: "entries of inventories that are not the current version of an object",
}
"""Description of each reason to skip, in the summary of a run."""


@dataclass(frozen=True)
class Skipped:
    """A name that an input matches and that is skipped: a file, or a folder with all that is below it.

    Attributes:
        why: the reason.
    """

    why: Skip


@dataclass(frozen=True)
class Selection:
    """The names that are inputs. Names are matched without regard to case.

    A glob without a slash matches the name of a file, or for `exclude` also that of a folder. A glob with
    a slash matches the path below the input, or a folder that leads to it; `**` spans folders.

    Attributes:
        include: globs of the files to read; empty for all.
        exclude: globs of the files and folders to skip.
        default_exclude: whether to skip `DEFAULT_EXCLUDE` as well.
        roots: folders, local or in stores, below which nothing is read: the lake and its sinks.
    """

    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    default_exclude: bool = True
    roots: tuple[str, ...] = ()

    def skip_folder(self, relative: str) -> Skip | None:
        """Return why a folder is skipped with all that is below it, or None.

        Args:
            relative: path below the input, without slashes at its ends.
        """
        return Skip.EXCLUDED if self._excludes(relative) else None

    def skip_file(self, relative: str, *, in_archive: bool = False) -> Skip | None:
        """Return why a file is skipped, or None; its folders count as well.

        Archives are not skipped for `include`, which selects their members; see `of_members`.

        Args:
            relative: as for `skip_folder`.
            in_archive: whether it is a member of an archive.
        """
        if self._excludes(relative):
            return Skip.EXCLUDED
        name = relative.rpartition("/")[2]
        if MEDIA_DIRECTORY.fullmatch(name):
            return Skip.MEDIA_DIRECTORY
        if not self.include or (ARCHIVE.search(name) and not in_archive):
            return None
        names, paths = self._included
        return None if names(name) or paths(relative) else Skip.EXCLUDED

    def of_members(self, archive: str) -> Selection:
        """Return the selection of the members of an archive: all, if `include` has its name."""
        names, _ = self._included
        return replace(self, include=()) if names(archive.rpartition("/")[2]) else self

    def _excludes(self, relative: str) -> bool:
        names, paths = self._excluded
        return any(map(names, relative.split("/"))) or bool(paths(relative))

    @cached_property
    def _excluded(self) -> tuple[_Match, _Match]:
        default = DEFAULT_EXCLUDE if self.default_exclude else ()
        return _compile((*self.exclude, *default))

    @cached_property
    def _included(self) -> tuple[_Match, _Match]:
        return _compile(self.include)


ALL: Final = Selection(default_exclude=False)
"""Every name."""


class _Match:
    """A regular expression that can be pickled, or none, which matches nothing."""

    def __init__(self, expressions: Iterable[str]) -> None:
        joined = "|".join(expressions)
        self._pattern = re.compile(joined, re.IGNORECASE) if joined else None

    def __call__(self, text: str) -> bool:
        return self._pattern is not None and self._pattern.match(text) is not None


def _compile(globs: Iterable[str]) -> tuple[_Match, _Match]:
    """Return what matches names, and what matches paths and all that is below them."""
    names: list[str] = []
    paths: list[str] = []
    for glob in globs:
        stripped = glob.strip("/")
        if "/" not in glob.rstrip("/"):
            names.append(to_regex(stripped))
        else:
            paths += [to_regex(stripped), to_regex(f"{stripped}/**")]
    return _Match(names), _Match(paths)


def to_regex(glob: str) -> str:
    """Return the regular expression of a glob, in which `**` spans folders."""
    return f"(?:{glob_translate(PARTIAL_STARS.sub('*', glob))})"


def is_below_folder(real: str, root: str) -> bool:
    """Return whether a path is a folder or below it."""
    return real == root or real.startswith(root.rstrip("/") + "/")
