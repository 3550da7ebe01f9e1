"""Local file systems: files appear complete or not at all, and never replace another."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import re
import stat
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO, Final
from urllib.parse import quote, unquote_to_bytes

from transforms.storage.base import ObjectChanged, ObjectInfo
from transforms.storage.deadline import Progress, call_with_deadline
from transforms.storage.folders import make_folders, sync_entries, sync_folder, sync_folders
from transforms.storage.local_read import copy_file, descriptor_of, open_regular
from transforms.storage.local_walk import LocalWalk
from transforms.storage.permissions import (
    FILE_MODE,
    PRIVATE_MODE,
    apply_file_mode,
    folder_mode,
    private_folder_mode,
)
from transforms.storage.renames import give_name
from transforms.storage.selection import ALL, Selection, Skipped
from transforms.storage.temporary import temporary_name


def path_to_uri(path: str) -> str:
    """Return the source URI of a local path: the path itself, or `file://…` if it is not Unicode."""
    try:
        path.encode()
    except UnicodeEncodeError:
        return "file://" + quote(os.fsencode(path))
    return path


def uri_to_path(uri: str) -> Path:
    """Return the local path of a path or `file://` URI."""
    if uri.startswith("file://"):
        return Path(os.fsdecode(unquote_to_bytes(uri[7:])))
    return Path(uri)


def is_file(uri: str) -> bool:
    """Return whether a path or `file://` URI is that of a file."""
    try:
        return uri_to_path(uri).is_file()
    except (OSError, ValueError):
        return False


def version_of(status: os.stat_result) -> str:
    """Return the version of a local file."""
    return f"{status.st_size}-{status.st_mtime_ns}"


def state_of(status: os.stat_result) -> str:
    """Return what else tells versions of a local file apart, and may change without its content."""
    return f"{status.st_ctime_ns}-{status.st_ino}"


def without_state(source_version: str) -> str:
    """Return a source version without the state that may be appended to it; see `state_of`."""
    return _APPENDED_STATE.sub("", source_version)


def is_version_of(source_version: str, version: str) -> bool:
    """Return whether a source version is of a size and modification time, with or without a state."""
    return source_version == version or source_version.startswith(f"{version}-")


_APPENDED_STATE: Final = re.compile(r"-[0-9]+-[0-9]+\Z")


class LocalStorage:
    """The file systems that are mounted on this machine."""

    def stat(self, uri: str) -> ObjectInfo | None:
        path = uri_to_path(uri)
        try:
            status = path.stat()
        except (FileNotFoundError, NotADirectoryError):
            return None
        return _info(uri, status) if stat.S_ISREG(status.st_mode) else None

    def list_below(self, uri: str) -> Iterator[ObjectInfo]:
        """As `Storage.list_below`; links are listed themselves, not followed.

        A file that is removed during the listing may be omitted.

        Raises:
            OSError: a folder cannot be listed; it is not taken for an empty one.
        """
        root = str(uri_to_path(uri))
        for folder, folders, files in os.walk(root, onerror=_raise_unless_missing):
            folders.sort()
            for name in sorted(files):
                path = os.path.join(folder, name)
                try:
                    status = os.lstat(path)
                except FileNotFoundError:
                    continue
                yield _info(path_to_uri(path), status)

    def match(
        self, pattern: str, selection: Selection = ALL
    ) -> Iterator[ObjectInfo | OSError | Skipped]:
        """As `Storage.match`; see `match_all`."""
        return self.match_all([pattern], selection)

    def match_all(
        self, patterns: Sequence[str], selection: Selection = ALL
    ) -> Iterator[ObjectInfo | OSError | Skipped]:
        """As `Storage.match` for several patterns, which together list each real folder once.

        Links are followed; sockets, pipes, broken links and links in a loop are skipped. See
        `local_walk.LocalWalk`.
        """
        paths = [os.path.abspath(uri_to_path(pattern)) for pattern in patterns]
        for found in LocalWalk(selection).match(paths):
            yield _info(path_to_uri(found[0]), found[1]) if isinstance(found, tuple) else found

    def copy_to(self, uri: str, version: str | None, sink: BinaryIO) -> None:
        """As `Storage.copy_to`; holes of a sparse file are not filled.

        Raises:
            ObjectChanged: As `Storage.copy_to`, or the file was replaced by a pipe or a device.
            TimeoutError: The file system does not answer.
        """

        def copy(progress: Progress) -> None:
            with open_regular(uri_to_path(uri)) as stream:
                _require_version(uri, version, stream)
                copy_file(stream, sink, progress)
                _require_version(uri, version, stream)

        call_with_deadline(copy)

    def open_version(self, uri: str, version: str | None) -> BinaryIO:
        """Open exactly this version, or any if it is None; check `has_version` after using its bytes.

        Raises:
            ObjectChanged, FileNotFoundError, TimeoutError: as `copy_to`.
        """

        def open_stream(progress: Progress) -> BinaryIO:
            stream = open_regular(uri_to_path(uri))
            try:
                _require_version(uri, version, stream)
            except BaseException:
                stream.close()
                raise
            return stream

        return call_with_deadline(open_stream, dispose=lambda stream: stream.close())

    def read_range(self, uri: str, version: str, start: int, length: int) -> bytes:
        with self.open_version(uri, version) as stream:
            data = os.pread(stream.fileno(), length, start)
            _require_version(uri, version, stream)
        return data

    def put(
        self, uri: str, source: BinaryIO, sha256: str, scratch: str, file_mode: int = FILE_MODE
    ) -> bool:
        """As `Storage.put`: write and sync the file in `scratch`, then give it its name.

        An unnamed file (O_TMPFILE) on the same file system is not copied, only linked.
        """

        def write(partial: Path) -> None:
            if _link_unnamed(source, partial, file_mode):
                return
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
            with os.fdopen(os.open(partial, flags, PRIVATE_MODE), "wb") as writer:
                copy_file(source, writer, Progress())
                writer.flush()
                apply_file_mode(writer.fileno(), file_mode)
                _sync_file(writer.fileno())

        return _put(uri_to_path(uri), write, sha256, Path(scratch), file_mode)

    def put_link(
        self,
        uri: str,
        source: str,
        version: str,
        sha256: str,
        scratch: str,
        file_mode: int = FILE_MODE,
    ) -> bool:
        """As `put`, by a hard link to this version of a file on the same file system.

        The file keeps its own permissions; new folders have those of `file_mode`.

        Raises:
            FileNotFoundError: there is no source.
            ObjectChanged: the source has another version.
        """

        def link(partial: Path) -> None:
            os.link(os.path.realpath(uri_to_path(source)), partial)
            with open_regular(partial) as linked:
                _require_version(source, version, linked)
                os.fsync(linked.fileno())  # its sender may not have done so

        return _put(uri_to_path(uri), link, sha256, Path(scratch), file_mode)

    def remove(self, uri: str) -> None:
        uri_to_path(uri).unlink(missing_ok=True)

    def sync_removals(self, uris: Iterable[str]) -> None:
        """Sync the folders of removed objects, so that none reappears after a power loss."""
        sync_folders({uri_to_path(uri).parent for uri in uris})


def has_version(version: str | None, stream: BinaryIO) -> bool:
    """Return whether an open file has the size and modification time of a version; None: any."""
    return version is None or is_version_of(version, version_of(os.fstat(stream.fileno())))


def _require_version(uri: str, version: str | None, stream: BinaryIO) -> None:
    if not has_version(version, stream):
        raise ObjectChanged(f"{uri} changed")


def _raise_unless_missing(error: OSError) -> None:
    if not isinstance(error, FileNotFoundError | NotADirectoryError):
        raise error


def _info(uri: str, status: os.stat_result) -> ObjectInfo:
    return ObjectInfo(
        uri,
        version_of(status),
        status.st_size,
        modified=status.st_mtime,
        state=state_of(status),
    )


def _put(
    target: Path, write: Callable[[Path], None], sha256: str, scratch: Path, file_mode: int
) -> bool:
    folders = make_folders(target.parent, folder_mode(file_mode))
    is_new = not target.exists() and _write(target, write, scratch, file_mode)
    if not is_new:
        _require_same(target, sha256)
    sync_folder(target.parent)  # also of a file that exists: its writer may have been killed
    sync_entries(folders)
    return is_new


def _write(target: Path, write: Callable[[Path], None], scratch: Path, file_mode: int) -> bool:
    """Write a file and give it its name; return False if the name is taken."""
    make_folders(scratch, private_folder_mode(file_mode))
    partial = scratch / temporary_name()
    try:
        write(partial)
        give_name(partial, target)
    except FileExistsError:
        return False
    finally:
        partial.unlink(missing_ok=True)
    return True


def _require_same(target: Path, sha256: str) -> None:
    """Raise FileExistsError if a file has other bytes."""
    if _sha256_of(target) != sha256:
        raise FileExistsError(errno.EEXIST, "the file exists with other bytes", str(target))


def _sha256_of(path: Path) -> str:
    with open_regular(path) as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _link_unnamed(source: BinaryIO, name: Path, file_mode: int) -> bool:
    """Link an unnamed file to a name and sync it; return False where that is not possible."""
    descriptor = descriptor_of(source)
    if descriptor is None or os.fstat(descriptor).st_nlink:
        return False
    try:
        os.link(f"/proc/self/fd/{descriptor}", name, src_dir_fd=descriptor)  # linkat(2), O_TMPFILE
    except OSError:
        return False  # in memory, on another file system, or made with O_EXCL
    apply_file_mode(descriptor, file_mode)
    _sync_file(descriptor)
    return True


def _sync_file(descriptor: int) -> None:
    """Write a file to the disk and drop its pages from memory, where the next object needs room."""
    os.fsync(descriptor)
    with contextlib.suppress(OSError):
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
