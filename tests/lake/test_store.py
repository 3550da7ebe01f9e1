"""Files come whole or not at all, and nothing is overwritten."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from transforms.lake.store import put_bytes, put_copy, put_link, sha256_of
from transforms.reasons import Reason, Unaccounted

DATA = b"some bytes"
SHA = hashlib.sha256(DATA).hexdigest()


def test_a_second_put_changes_nothing(tmp_path: Path) -> None:
    target = tmp_path / "a" / "b.dcm"
    assert put_bytes(target, DATA) is True
    before = target.stat()
    assert put_bytes(target, DATA) is False
    assert target.stat().st_mtime_ns == before.st_mtime_ns
    assert [p.name for p in target.parent.iterdir()] == ["b.dcm"]


@pytest.mark.parametrize("how", [put_copy, put_link])
def test_other_bytes_under_the_name_are_kept_and_said(tmp_path: Path, how) -> None:
    target, source = tmp_path / "t.dcm", tmp_path / "s.dcm"
    target.write_bytes(b"others were here first")
    source.write_bytes(DATA)
    for put in (lambda: put_bytes(target, DATA), lambda: how(target, source, SHA)):
        with pytest.raises(Unaccounted) as caught:
            put()
        assert caught.value.reason is Reason.NAME_TAKEN
    assert target.read_bytes() == b"others were here first"


@pytest.mark.parametrize("how", [put_copy, put_link])
def test_a_source_that_changed_is_not_placed(tmp_path: Path, how) -> None:
    source = tmp_path / "s.dcm"
    source.write_bytes(b"changed since it was decided")
    with pytest.raises(Unaccounted) as caught:
        how(tmp_path / "t.dcm", source, SHA)
    assert caught.value.reason is Reason.CHANGED
    assert [p.name for p in tmp_path.iterdir()] == ["s.dcm"]


def test_copy_and_link_place_the_same(tmp_path: Path) -> None:
    source = tmp_path / "s.dcm"
    source.write_bytes(DATA)
    put_copy(tmp_path / "c.dcm", source, SHA)
    put_link(tmp_path / "l.dcm", source, SHA)
    assert sha256_of(tmp_path / "c.dcm") == sha256_of(tmp_path / "l.dcm") == SHA
    assert (tmp_path / "l.dcm").stat().st_ino == source.stat().st_ino


def test_a_full_disk_is_said_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(Unaccounted) as caught:
        put_bytes(tmp_path / "t.dcm", DATA)
    assert caught.value.reason is Reason.NO_SPACE
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_made_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(Unaccounted):
        put_bytes(tmp_path / "file" / "t.dcm", DATA)
