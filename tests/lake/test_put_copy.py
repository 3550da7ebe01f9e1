"""Objects of any size are placed without a copy in the folder for temporary files."""

from __future__ import annotations

import hashlib
import json
import tarfile
import zipfile
from contextlib import AbstractContextManager
from io import BufferedRandom, BytesIO
from pathlib import Path
from typing import BinaryIO, cast

import pytest

from tests.receive.test_dicomweb import MATCH, Answer, answering, multipart
from tests.stores import GS, Store
from tests.synthetic import ROOT
from transforms.core import shared_bytes
from transforms.core.reasons import ProcessingFailure, Reason
from transforms.lake import files
from transforms.storage import temporary
from transforms.storage.archives import InflationLimits
from transforms.storage.base import HashingSink, ObjectInfo
from transforms.storage.schemes import archives, storage_of
from transforms.storage.selection import Selection

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


def test_a_source_in_a_store_in_a_store(store: Store, tmp_path: Path) -> None:
    source, target = f"{store.root}/a.dcm", f"{store.root}/b.dcm"
    files.put_bytes(source, CONTENT, scratch="")
    assert put(target, source, tmp_path)
    assert files.read_bytes(target) == CONTENT
    assert not put(target, source, tmp_path)


def packed(name: str, tmp_path: Path) -> tuple[str, str]:
    """Pack the content; return URI and version of the member."""
    path = tmp_path / name
    if name.endswith(".zip"):
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("a.dcm", CONTENT)
    else:
        with tarfile.open(path, "w:gz", compresslevel=1) as archive:
            info = tarfile.TarInfo("a.dcm")
            info.size = len(CONTENT)
            archive.addfile(info, BytesIO(CONTENT))
    (member,) = archives().members(stat(str(path)), InflationLimits(), Selection())
    assert isinstance(member, ObjectInfo)
    return member.uri, member.version


def stat(uri: str) -> ObjectInfo:
    found = storage_of(uri).stat(uri)
    assert found is not None
    return found


@pytest.mark.parametrize("name", ["x.zip", "x.tar.gz"])
def test_a_member_of_an_archive_in_a_store(store: Store, tmp_path: Path, name: str) -> None:
    source, version = packed(name, tmp_path)
    target = f"{store.root}/a.dcm"
    assert files.put_copy(target, source, SHA256, scratch="", version=version)
    assert files.read_bytes(target) == CONTENT


@pytest.mark.parametrize("store", [GS], indirect=True)
def test_a_damaged_member_in_a_store_is_its_stored_bytes(store: Store, tmp_path: Path) -> None:
    source, _ = packed("x.zip", tmp_path)
    path = tmp_path / "x.zip"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    (damaged,) = archives().members(stat(str(path)), InflationLimits(), Selection())
    assert isinstance(damaged, ObjectInfo)
    sink = HashingSink()
    assert archives().copy_member(source, damaged.version, cast(BinaryIO, sink)) == "damaged_member"
    assert sink.size < len(CONTENT)
    target, sha256 = f"{store.root}/a.dcm", sink.hexdigest()
    assert files.put_copy(target, source, sha256, scratch="", version=damaged.version)
    assert hashlib.sha256(files.read_bytes(target)).hexdigest() == sha256
    with pytest.raises(ProcessingFailure) as caught:
        files.put_copy(f"{target}.2", source, SHA256, scratch="", version=damaged.version)
    assert caught.value.reason is Reason.CHANGED


@pytest.mark.slow
@pytest.mark.parametrize("size", [len(CONTENT), None])
@pytest.mark.parametrize("cut", [0, 1])
def test_an_instance_of_a_dicomweb_server_in_a_store(
    store: Store, tmp_path: Path, size: int | None, cut: int
) -> None:
    match = json.dumps([MATCH]).encode()

    def answer(path: str) -> Answer:
        is_search = "?" in path
        return (200, "application/dicom+json", match) if is_search else multipart(CONTENT)

    with answering(answer, cut=cut) as root:
        source = f"{root}/studies/{ROOT}.1.1/series/{ROOT}.2.1/instances/{ROOT}.3.1"
        target = f"{store.root}/a.dcm"
        assert files.put_copy(target, source, SHA256, scratch="", version=f"{ROOT}.3.1", size=size)
    assert files.read_bytes(target) == CONTENT


@pytest.mark.parametrize("store", [GS], indirect=True)
def test_a_source_in_a_store_that_changed_is_not_placed(store: Store, tmp_path: Path) -> None:
    source, target = f"{store.root}/a.dcm", f"{store.root}/b.dcm"
    store.write("a.dcm", CONTENT)
    listed = stat(source)
    store.write("a.dcm", CONTENT[:-1] + b"x")
    for version in (None, listed.version):
        with pytest.raises(ProcessingFailure) as caught:
            files.put_copy(target, source, SHA256, scratch="", version=version, size=listed.size)
        assert caught.value.reason is Reason.CHANGED
        assert not files.exists(target)


@pytest.mark.slow
def test_a_source_that_changed_is_not_placed(store: Store, source: Path, tmp_path: Path) -> None:
    local = tmp_path / "lake" / "a.dcm"
    for content in (CONTENT[:-1] + b"x", CONTENT[:-1], CONTENT + b"x"):
        source.write_bytes(content)
        for target in (str(local), f"{store.root}/changed.dcm"):
            with pytest.raises(ProcessingFailure) as caught:
                put(target, str(source), tmp_path)
            assert caught.value.reason is Reason.CHANGED
            assert not files.exists(target)
