"""Make folders that survive a power loss.

The entry of a new folder is on the disk once its parent is synced (fsync(2)). A process may be killed
between both, so that each process also syncs the parents of folders that it finds, once. All entries that
an object needs are synced together, after it has its name: a file system with a journal then writes them
in one transaction.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final

MAX_SYNCED: Final = 65_536
"""Maximum number of folders that a process remembers to have synced, about 20 MB."""
_SYNCED: Final[dict[str, tuple[int, int]]] = {}
"""Device and inode of folders by path, whose entries in their parents this process has synced."""
_CANNOT_SYNC: Final = (errno.EINVAL, errno.ENOTSUP)
"""Errors of file systems that cannot sync folders."""


def make_folders(folder: Path, mode: int) -> list[Path]:
    """Make a folder and its missing ancestors.

    Args:
        folder: path of the folder.
        mode: permissions of new folders; the umask can only narrow them.

    Returns:
        Those of the folder and its ancestors whose entries may not be on the disk; see `sync_entries`.

    Raises:
        OSError: a folder cannot be made, or there is a file of its name.
    """
    unsynced: list[Path] = []
    for path in (folder, *folder.parents):
        if _is_synced(path):
            break
        unsynced.append(path)
    for path in reversed(unsynced):
        if not path.is_dir():
            path.mkdir(mode, exist_ok=True)
    return unsynced


def sync_entries(folders: Sequence[Path]) -> None:
    """Sync the parents of folders, whose entries are then on the disk.

    Parents that may not be read are left alone: other programs have made them.

    Raises:
        OSError: the disk fails.
    """
    for folder in folders:
        identity = _identity(folder)
        with contextlib.suppress(PermissionError):
            sync_folder(folder.parent)
        if identity is not None:
            _SYNCED[str(folder)] = identity
    if len(_SYNCED) > MAX_SYNCED:
        _SYNCED.clear()


def sync_folders(folders: Iterable[Path]) -> None:
    """Sync the entries of folders, each once; folders that do not exist are left out."""
    for folder in sorted(set(folders)):
        with contextlib.suppress(FileNotFoundError):
            sync_folder(folder)


def sync_folder(folder: Path) -> None:
    """Sync the entries of a folder, where the file system can.

    Raises:
        OSError: the folder cannot be opened, or the disk fails.
    """
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in _CANNOT_SYNC:
            raise
    finally:
        os.close(descriptor)


def _is_synced(folder: Path) -> bool:
    known = _SYNCED.get(str(folder))
    return known is not None and known == _identity(folder)


def _identity(folder: Path) -> tuple[int, int] | None:
    try:
        status = folder.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino
