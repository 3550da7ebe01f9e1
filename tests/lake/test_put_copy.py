"""Objects of any size are placed without a copy in the folder for temporary files."""

from __future__ import annotations

import hashlib
from contextlib import AbstractContextManager
from io import BufferedRandom
from pathlib import Path

import pytest

from tests.stores import Store
from transforms.core import shared_bytes
from transforms.core.reasons import ProcessingFailure, Reason
from transforms.lake import files
from transforms.storage import temporary

CONTENT = bytes(range(256)) * 50_000
SHA256 = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture(autouse=True)
def _no_temporary_files(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fail a copy in the folder for temporary files, which servers of this process use."""

    def unnamed_file(folder: str | None = None) -> AbstractContextManager[BufferedRandom]:
        assert folder is not None
        return temporary.unnamed_file(folder)

    monkeypatch.setattr(files, "unnamed_file", unnamed_file)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "source.dcm"
    path.write_bytes(CONTENT)
    return path


def put(target: str, source: str, tmp_path: Path) -> bool:
    return files.put_copy(target, source, SHA256, scratch=str(tmp_path / "scratch"))


@pytest.mark.parametrize("has_unnamed_files", [True, False])
def test_a_local_source_in_a_local_lake(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, has_unnamed_files: bool
) -> None:
    if not has_unnamed_files:
        monkeypatch.setattr(shared_bytes, "_unnamed_file", lambda folder: None)
    target = tmp_path / "lake" / "a.dcm"
    assert put(str(target), str(source), tmp_path)
    assert target.read_bytes() == CONTENT
    assert not put(str(target), str(source), tmp_path)
    assert not list((tmp_path / "scratch").iterdir())


def test_a_local_source_in_a_store(store: Store, source: Path, tmp_path: Path) -> None:
    target = f"{store.root}/a.dcm"
    assert put(target, str(source), tmp_path)
    assert files.read_bytes(target) == CONTENT
    assert not put(target, str(source), tmp_path)


def test_a_source_in_a_store_in_a_local_lake(store: Store, tmp_path: Path) -> None:
    files.put_bytes(f"{store.root}/a.dcm", CONTENT, scratch="")
    target = tmp_path / "lake" / "a.dcm"
    assert put(str(target), f"{store.root}/a.dcm", tmp_path)
    assert target.read_bytes() == CONTENT


def test_a_source_that_changed_is_not_placed(store: Store, source: Path, tmp_path: Path) -> None:
    local = tmp_path / "lake" / "a.dcm"
    for content in (CONTENT[:-1] + b"x", CONTENT[:-1], CONTENT + b"x"):
        source.write_bytes(content)
        for target in (str(local), f"{store.root}/changed.dcm"):
            with pytest.raises(ProcessingFailure) as caught:
                put(target, str(source), tmp_path)
            assert caught.value.reason is Reason.CHANGED
            assert not files.exists(target)
