"""Archives and manifests on a file system that stops answering: the run ends, and hangs for no file."""

from __future__ import annotations

import errno
import io
import os
import tarfile
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.sources.archives import expand_archive
from pipeline.sources.manifest_parts import UnreadableManifest, entries_of, parts_of
from tests.graphs import config_of
from transforms.core.errors import UsageError
from transforms.core.object_ref import ObjectRef
from transforms.storage import deadline
from transforms.storage.archives import InflationLimits
from transforms.storage.base import ObjectInfo
from transforms.storage.schemes import archives, storage_of
from transforms.storage.selection import Selection

LISTED = b"".join(b"/in/%d.dcm\n" % n for n in range(10))


class Disk:
    """A disk whose reads block while it hangs, in read(2)."""

    def __init__(self) -> None:
        self.hangs = True
        self.reads = 0
        self._end, self._start = os.pipe()
        self._pread = os.pread

    def pread(self, descriptor: int, length: int, position: int) -> bytes:
        self.reads += 1
        if self.hangs:
            os.read(self._end, 1)
        return self._pread(descriptor, length, position)

    def release(self) -> None:
        self.hangs = False
        os.write(self._start, bytes(self.reads))


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Iterator[Disk]:
    monkeypatch.setattr(deadline, "STALL_S", 0.2)
    made = Disk()
    monkeypatch.setattr(os, "pread", made.pread)
    yield made
    made.release()
    while deadline._abandoned:
        time.sleep(0.01)


def stat(path: Path) -> ObjectInfo:
    found = storage_of(str(path)).stat(str(path))
    assert found is not None
    return found


def packed(path: Path) -> Path:
    data = io.BytesIO()
    if path.suffix == ".zip":
        with zipfile.ZipFile(data, "w") as zipped:
            zipped.writestr("a", b"a")
    else:
        with tarfile.open(fileobj=data, mode="w:gz" if path.suffix == ".gz" else "w") as archive:
            info = tarfile.TarInfo("a")
            info.size = 1
            archive.addfile(info, io.BytesIO(b"a"))
    path.write_bytes(data.getvalue())
    return path


@pytest.mark.parametrize("name", ["x.zip", "x.tar", "x.tar.gz"])
def test_an_archive_that_cannot_be_listed(disk: Disk, tmp_path: Path, name: str) -> None:
    ref = ObjectRef.of(stat(packed(tmp_path / name)))
    (error,) = expand_archive(ref, config_of())
    assert isinstance(error, OSError)
    assert error.errno == errno.ETIMEDOUT


@pytest.mark.slow
@pytest.mark.parametrize("name", ["x.zip", "x.tar.gz"])
def test_members_of_an_archive_that_hangs_fail_at_once(
    disk: Disk, tmp_path: Path, name: str
) -> None:
    path = packed(tmp_path / name)
    disk.hangs = False
    found = stat(path)
    (member,) = archives().members(found, InflationLimits(), Selection())
    assert isinstance(member, ObjectInfo)
    archives().close()
    disk.hangs, before = True, disk.reads
    for _ in range(3):
        with pytest.raises(TimeoutError):
            archives().copy_member(member.uri, member.version, io.BytesIO())
    assert disk.reads <= before + 3


@pytest.mark.parametrize("name", ["list", "list.csv", "list.gz", "list.parquet", "manifest.json"])
def test_a_manifest_that_cannot_be_read(disk: Disk, tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(LISTED)
    with pytest.raises(UsageError, match="does not answer"):
        list(parts_of(str(tmp_path / name), 1, None))


def test_a_manifest_that_hangs_later(disk: Disk, tmp_path: Path) -> None:
    (tmp_path / "list").write_bytes(LISTED)
    disk.hangs = False
    (part,) = parts_of(str(tmp_path / "list"), 1, None)
    disk.hangs = True
    with pytest.raises(UnreadableManifest, match="after line 1"):
        list(entries_of(part, None))


def test_a_manifest_that_is_a_pipe(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "list")
    with pytest.raises(UsageError, match="not a regular one"):
        list(parts_of(str(tmp_path / "list"), 1, None))
