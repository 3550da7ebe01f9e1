"""Open and copy local files that others may replace, truncate or serve slowly.

Opening never blocks and accepts regular files only: a file that was listed may since be a pipe, whose
open(2) waits for a writer, or a device. Copies keep holes, so that a sparse file takes no more space.
"""

from __future__ import annotations

import errno
import io
import os
import stat
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO, Final

from transforms.storage.base import BLOCK_BYTES, ObjectChanged
from transforms.storage.deadline import Progress

COPY_BYTES: Final = 64 << 20
"""Copied by one call of the kernel; each is a step of progress."""
COPY_UNSUPPORTED: Final = (errno.EINVAL, errno.ENOSYS, errno.EXDEV, errno.EOPNOTSUPP)
"""Errors of kernels and file systems that cannot copy between two descriptors."""
LEASE_S: Final = 60.0
"""Longest time for which another process may keep a file open exclusively (fcntl(2), F_SETLEASE)."""
LEASE_POLL_S: Final = 0.05
DEV_BLOCK_BYTES: Final = 512
"""Unit of `st_blocks` (stat(2))."""


class NotRegularFile(ObjectChanged):
    """A file was replaced by a pipe, a device, a socket or a folder."""


def open_regular(path: Path) -> io.FileIO:
    """Open a regular file for reading, without waiting for a pipe or a device.

    A file on which a file server holds a lease is tried again until the lease is broken.

    Raises:
        NotRegularFile: It is something else.
        OSError: It cannot be opened.
    """
    _require_regular(path.stat())  # opening some devices has effects
    deadline = time.monotonic() + LEASE_S
    while True:
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
            break
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise
            time.sleep(LEASE_POLL_S)
        except OSError as error:
            if error.errno == errno.ENXIO:  # a socket
                raise NotRegularFile(errno.ESTALE, "not a regular file") from error
            raise
    try:
        _require_regular(os.fstat(descriptor))
        os.set_blocking(descriptor, True)
        return os.fdopen(descriptor, "rb", buffering=0)
    except BaseException:
        os.close(descriptor)
        raise


def copy_file(stream: BinaryIO, sink: BinaryIO, progress: Progress) -> None:
    """Copy the rest of a file; in the kernel, and without its holes, where both have descriptors."""
    source, target = descriptor_of(stream), descriptor_of(sink)
    if source is not None and target is not None:
        sink.flush()
        os.lseek(source, stream.tell(), os.SEEK_SET)  # a buffer may have read ahead
        target = os.dup(target)  # its own: an abandoned copy must not write to a reused number
        try:
            if _copy_in_kernel(source, target, progress):
                return
        finally:
            os.close(target)
    while block := stream.read(BLOCK_BYTES):
        sink.write(block)
        progress.advance()


def _require_regular(status: os.stat_result) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise NotRegularFile(errno.ESTALE, "not a regular file")


def _copy_in_kernel(source: int, target: int, progress: Progress) -> bool:
    """Copy between two descriptors; return False if the kernel cannot, and nothing was copied."""
    status = os.fstat(source)
    if status.st_blocks * DEV_BLOCK_BYTES >= status.st_size:
        return _copy_range(source, target, None, progress)
    start, base = os.lseek(source, 0, os.SEEK_CUR), os.lseek(target, 0, os.SEEK_CUR)
    for data, end in _data_ranges(source, start, status.st_size):
        os.lseek(source, data, os.SEEK_SET)
        os.lseek(target, base + data - start, os.SEEK_SET)
        if not _copy_range(source, target, end - data, progress):
            os.lseek(source, start, os.SEEK_SET)
            os.lseek(target, base, os.SEEK_SET)
            return False
    os.ftruncate(target, base + status.st_size - start)
    os.lseek(target, 0, os.SEEK_END)
    return True


def _data_ranges(source: int, position: int, size: int) -> Iterator[tuple[int, int]]:
    """Yield start and end of the parts of a sparse file that are no holes (lseek(2), SEEK_DATA)."""
    while position < size:
        try:
            data = os.lseek(source, position, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:  # a hole up to the end
                return
            raise
        position = os.lseek(source, data, os.SEEK_HOLE)
        yield data, position


def _copy_range(source: int, target: int, count: int | None, progress: Progress) -> bool:
    """Copy `count` bytes, or up to the end of the file; as `_copy_in_kernel`.

    copy_file_range(2) shares the blocks if the file system can, sendfile(2) does not.
    """
    calls: tuple[Callable[[int], int], ...] = (
        lambda size: os.copy_file_range(source, target, size),
        lambda size: os.sendfile(target, source, None, size),
    )
    for copy in calls:
        copied = 0
        try:
            while count is None or copied < count:
                size = COPY_BYTES if count is None else min(COPY_BYTES, count - copied)
                step = copy(size)
                if not step:
                    break
                copied += step
                progress.advance()
            return True
        except OSError as error:
            if error.errno not in COPY_UNSUPPORTED or copied:
                raise
    return False


def descriptor_of(file: BinaryIO) -> int | None:
    """Return the descriptor of a file, or None if it has none."""
    try:
        return file.fileno()
    except (AttributeError, io.UnsupportedOperation):
        return None
