"""Writing into a lake on a local file system: whole files or none, and never over another."""

from __future__ import annotations

import errno
import hashlib
import os
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from transforms.reasons import Reason, Stage, Unaccounted
from transforms.refs import unaccounted

COPY_BLOCK_BYTES = 1 << 20

_REASONS = {
    errno.ENOSPC: Reason.NO_SPACE,
    errno.EDQUOT: Reason.NO_SPACE,
    errno.EACCES: Reason.PERMISSION_DENIED,
    errno.EPERM: Reason.PERMISSION_DENIED,
    errno.EROFS: Reason.PERMISSION_DENIED,
    errno.EXDEV: Reason.OTHER_FILE_SYSTEM,
}


def put_bytes(target: Path, data: bytes, *, scratch: Path, sha256: str | None = None) -> bool:
    """Write a file if it is absent; a repeat with the same bytes changes nothing.

    Args:
        target: the file; its folder is made.
        data: all its bytes.
        scratch: folder on the same file system for the file while it is not whole.
        sha256: of the data, hex, where it is known.

    Returns:
        Whether the file is new.

    Raises:
        Unaccounted: other bytes stand there, or the storage refused.
    """

    def write(temporary: Path) -> None:
        with temporary.open("xb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())

    return _put(target, write, sha256 or hashlib.sha256(data).hexdigest(), scratch)


def put_copy(target: Path, source: Path, sha256: str, *, scratch: Path) -> bool:
    """Like `put_bytes`, from a file of any size whose content is known.

    Raises:
        Unaccounted: also where the source cannot be read or its bytes are no longer those of
            `sha256`.
    """

    def write(temporary: Path) -> None:
        digest = hashlib.sha256()
        with _opened(source) as reader, temporary.open("xb") as writer:
            while block := _read(reader):
                digest.update(block)
                writer.write(block)
            writer.flush()
            os.fsync(writer.fileno())
        if digest.hexdigest() != sha256:
            raise Unaccounted(Stage.PLACE, Reason.CHANGED)

    return _put(target, write, sha256, scratch)


def put_link(target: Path, source: Path, sha256: str, *, scratch: Path) -> bool:
    """Like `put_copy`, by a hard link to a source on the same file system."""

    def write(temporary: Path) -> None:
        try:
            os.link(os.path.realpath(source), temporary)
        except FileNotFoundError as error:
            raise unaccounted(error, Stage.PLACE) from error
        if sha256_of(temporary) != sha256:
            raise Unaccounted(Stage.PLACE, Reason.CHANGED)

    return _put(target, write, sha256, scratch)


def sha256_of(path: Path) -> str:
    """Return the hex sha256 of a file."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def sweep(scratch: Path) -> int:
    """Remove what a killed run left half done; call only where no other run writes."""
    left = [path for path in list_folder(scratch) if not path.is_dir()]
    for path in left:
        path.unlink(missing_ok=True)
    return len(left)


def list_folder(folder: Path, suffix: str = "") -> list[Path]:
    """Return what stands in a folder, in order; nothing where there is no folder.

    Raises:
        OSError: it may not be listed.
    """
    try:
        return sorted(path for path in folder.iterdir() if path.name.endswith(suffix))
    except FileNotFoundError:
        return []


def _opened(source: Path) -> BinaryIO:
    try:
        return source.open("rb")
    except OSError as error:
        raise unaccounted(error, Stage.PLACE) from error


def _read(reader: BinaryIO) -> bytes:
    try:
        return reader.read(COPY_BLOCK_BYTES)
    except OSError as error:
        raise unaccounted(error, Stage.PLACE) from error


def _put(target: Path, write: Callable[[Path], None], sha256: str, scratch: Path) -> bool:
    try:
        if target.exists():
            return _same_or_raise(target, sha256)
        target.parent.mkdir(parents=True, exist_ok=True)
        scratch.mkdir(parents=True, exist_ok=True)
        temporary = scratch / uuid.uuid4().hex
        try:
            write(temporary)
            os.link(temporary, target)  # unlike a rename, it cannot replace
        except FileExistsError:
            return _same_or_raise(target, sha256)
        finally:
            temporary.unlink(missing_ok=True)
        _sync_folder(target.parent)
        return True
    except OSError as error:
        reason = _REASONS.get(error.errno or 0, Reason.WRITE_FAILED)
        code = errno.errorcode.get(error.errno or 0, type(error).__name__)
        raise Unaccounted(Stage.PLACE, reason, code) from error


def _same_or_raise(target: Path, sha256: str) -> bool:
    if sha256_of(target) != sha256:
        raise Unaccounted(Stage.PLACE, Reason.NAME_TAKEN)
    return False


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
