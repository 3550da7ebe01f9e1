"""Open one version of an object as a seekable file: local files as they are, stores by range requests."""

from __future__ import annotations

import io
import os
from typing import BinaryIO, Final, cast

from transforms.storage.base import ObjectInfo, Storage
from transforms.storage.local import LocalStorage
from transforms.storage.schemes import is_local, storage_of

BUFFER_BYTES: Final = 1 << 20
"""Bytes of one range request, unless the reader asks for more."""


def open_seekable(found: ObjectInfo) -> BinaryIO:
    """Open one version of an object for reading; the caller closes it.

    Raises:
        ObjectChanged: the object has another version; also from reading, in a store.
        OSError: it cannot be read.
    """
    if is_local(found.uri):
        raw = LocalStorage().open_version(found.uri, found.version)
        return cast(BinaryIO, io.BufferedReader(cast(io.RawIOBase, raw), BUFFER_BYTES))
    return cast(BinaryIO, io.BufferedReader(RangeFile(found, storage_of(found.uri)), BUFFER_BYTES))


class RangeFile(io.RawIOBase):
    """An object in a store as a file; each read is one range request for the same version."""

    def __init__(self, found: ObjectInfo, storage: Storage) -> None:
        self._found, self._storage = found, storage
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._found.size}[whence]
        if base + offset < 0:
            raise ValueError("negative position")
        self._position = base + offset
        return self._position

    def readinto(self, buffer: object) -> int:
        view = memoryview(buffer)  # type: ignore[arg-type]
        length = min(len(view), self._found.size - self._position)
        if length <= 0:
            return 0
        found = self._found
        data = self._storage.read_range(found.uri, found.version, self._position, length)
        view[: len(data)] = data
        self._position += len(data)
        return len(data)
