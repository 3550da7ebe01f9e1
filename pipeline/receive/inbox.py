"""Store received objects: each has a name only when it is complete and synced.

Standard: PS3.10 section 7 (file format).
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from pipeline.receive.refusals import OUT_OF_RESOURCES, Refused
from transforms.core.object_ref import object_key
from transforms.core.shared_bytes import SharedBytes, map_bytes
from transforms.lake.layout import object_name
from transforms.storage.folders import make_folders, sync_entries, sync_folder
from transforms.storage.local import LocalStorage, path_to_uri
from transforms.storage.permissions import FILE_MODE, folder_mode
from transforms.storage.temporary import remove_abandoned


@dataclass(frozen=True)
class Stored:
    """An object in the folder.

    Attributes:
        key: its object key, as in the index of a lake.
        size: in bytes.
        is_new: whether the folder did not have it before.
    """

    key: str
    size: int
    is_new: bool


class Inbox:
    """A folder of received objects, for any number of receivers and threads.

    Files are named by `layout.object_name`, as in a lake: a repeated transfer is the same file, and
    different content under one UID is a second file.
    """

    def __init__(self, folder: Path, max_object_bytes: int) -> None:
        """Create the folder if it is missing, and remove what killed receivers left.

        Args:
            folder: the folder.
            max_object_bytes: maximum size of an object.

        Raises:
            OSError: the folder cannot be created.
        """
        self._folder = folder.absolute()
        self._max_object_bytes = max_object_bytes
        sync_entries(make_folders(self._folder, folder_mode(FILE_MODE)))
        remove_abandoned(self._folder)

    def open(self) -> IncomingObject:
        """Return a new object without a name.

        Raises:
            OSError: there is no space or memory for it.
        """
        return IncomingObject(self._folder, self._max_object_bytes)


class IncomingObject:
    """An object while it is received: an unnamed file, which disappears with its process.

    On file systems without unnamed files (O_TMPFILE) it is in memory.
    """

    def __init__(self, folder: Path, max_bytes: int) -> None:
        self._folder = folder
        self._max_bytes = max_bytes
        self._data = SharedBytes(str(folder))
        self._sha256 = hashlib.sha256()
        self._size = 0

    def write(self, data: bytes | memoryview) -> None:
        """Append bytes.

        Raises:
            Refused: the object is too large.
            OSError: the bytes cannot be written.
        """
        if self._size + len(data) > self._max_bytes:
            raise Refused(OUT_OF_RESOURCES, "the object is larger than the receiver accepts")
        self._size += len(data)
        self._sha256.update(data)
        rest = memoryview(data)
        while rest:
            rest = rest[self._data.file.write(rest) :]

    def view(self) -> memoryview:
        """Return the bytes so far, without a copy."""
        return map_bytes(self._data.file.fileno())

    def store(self, sop_instance_uid: str) -> Stored:
        """Sync the object, give it its name, and sync the folder.

        Args:
            sop_instance_uid: a valid UID.

        Raises:
            OSError: the object cannot be stored; it has no name.
        """
        digest = self._sha256.hexdigest()
        try:
            return self._put(object_name(sop_instance_uid, digest), digest)
        except FileExistsError:  # other content whose sha256 starts with the same digits
            return self._put(object_name(sop_instance_uid, digest, len(digest)), digest)

    def close(self) -> None:
        """Discard the object unless it is stored."""
        self._data.close()

    def _put(self, name: str, sha256: str) -> Stored:
        uri = path_to_uri(str(self._folder / name))
        is_new = LocalStorage().put(uri, self._data.rewind(), sha256, scratch=str(self._folder))
        if not is_new:  # a receiver that was killed may not have synced the name
            sync_folder(self._folder)
        return Stored(object_key(uri), self._size, is_new)
