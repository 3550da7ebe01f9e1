"""An unnamed file on the lake's disk is linked to its name, not copied."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from transforms.core.object_ref import ObjectRef
from transforms.core.read_object import read_ref
from transforms.core.reasons import ProcessingFailure, Reason
from transforms.core.shared_bytes import SharedBytes
from transforms.lake import files as store
from transforms.storage.local import LocalStorage

DATA = os.urandom(100_000)
SHA256 = hashlib.sha256(DATA).hexdigest()


@pytest.fixture
def ref(tmp_path: Path) -> ObjectRef:
    path = tmp_path / "source"
    path.write_bytes(DATA)
    found = LocalStorage().stat(str(path))
    assert found is not None
    return ObjectRef.of(found)


def unnamed(ref: ObjectRef, folder: Path) -> SharedBytes:
    data = read_ref(ref, str(folder))
    if data.in_memory:
        pytest.skip("the file system of the temporary folder has no unnamed files (O_TMPFILE)")
    return data


def test_the_file_that_was_read_and_hashed_is_linked_to_its_name(
    ref: ObjectRef, tmp_path: Path
) -> None:
    lake = tmp_path / "lake"
    target, scratch = lake / "objects" / "a.dcm", lake / ".tmp"
    with unnamed(ref, scratch) as data:
        assert data.sha256() == SHA256
        assert not list(scratch.iterdir()), "a kill leaves nothing"
        assert store.put_file(str(target), data.rewind(), SHA256, scratch=str(scratch))
        assert target.stat().st_ino == os.fstat(data.file.fileno()).st_ino
    assert target.read_bytes() == DATA
    umask = os.umask(0)
    os.umask(umask)
    assert target.stat().st_mode & 0o777 == 0o640 & ~umask
    assert target.stat().st_nlink == 1 and not list(scratch.iterdir())
    assert Path(ref.uri).stat().st_ino != target.stat().st_ino


def test_an_existing_object_is_not_replaced(ref: ObjectRef, tmp_path: Path) -> None:
    lake = tmp_path / "lake"
    target, scratch = lake / "a.dcm", lake / ".tmp"
    store.put_bytes(str(target), b"other", scratch=str(scratch))
    with unnamed(ref, scratch) as data, pytest.raises(ProcessingFailure) as caught:
        store.put_file(str(target), data.rewind(), SHA256, scratch=str(scratch))
    assert caught.value.reason == Reason.NAME_TAKEN
    assert target.read_bytes() == b"other"
    target.write_bytes(DATA)
    with unnamed(ref, scratch) as data:
        assert not store.put_file(str(target), data.rewind(), SHA256, scratch=str(scratch))


def test_bytes_in_memory_or_on_another_disk_are_copied(ref: ObjectRef, tmp_path: Path) -> None:
    lake = tmp_path / "lake"
    with read_ref(ref) as data:
        assert data.in_memory
        assert store.put_file(str(lake / "a"), data.rewind(), SHA256, scratch=str(lake))
    memory = Path("/dev/shm")
    if os.access(memory, os.W_OK):
        with read_ref(ref, str(memory)) as data:
            assert store.put_file(str(lake / "b"), data.rewind(), SHA256, scratch=str(lake))
    assert {p.name: p.read_bytes() for p in lake.iterdir()}.items() >= {"a": DATA}.items()
    assert all(p.read_bytes() == DATA for p in lake.iterdir())


def test_bytes_are_in_memory_where_the_folder_cannot_have_unnamed_files(
    ref: ObjectRef, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    with read_ref(ref, str(tmp_path / "file" / "below")) as data:
        assert data.in_memory
        assert data.sha256() == SHA256
