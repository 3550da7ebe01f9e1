"""Local file systems: files come whole or not at all, and nothing is written over another."""

from __future__ import annotations

import contextlib
import errno
import glob
import hashlib
import io
import os
import shutil
import stat
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO, Final
from urllib.parse import quote, unquote_to_bytes

from transforms.storage.base import BLOCK_BYTES, ObjectChanged, ObjectInfo
from transforms.storage.temporary import temporary_name

COPY_BYTES: Final = 1 << 30
CANNOT: Final = (errno.EINVAL, errno.ENOSYS, errno.EXDEV, errno.EOPNOTSUPP)
"""What a kernel or a file system says that cannot copy by itself."""


def path_to_uri(path: str) -> str:
    """Return a local path as a source URI: the path itself, or `file://` where it is no Unicode."""
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


def version_of(status: os.stat_result) -> str:
    """Return the version of a local file."""
    return f"{status.st_size}-{status.st_mtime_ns}"


class LocalStorage:
    """Files of this machine, and of what is mounted on it."""

    def stat(self, uri: str) -> ObjectInfo | None:
        path = uri_to_path(uri)
        try:
            found = path.stat()
        except (FileNotFoundError, NotADirectoryError):
            return None
        return _listed(uri, found) if stat.S_ISREG(found.st_mode) else None

    def list_below(self, uri: str) -> Iterator[ObjectInfo]:
        """As `Storage.list_below`; links are listed as what they are, not followed.

        Raises:
            OSError: a folder may not be listed; it is not taken for an empty one.
        """
        root = str(uri_to_path(uri))
        for folder, folders, files in os.walk(root, onerror=_raise_unless_gone):
            folders.sort()
            for name in sorted(files):
                path = os.path.join(folder, name)
                status = os.lstat(path)
                yield _listed(path_to_uri(path), status)

    def match(self, pattern: str, excluded: Sequence[str] = ()) -> Iterator[ObjectInfo | OSError]:
        """As `Storage.match`.

        Links to files are followed, links to folders below a folder are not; sockets, pipes and
        links to nowhere are no objects.
        """
        base = os.path.abspath(uri_to_path(pattern))
        if os.path.lexists(base):
            matches = [base]
        else:
            matches = sorted(glob.glob(base, recursive=True, include_hidden=True))
        own = tuple(os.path.realpath(uri_to_path(root)) for root in excluded)
        seen: set[str] = set()
        for match in matches:
            for path in _files_below(match, own):
                if isinstance(path, OSError):
                    yield path
                elif path not in seen:
                    if len(matches) > 1:  # else each is met once: an archive's names are many
                        seen.add(path)
                    found = _found(path)
                    if found is not None:
                        yield found

    def copy_to(self, uri: str, version: str | None, sink: BinaryIO) -> None:
        with uri_to_path(uri).open("rb") as stream:
            _check_version(uri, version, stream)
            if not _sent(stream, sink):
                shutil.copyfileobj(stream, sink, BLOCK_BYTES)
            _check_version(uri, version, stream)

    def opened(self, uri: str, version: str) -> BinaryIO:
        """Open exactly this version; ask `is_still` once its bytes were used.

        Raises:
            Changed, FileNotFoundError: as `copy_to`.
        """
        stream = uri_to_path(uri).open("rb", buffering=0)
        try:
            _check_version(uri, version, stream)
        except BaseException:
            stream.close()
            raise
        return stream

    def put(self, uri: str, source: BinaryIO, sha256: str, scratch: str) -> bool:
        """As `Storage.put`: written and synced in `scratch`, then linked to its name.

        A file without a name on the same file system is not copied, but given this one.
        """

        def write(temporary: Path) -> None:
            if _named(source, temporary):
                return
            with temporary.open("xb") as writer:
                shutil.copyfileobj(source, writer, BLOCK_BYTES)
                writer.flush()
                _sync(writer.fileno())

        return _put(uri_to_path(uri), write, sha256, Path(scratch))

    def put_link(self, uri: str, source: str, version: str, sha256: str, scratch: str) -> bool:
        """Like `put`, by a hard link to a file on the same file system, of this version.

        Raises:
            FileNotFoundError: the source is gone.
            Changed: the source is another version.
        """

        def link(temporary: Path) -> None:
            os.link(os.path.realpath(uri_to_path(source)), temporary)
            if version_of(temporary.stat()) != version:
                raise ObjectChanged(f"{source} changed")

        return _put(uri_to_path(uri), link, sha256, Path(scratch))

    def remove(self, uri: str) -> None:
        uri_to_path(uri).unlink(missing_ok=True)


def _raise_unless_gone(error: OSError) -> None:
    if not isinstance(error, FileNotFoundError | NotADirectoryError):
        raise error


def _files_below(path: str, own: tuple[str, ...]) -> Iterator[str | OSError]:
    if not os.path.isdir(path):
        if not _stands_in(os.path.dirname(path), own):
            yield path
        return
    errors: list[OSError] = []
    for folder, folders, files in os.walk(path, onerror=errors.append):
        if _stands_in(folder, own):
            folders.clear()
            continue
        folders.sort()
        for name in sorted(files):
            yield os.path.join(folder, name)
    yield from errors


def _stands_in(folder: str, roots: tuple[str, ...]) -> bool:
    """Whether a folder is one of the real paths `roots` or below one, whatever links lead there."""
    real = os.path.realpath(folder)
    return any(os.path.commonpath((real, root)) == root for root in roots)


def _listed(uri: str, status: os.stat_result) -> ObjectInfo:
    return ObjectInfo(uri, version_of(status), status.st_size, modified=status.st_mtime)


def _found(path: str) -> ObjectInfo | OSError | None:
    try:
        status = os.stat(path)
    except FileNotFoundError:
        return None  # a link to nowhere, or gone since it was listed
    except OSError as error:
        return error
    if not stat.S_ISREG(status.st_mode):
        return None
    return _listed(path_to_uri(path), status)


def _named(source: BinaryIO, name: Path) -> bool:
    """Give a file that has no name one and sync it, or return False where that cannot be."""
    descriptor = _descriptor(source)
    if descriptor is None or os.fstat(descriptor).st_nlink:
        return False
    try:
        os.link(f"/proc/self/fd/{descriptor}", name, src_dir_fd=descriptor)  # linkat(2), O_TMPFILE
    except OSError:
        return False  # in memory, on another file system, or not to be named
    _sync(descriptor)
    return True


def _sync(descriptor: int) -> None:
    """Bring a file to the disk, and let its pages go: the next object is read into them.

    A night's images would else take up all memory, which the kernel has to find page by page.
    """
    os.fsync(descriptor)
    with contextlib.suppress(OSError):
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)


def _sent(stream: BinaryIO, sink: BinaryIO) -> bool:
    """Copy by the kernel and return True, or False where one of the two is no file.

    By copy_file_range(2), which shares the blocks where the file system can, else sendfile(2).
    """
    target = _descriptor(sink)
    if target is None:
        return False
    sink.flush()
    ways: tuple[Callable[[], int], ...] = (
        lambda: os.copy_file_range(stream.fileno(), target, COPY_BYTES),
        lambda: os.sendfile(target, stream.fileno(), None, COPY_BYTES),
    )
    for copy in ways:
        try:
            while copy():
                pass
            return True
        except OSError as error:
            if error.errno not in CANNOT or os.fstat(target).st_size:
                raise
    return False


def _descriptor(file: BinaryIO) -> int | None:
    try:
        return file.fileno()
    except (AttributeError, io.UnsupportedOperation):
        return None


def is_still(version: str | None, stream: BinaryIO) -> bool:
    """Whether an open file is this version."""
    return version is None or version_of(os.fstat(stream.fileno())) == version


def _check_version(uri: str, version: str | None, stream: BinaryIO) -> None:
    if not is_still(version, stream):
        raise ObjectChanged(f"{uri} changed")


def _put(target: Path, write: Callable[[Path], None], sha256: str, scratch: Path) -> bool:
    if target.exists():
        return _same_or_raise(target, sha256)
    target.parent.mkdir(parents=True, exist_ok=True)
    scratch.mkdir(parents=True, exist_ok=True)
    temporary = scratch / temporary_name()
    try:
        write(temporary)
        os.link(temporary, target)  # unlike a rename, it cannot replace
    except FileExistsError:
        return _same_or_raise(target, sha256)
    finally:
        temporary.unlink(missing_ok=True)
    _sync_folder(target.parent)
    return True


def _same_or_raise(target: Path, sha256: str) -> bool:
    if _sha256(target) != sha256:
        raise FileExistsError(f"{target} has other bytes")
    return False


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
