"""List and read the members of zip and tar archives, which may be hostile.

Nothing is extracted: members are read from their position. Names of members are never paths.
"""

from __future__ import annotations

import contextlib
import io
import os
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO, Final, Protocol, cast

from transforms.storage.base import BLOCK_BYTES, ObjectInfo
from transforms.storage.selection import LAKE_FOLDERS, LAKE_MARKER, Selection, Skip, Skipped

MAX_MEMBERS: Final = 500_000
"""Maximum number of members of a zip file, whose directory is read as a whole."""
MAX_READ_BYTES: Final = 256 << 20
"""Maximum size of the directory of a zip file, and of a header in a tar file."""
METHODS: Final = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2)
"""Compression methods that need little memory, whatever the file says."""
ENCRYPTED: Final = "encrypted_member"
UNREADABLE: Final = "unreadable_archive"
INFLATES_TOO_FAR: Final = "inflates_too_far"
"""Why the stored bytes of a member are taken instead of its content; values of `core.reasons.Reason`."""
_ENCRYPTED_FLAG: Final = 0x1
_LOCAL_HEADER: Final = struct.Struct("<4s22xHH")
_LOCAL_SIGNATURE: Final = b"PK\3\4"
_POINT_BYTES: Final = 4 << 20
"""Minimum distance between the positions at which decompression of a `.tar.gz` can start."""
DAMAGE: Final = (
    zipfile.BadZipFile, zipfile.LargeZipFile, tarfile.TarError, EOFError, zlib.error, ValueError,
    NotImplementedError, RuntimeError, RecursionError, IndexError, OverflowError, MemoryError,
    struct.error,
)  # fmt: skip
"""What the readers of archives raise for damaged ones."""


class DamagedArchive(ValueError):
    """An archive is damaged, or inflates too far."""


@dataclass(frozen=True)
class InflationLimits:
    """Limits on decompression.

    Attributes:
        ratio: maximum ratio of decompressed to compressed size.
        exempt_bytes: decompressed size up to which any ratio is accepted.
    """

    ratio: int = 64
    exempt_bytes: int = 64 << 20

    def allow(self, inflated: int, stored: int) -> bool:
        """Return whether a size is within the limits."""
        return inflated <= max(self.exempt_bytes, self.ratio * stored)


@dataclass(frozen=True)
class Member:
    """A member of an archive.

    Attributes:
        name: its name in the archive.
        offset: of its header.
        size: of its content, or with `problem` of its stored bytes.
        problem: why only its stored bytes can be had, or "".
    """

    name: str
    offset: int
    size: int
    problem: str = ""


class Archive(Protocol):
    """An open archive."""

    def members(self, limits: InflationLimits) -> Iterator[Member | Skipped]:
        """Yield the members that are files.

        Raises:
            one of `DAMAGE`, OSError: the archive or its rest cannot be read.
        """

    def open(self, offset: int, *, stored: bool) -> tuple[BinaryIO, int]:
        """Return a member as a file, which shares the archive's, and its size.

        Args:
            offset: of its header.
            stored: whether to return its bytes as they are stored, compressed or not.

        Raises:
            one of `DAMAGE`, OSError: it cannot be read; also from reading.
        """


def open_archive(name: str, file: BinaryIO, size: int) -> Archive:
    """Return the archive in a file, by the suffix of its name.

    Raises:
        one of `DAMAGE`, OSError: it is not such an archive.
    """
    lower = name.lower()
    if lower.endswith(".zip"):
        return ZipArchive(file, size)
    if lower.endswith(".tar"):
        return TarArchive(file, size, compressed=False)
    import indexed_gzip

    spacing = max(_POINT_BYTES, size // 256)
    return TarArchive(
        indexed_gzip.IndexedGzipFile(fileobj=file, spacing=spacing), size, compressed=True
    )


def select_members(
    archive: Archive, limits: InflationLimits, selection: Selection
) -> Iterator[Member | Skipped]:
    """Yield the members that are inputs, and skipped names.

    Raises:
        as `Archive.members`.
    """
    lakes: set[str] = set()
    held: list[Member] = []
    for member in archive.members(limits):
        if isinstance(member, Skipped):
            yield member
            continue
        relative = relative_name(member.name)
        if relative.rpartition("/")[2] == LAKE_MARKER:
            lakes.add(relative[: -len(LAKE_MARKER)])
            yield Skipped(Skip.LAKE)
        elif why := selection.skip_file(relative, in_archive=True):
            yield Skipped(why)
        elif any(relative.startswith(lake) for lake in lakes):
            continue
        elif _may_be_in_lake(relative):
            held.append(member)
        else:
            yield member
    for member in held:
        if not any(relative_name(member.name).startswith(lake) for lake in lakes):
            yield member


def relative_name(name: str) -> str:
    """Return the name of a member with slashes between its folders, and none at its start."""
    return name.replace("\\", "/").lstrip("/")


def _may_be_in_lake(relative: str) -> bool:
    return any(part in LAKE_FOLDERS for part in relative.split("/")[:-1])


class ZipArchive:
    """A zip file. Its members may have any order, and must not overlap."""

    def __init__(self, file: BinaryIO, size: int) -> None:
        self._file, self._size = file, size
        self._zip = zipfile.ZipFile(cast(Any, _LimitedReads(file)))
        infos = self._zip.infolist()
        if len(infos) > MAX_MEMBERS:
            raise DamagedArchive("too many members")
        self._infos = {info.header_offset: info for info in infos}
        if len(self._infos) != len(infos):
            raise DamagedArchive("members overlap")
        end = 0
        for offset in sorted(self._infos):
            if offset < end:
                raise DamagedArchive("members overlap")
            end = offset + _LOCAL_HEADER.size + self._infos[offset].compress_size
        if end > size:
            raise DamagedArchive("members beyond the end")

    def members(self, limits: InflationLimits) -> Iterator[Member | Skipped]:
        for offset, info in sorted(self._infos.items()):
            mode = info.external_attr >> 16
            if info.file_size == 0 and _is_folder(info, mode):
                continue
            if stat.S_ISLNK(mode):
                yield Skipped(Skip.LINK)
            elif stat.S_IFMT(mode) not in (0, stat.S_IFREG):
                yield Skipped(Skip.SPECIAL_FILE)
            elif problem := _zip_problem(info, limits):
                yield Member(info.filename, offset, info.compress_size, problem)
            else:
                yield Member(info.filename, offset, info.file_size)
        if self._has_unlisted_members():
            raise DamagedArchive("members that the directory does not list")

    def _has_unlisted_members(self) -> bool:
        """Return whether a local header is in a gap between members, as after damage to the directory."""
        end = 0
        for offset in [*sorted(self._infos), self._zip.start_dir]:
            if offset - end > 4 and _LOCAL_SIGNATURE in self._read_at(end, offset - end):
                return True
            if offset in self._infos:
                end = self._end_of(offset, self._infos[offset])
        return False

    def _end_of(self, offset: int, info: zipfile.ZipInfo) -> int:
        header = self._read_at(offset, _LOCAL_HEADER.size)
        _, name, extra = _LOCAL_HEADER.unpack(header)
        return int(offset + _LOCAL_HEADER.size + name + extra + info.compress_size)

    def _read_at(self, offset: int, size: int) -> bytes:
        self._file.seek(offset)
        return self._file.read(min(size, BLOCK_BYTES))

    def open(self, offset: int, *, stored: bool) -> tuple[BinaryIO, int]:
        info = self._infos[offset]
        if not stored:
            return cast(BinaryIO, self._zip.open(info)), info.file_size
        size = info.compress_size
        return _part_of(self._file, self._end_of(offset, info) - size, size), size


def _zip_problem(info: zipfile.ZipInfo, limits: InflationLimits) -> str:
    if info.flag_bits & _ENCRYPTED_FLAG:
        return ENCRYPTED
    if info.compress_type not in METHODS:
        return UNREADABLE
    return "" if limits.allow(info.file_size, info.compress_size) else INFLATES_TOO_FAR


def _is_folder(info: zipfile.ZipInfo, mode: int) -> bool:
    return stat.S_ISDIR(mode) or info.filename.endswith(("/", "\\"))


class TarArchive:
    """A tar file, or the decompressed content of one."""

    def __init__(self, file: Any, stored_size: int, *, compressed: bool) -> None:
        self._file, self._stored_size, self._compressed = file, stored_size, compressed
        self._tar = tarfile.TarFile(fileobj=cast(Any, _LimitedReads(file)), mode="r")

    def members(self, limits: InflationLimits) -> Iterator[Member | Skipped]:
        self._tar.offset = 0
        self._tar.firstmember = None  # type: ignore[attr-defined]
        last: Member | Skipped | None = None  # is complete if what follows can be read
        while (info := self._next(limits)) is not None:
            if last is not None:
                yield last
            last = _tar_member(info, limits)
        self._require_end(limits)
        if last is not None:
            yield last

    def open(self, offset: int, *, stored: bool) -> tuple[BinaryIO, int]:
        info = self._info_at(offset)
        if stored:
            size = _stored_size(info)
            return _part_of(self._file, info.offset_data, size), size
        content = self._tar.extractfile(info)
        if content is None:
            raise DamagedArchive("a member is not a file")
        return cast(BinaryIO, content), info.size

    def _next(self, limits: InflationLimits) -> tarfile.TarInfo | None:
        if self._tar.offset == 0:
            try:
                info = self._info_at(0)
            except tarfile.EOFHeaderError:  # type: ignore[attr-defined]
                return None
        else:
            found = self._tar.next()
            if found is None:
                return None
            info = found
        self._tar.members = []  # type: ignore[attr-defined]
        self._require_allowed(info.offset_data + _stored_size(info), limits)
        return info

    def _info_at(self, offset: int) -> tarfile.TarInfo:
        self._tar.offset = offset
        self._file.seek(offset)
        return tarfile.TarInfo.fromtarfile(self._tar)

    def _require_allowed(self, position: int, limits: InflationLimits) -> None:
        if self._compressed and not limits.allow(position, self._stored_size):
            raise DamagedArchive("it inflates too far")

    def _require_end(self, limits: InflationLimits) -> None:
        """Raise unless only zeros follow the last member: `tarfile` takes a bad header for the end."""
        self._file.seek(self._tar.offset)
        position = int(self._tar.offset)
        while block := self._file.read(BLOCK_BYTES):
            position += len(block)
            self._require_allowed(position, limits)
            if block.strip(b"\0"):
                raise DamagedArchive("there are bytes after the last member")


def _tar_member(info: tarfile.TarInfo, limits: InflationLimits) -> Member | Skipped | None:
    """Return a member of a tar file; None if it is a folder."""
    if info.issym() or info.islnk():
        return Skipped(Skip.LINK)
    if info.isdir():
        return None
    if not info.isreg():
        return Skipped(Skip.SPECIAL_FILE)
    stored = _stored_size(info)
    if limits.allow(info.size, stored):
        return Member(info.name, info.offset, info.size)
    return Member(info.name, info.offset, stored, INFLATES_TOO_FAR)


def _stored_size(info: tarfile.TarInfo) -> int:
    sparse = cast(list[tuple[int, int]] | None, info.sparse)
    return info.size if sparse is None else sum(size for _, size in sparse)


def copy_member(archive: Archive, offset: int, sink: BinaryIO, *, stored: bool) -> None:
    """Write a member to a file.

    Raises:
        as `Archive.open`; `DamagedArchive` if there is less than listed.
    """
    content, size = archive.open(offset, stored=stored)
    copied = 0
    while block := content.read(BLOCK_BYTES):
        sink.write(block)
        copied += len(block)
    if copied != size and not stored:
        raise DamagedArchive("a member is shorter than listed")


def _part_of(file: Any, start: int, size: int) -> BinaryIO:
    return cast(BinaryIO, io.BufferedReader(_Part(file, start, size), BLOCK_BYTES))


class _Part(io.RawIOBase):
    """A part of a file, which others read, too."""

    def __init__(self, file: Any, start: int, size: int) -> None:
        self._file, self._start, self._size = file, start, size
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._size}[whence]
        self._position = max(0, base + offset)
        return self._position

    def readinto(self, buffer: Any) -> int:
        self._file.seek(self._start + self._position)
        data = self._file.read(max(0, min(len(buffer), self._size - self._position)))
        buffer[: len(data)] = data
        self._position += len(data)
        return len(data)


class _LimitedReads:
    """A file that refuses to read more at once than a header or directory may have."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file

    def read(self, size: int = -1) -> bytes:
        if size > MAX_READ_BYTES:
            raise DamagedArchive("a header is too large")
        data = self._file.read(MAX_READ_BYTES + 1 if size < 0 else size)
        if len(data) > MAX_READ_BYTES:
            raise DamagedArchive("a header is too large")
        return data

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


def close_quietly(file: Any) -> None:
    """Close a file that was only read."""
    with contextlib.suppress(OSError):
        file.close()


def member_info(found: ObjectInfo, member: Member, uri: str) -> ObjectInfo:
    """Return a member as an object, with the version and state of its archive and its position."""
    version = f"{found.version}!{member.offset}" + (f"!{member.problem}" if member.problem else "")
    return ObjectInfo(uri, version, member.size, modified=found.modified, state=found.state)
