"""Files that were replaced after they were listed, that block, or that are mostly holes."""

from __future__ import annotations

import fcntl
import hashlib
import io
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from transforms.core.object_ref import ObjectRef
from transforms.core.read_object import hash_ref, open_ref, read_ref
from transforms.core.reasons import ProcessingFailure, Reason
from transforms.storage import deadline
from transforms.storage.deadline import Progress, call_with_deadline
from transforms.storage.local import LocalStorage, version_of
from transforms.storage.local_read import NotRegularFile, open_regular

SPARSE_BYTES = 1 << 40


def make_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))


REPLACEMENTS: dict[str, Callable[[Path], object]] = {
    "pipe": os.mkfifo,
    "socket": make_socket,
    "folder": Path.mkdir,
    "link to a device": lambda path: path.symlink_to("/dev/zero"),
    "link to a terminal": lambda path: path.symlink_to("/dev/ptmx"),
}


@pytest.fixture(params=REPLACEMENTS)
def replaced(request: pytest.FixtureRequest, tmp_path: Path) -> ObjectRef:
    """Return the reference to a file that was listed and then replaced."""
    path = tmp_path / "a.dcm"
    path.write_bytes(b"x" * 1000)
    info = LocalStorage().stat(str(path))
    assert info is not None
    path.unlink()
    REPLACEMENTS[request.param](path)
    return ObjectRef.of(info)


@pytest.mark.parametrize("read", [read_ref, open_ref, hash_ref])
def test_a_file_that_was_replaced_has_changed(
    replaced: ObjectRef, read: Callable[[ObjectRef], object]
) -> None:
    with pytest.raises(ProcessingFailure) as caught:
        read(replaced)
    assert caught.value.reason is Reason.CHANGED


def test_other_uses_of_a_file_that_was_replaced(replaced: ObjectRef, tmp_path: Path) -> None:
    storage, scratch = LocalStorage(), str(tmp_path / "scratch")
    assert storage.stat(replaced.uri) is None
    with pytest.raises(NotRegularFile):
        storage.copy_to(replaced.uri, None, io.BytesIO())
    with pytest.raises(NotRegularFile):
        storage.put(replaced.uri, io.BytesIO(b"y"), hashlib.sha256(b"y").hexdigest(), scratch)
    with pytest.raises(OSError):  # of any kind: a device is on another file system
        storage.put_link(f"{tmp_path}/b.dcm", replaced.uri, replaced.version, "0" * 64, scratch)
    assert not (tmp_path / "b.dcm").exists()


def test_a_file_with_a_lease_is_read_when_the_lease_is_broken(tmp_path: Path) -> None:
    """As file servers hold them for their clients; opening without waiting fails with EAGAIN."""
    path = tmp_path / "a.dcm"
    path.write_bytes(b"content")
    with subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import fcntl, signal, sys\n"
            "signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGIO])\n"
            f"file = open({str(path)!r}, 'r+b')\n"
            "fcntl.fcntl(file, fcntl.F_SETLEASE, fcntl.F_WRLCK)\n"
            "print(flush=True)\n"
            "signal.sigwait([signal.SIGIO])\n"
            "fcntl.fcntl(file, fcntl.F_SETLEASE, fcntl.F_UNLCK)\n",
        ],
        stdout=subprocess.PIPE,
    ) as holder:
        assert holder.stdout is not None
        if not holder.stdout.readline():
            pytest.skip("this file system has no leases")
        with open_regular(path) as stream:
            assert stream.read() == b"content"
            assert not fcntl.fcntl(stream, fcntl.F_GETFL) & os.O_NONBLOCK


def test_a_call_that_does_not_return_is_abandoned() -> None:
    """It blocks in read(2), as on a file system that does not answer, and its late result is closed."""
    reader, writer = os.pipe()
    disposed = threading.Event()

    def read(progress: Progress) -> bytes:
        return os.read(reader, 1)

    with pytest.raises(TimeoutError):
        call_with_deadline(read, stall_s=0.01, dispose=lambda late: disposed.set())
    assert len(deadline._abandoned) == 1
    os.write(writer, b"x")
    assert disposed.wait(60)
    assert not deadline._abandoned


def test_calls_fail_at_once_while_too_many_block(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deadline, "MAX_ABANDONED", 0)
    with pytest.raises(TimeoutError, match="earlier"):
        call_with_deadline(lambda progress: None)


def test_progress_postpones_the_deadline() -> None:
    turns = [threading.Event() for _ in range(20)]

    def work(progress: Progress) -> str:
        for turn in turns:
            progress.advance()
            turn.wait(0.02)
        return "done"

    assert call_with_deadline(work, stall_s=0.2) == "done"
    with pytest.raises(ZeroDivisionError):
        call_with_deadline(lambda progress: 1 // 0)


@pytest.fixture
def sparse(tmp_path: Path) -> Path:
    """A file of 64 MiB with two small parts that are no holes."""
    path = tmp_path / "sparse.dcm"
    with path.open("wb") as stream:
        stream.write(b"head")
        stream.seek(32 << 20)
        stream.write(b"middle")
        stream.truncate(64 << 20)
    if path.stat().st_blocks * 512 > 1 << 20:
        pytest.skip("this file system has no holes")
    return path


def test_a_copy_of_a_sparse_file_is_sparse(sparse: Path, tmp_path: Path) -> None:
    storage = LocalStorage()
    content = hashlib.sha256(sparse.read_bytes()).hexdigest()
    with (tmp_path / "copy").open("w+b") as sink:
        storage.copy_to(str(sparse), version_of(sparse.stat()), sink)
        assert sink.tell() == sparse.stat().st_size
    copies = [tmp_path / "copy"]
    for name, source in (("put", sparse.open("rb")), ("put again", (tmp_path / "copy").open("rb"))):
        with source:
            storage.put(str(tmp_path / name), source, content, str(tmp_path / "scratch"))
        copies.append(tmp_path / name)
    for copy in copies:
        assert copy.stat().st_blocks * 512 <= 1 << 20
        assert hashlib.sha256(copy.read_bytes()).hexdigest() == content


def test_a_file_of_holes_only(tmp_path: Path) -> None:
    path = tmp_path / "holes.dcm"
    with path.open("wb") as stream:
        stream.truncate(SPARSE_BYTES)
    with (tmp_path / "copy").open("w+b") as sink:
        LocalStorage().copy_to(str(path), None, sink)
    assert (tmp_path / "copy").stat().st_size == SPARSE_BYTES
    assert (tmp_path / "copy").stat().st_blocks * 512 <= 1 << 20


def test_a_partly_read_file_is_copied_from_its_position(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"0123456789" * 1000)
    with (tmp_path / "a").open("rb") as source:
        source.read(10)
        content = hashlib.sha256(b"0123456789" * 999).hexdigest()
        LocalStorage().put(str(tmp_path / "b"), source, content, str(tmp_path / "scratch"))
    assert (tmp_path / "b").read_bytes() == b"0123456789" * 999
