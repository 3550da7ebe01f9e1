"""Files are written completely or not at all, and nothing is overwritten."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.leftovers import Killed, name_of_dead_process
from transforms.core.reasons import ProcessingFailure, Reason
from transforms.lake.files import put_bytes, put_copy, put_link
from transforms.storage.local import LocalStorage
from transforms.storage.temporary import remove_abandoned

DATA = b"some bytes"
SHA = hashlib.sha256(DATA).hexdigest()


def test_a_second_put_changes_nothing(tmp_path: Path) -> None:
    target = tmp_path / "a" / "b.dcm"
    assert put_bytes(str(target), DATA, scratch=str(tmp_path / ".tmp")) is True
    before = target.stat()
    assert put_bytes(str(target), DATA, scratch=str(tmp_path / ".tmp")) is False
    assert target.stat().st_mtime_ns == before.st_mtime_ns
    assert [p.name for p in target.parent.iterdir()] == ["b.dcm"]


def link(target: str, source: str, sha256: str, *, scratch: str) -> bool:
    """Link the current version of a source."""
    found = LocalStorage().stat(source)
    return put_link(target, source, found.version if found else "1-1", sha256, scratch=scratch)


@pytest.mark.parametrize("how", [put_copy, link])
def test_an_object_with_other_bytes_is_kept_and_reported(
    tmp_path: Path, how: Callable[..., None]
) -> None:
    target, source = tmp_path / "t.dcm", tmp_path / "s.dcm"
    target.write_bytes(b"of another writer")
    source.write_bytes(DATA)
    for put in (
        lambda: put_bytes(str(target), DATA, scratch=str(tmp_path / ".tmp")),
        lambda: how(str(target), str(source), SHA, scratch=str(tmp_path / ".tmp")),
    ):
        with pytest.raises(ProcessingFailure) as caught:
            put()
        assert caught.value.reason is Reason.NAME_TAKEN
    assert target.read_bytes() == b"of another writer"


def link_another_version(target: str, source: str, sha256: str, *, scratch: str) -> bool:
    """Link a version that the source no longer has."""
    return put_link(target, source, "1-1", sha256, scratch=scratch)


@pytest.mark.parametrize("how", [put_copy, link_another_version])
def test_a_source_that_changed_is_not_placed(tmp_path: Path, how: Callable[..., None]) -> None:
    source = tmp_path / "s.dcm"
    source.write_bytes(b"changed since it was read")
    with pytest.raises(ProcessingFailure) as caught:
        how(str(tmp_path / "t.dcm"), str(source), SHA, scratch=str(tmp_path / ".tmp"))
    assert caught.value.reason is Reason.CHANGED
    assert [p.name for p in tmp_path.rglob("*") if p.is_file()] == ["s.dcm"]


def test_copy_and_link_place_the_same(tmp_path: Path) -> None:
    source = tmp_path / "s.dcm"
    source.write_bytes(DATA)
    put_copy(str(tmp_path / "c.dcm"), str(source), SHA, scratch=str(tmp_path))
    link(str(tmp_path / "l.dcm"), str(source), SHA, scratch=str(tmp_path))
    assert (tmp_path / "c.dcm").read_bytes() == (tmp_path / "l.dcm").read_bytes() == DATA
    assert (tmp_path / "l.dcm").stat().st_ino == source.stat().st_ino


def test_a_full_disk_is_reported_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ProcessingFailure) as caught:
        put_bytes(str(tmp_path / "t.dcm"), DATA, scratch=str(tmp_path / ".tmp"))
    assert caught.value.reason is Reason.NO_SPACE
    assert not [p for p in tmp_path.rglob("*") if p.is_file()]


def test_a_folder_that_cannot_be_made_is_reported(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(ProcessingFailure):
        put_bytes(str(tmp_path / "file" / "t.dcm"), DATA, scratch=str(tmp_path / ".tmp"))


def test_a_link_to_a_source_is_followed(tmp_path: Path) -> None:
    (tmp_path / "real.dcm").write_bytes(DATA)
    (tmp_path / "alias.dcm").symlink_to("real.dcm")
    link(
        str(tmp_path / "lake" / "l.dcm"),
        str(tmp_path / "alias.dcm"),
        SHA,
        scratch=str(tmp_path / ".tmp"),
    )
    assert not (tmp_path / "lake" / "l.dcm").is_symlink()
    assert (tmp_path / "lake" / "l.dcm").read_bytes() == DATA


@pytest.mark.parametrize("how", [put_copy, link])
def test_a_missing_source_is_reported(tmp_path: Path, how: Callable[..., None]) -> None:
    with pytest.raises(ProcessingFailure) as caught:
        how(
            str(tmp_path / "t.dcm"), str(tmp_path / "gone.dcm"), SHA, scratch=str(tmp_path / ".tmp")
        )
    assert caught.value.reason is Reason.DISAPPEARED


def test_a_partial_file_carries_the_process_that_writes_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a kill leaves is removed by the next run; what others put beside it is not."""
    scratch = tmp_path / ".tmp"
    scratch.mkdir()
    (scratch / "of another program").touch()

    def kill(descriptor: int) -> None:
        (partial,) = scratch.glob("dicom-router-*")
        os.link(partial, scratch / name_of_dead_process())
        raise Killed

    monkeypatch.setattr(os, "fsync", kill)
    with pytest.raises(Killed):
        put_bytes(str(tmp_path / "t.dcm"), DATA, scratch=str(scratch))
    assert remove_abandoned(scratch) == 1
    assert [path.name for path in scratch.iterdir()] == ["of another program"]
