"""Permissions of the files and folders that this program makes; the umask can only narrow them."""

from __future__ import annotations

import contextlib
import functools
import os
import re
from pathlib import Path
from typing import Final

FILE_MODE: Final = 0o640
"""Default permissions of files: the owner may read and write, the group may read."""
PRIVATE_MODE: Final = 0o600
"""Permissions of temporary files."""
PRIVATE_FOLDER_MODE: Final = 0o700
_OCTAL: Final = re.compile(r"0?[0-7]{3}")


def parse_file_mode(text: str) -> int:
    """Return permissions of files that are written in octal, such as 0640.

    Raises:
        ValueError: the text is something else, or the owner may not read and write, or somebody may
            execute.
    """
    mode = int(text, 8) if _OCTAL.fullmatch(text) else 0
    if mode & 0o600 != 0o600 or mode & 0o111:
        raise ValueError(
            f"{text!r}: write the permissions of files in octal, such as 0640; the owner must be able "
            "to read and write, and nobody to execute"
        )
    return mode


def folder_mode(file_mode: int) -> int:
    """Return the permissions of folders of files: who may read a file may search its folder."""
    return file_mode | (file_mode & 0o444) >> 2


def private_folder_mode(file_mode: int) -> int:
    """Return the permissions of a folder for partial files: only who may write files has any."""
    writers = file_mode & 0o222
    return writers | writers << 1 | writers >> 1


def apply_file_mode(descriptor: int, file_mode: int) -> None:
    """Give an open file its permissions, less those that the umask takes.

    Do nothing on a file system whose permissions are those of the mount.
    """
    with contextlib.suppress(OSError):
        os.fchmod(descriptor, file_mode & ~_umask())


def narrow_umask(mask: int) -> None:
    """Add bits to the umask of this process."""
    os.umask(os.umask(mask) | mask)
    _umask.cache_clear()


@functools.cache
def _umask() -> int:
    """Return the umask; os.umask() could not read it without changing it for all threads.

    It is read once: a program that changes it later calls `narrow_umask`.
    """
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("Umask:"):
                return int(line.split()[1], 8)
    return 0o077
