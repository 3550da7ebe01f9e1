"""Give files names without replacing others, and exchange folders, atomically."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
from collections.abc import Collection
from pathlib import Path
from typing import Final

from transforms.storage.temporary import temporary_name

LINKS_UNSUPPORTED: Final = (errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK)
"""Errors of link(2) on file systems without hard links, such as exFAT, SMB and many in user space."""
FLAGS_UNSUPPORTED: Final = (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP)
"""Errors of renameat2(2) on file systems and kernels without its flags."""
_AT_FDCWD: Final = -100
_RENAME_NOREPLACE: Final = 1
_RENAME_EXCHANGE: Final = 2


class NamesUnsupported(OSError):
    """A file system cannot give a file a name without the risk of replacing another file."""


def give_name(partial: Path, target: Path) -> None:
    """Give a complete file its name; `partial` may remain.

    It uses a hard link, or else renameat2(2) with RENAME_NOREPLACE. Unlike rename(2), neither can replace
    a file.

    Raises:
        FileExistsError: the name is taken.
        NamesUnsupported: the file system has neither.
    """
    try:
        os.link(partial, target)
    except OSError as error:
        if error.errno not in LINKS_UNSUPPORTED:
            raise
    else:
        return
    try:
        _renameat2(partial, target, _RENAME_NOREPLACE)
    except OSError as error:
        if error.errno not in FLAGS_UNSUPPORTED:
            raise
        raise NamesUnsupported(
            errno.ENOTSUP, "the file system has neither hard links nor RENAME_NOREPLACE"
        ) from error


def exchange(one: Path, other: Path) -> bool:
    """Exchange two folders atomically; return False if the system does not support this."""
    try:
        _renameat2(one, other, _RENAME_EXCHANGE)
    except OSError as error:
        if error.errno in FLAGS_UNSUPPORTED:
            return False
        raise
    return True


def require_names(folder: Path) -> None:
    """Raise unless files in a folder can be given names without the risk of replacing others.

    Raises:
        NamesUnsupported: they cannot.
        OSError: the folder cannot be written to.
    """
    first, second, name = (folder / temporary_name() for _ in range(3))
    try:
        first.touch(0o600)
        second.touch(0o600)
        give_name(first, name)
        with contextlib.suppress(FileExistsError):
            give_name(second, name)
            raise NamesUnsupported(errno.ENOTSUP, "the file system has replaced a file")
    finally:
        for path in (first, second, name):
            path.unlink(missing_ok=True)


def has_hard_links(folder: Path) -> bool:
    """Return whether a folder is on a file system with hard links.

    Raises:
        OSError: the folder cannot be written to.
    """
    first, second = (folder / temporary_name() for _ in range(2))
    try:
        first.touch(0o600)
        os.link(first, second)
    except OSError as error:
        if error.errno not in LINKS_UNSUPPORTED:
            raise
        return False
    finally:
        first.unlink(missing_ok=True)
        second.unlink(missing_ok=True)
    return True


def file_system_type(path: Path) -> str:
    """Return the type of the file system of a path, as mount(8) shows it; "unknown" if /proc has none."""
    real = os.path.realpath(path)
    best, found = "", "unknown"
    with contextlib.suppress(OSError, ValueError):
        for line in Path("/proc/self/mountinfo").read_text().splitlines():
            left, _, right = line.partition(" - ")
            point = left.split()[4].encode().decode("unicode_escape")
            if len(point) >= len(best) and os.path.commonpath((real, point)) == point:
                best, found = point, right.split()[0]
    return found


def _renameat2(source: Path, target: Path, flags: int) -> None:
    """Call renameat2(2).

    Raises:
        OSError: the call failed, or the C library has no such function (ENOSYS).
    """
    libc = ctypes.CDLL(None, use_errno=True)
    if not hasattr(libc, "renameat2"):
        raise OSError(errno.ENOSYS, "no renameat2(2)", str(source))
    paths = os.fsencode(source), os.fsencode(target)
    if libc.renameat2(_AT_FDCWD, paths[0], _AT_FDCWD, paths[1], flags):
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code), str(source), None, str(target))


def link_missing(source: Path, target: Path, excluded: Collection[str]) -> bool:
    """Hard-link the files of a folder, except excluded ones, into a folder that lacks them.

    Returns:
        False if the file system has no hard links.
    """
    for path in source.iterdir():
        if path.name not in excluded:
            try:
                os.link(path, target / path.name, follow_symlinks=False)
            except FileExistsError:
                continue
            except OSError as error:
                if error.errno not in LINKS_UNSUPPORTED:
                    raise
                return False
    return True
