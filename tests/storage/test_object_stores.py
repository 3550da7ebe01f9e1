"""Object stores give the same guarantees as local folders, also when requests fail."""

from __future__ import annotations

import hashlib
import io
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from tests.stores import S3, Store
from transforms.core import read_object
from transforms.core.object_ref import ObjectRef
from transforms.core.read_object import RefReader, first_error, read_ref
from transforms.core.reasons import ProcessingFailure, Reason
from transforms.storage import s3
from transforms.storage.base import ObjectChanged, ObjectInfo, SupportsServerSideCopy, sha256_of
from transforms.storage.schemes import reset_clients, storage_of
from transforms.storage.selection import Selection, Skipped

DATA = bytes(range(256)) * 5000
DATA_BYTES = len(DATA)
SHA = hashlib.sha256(DATA).hexdigest()


def put(uri: str, data: bytes = DATA) -> bool:
    return storage_of(uri).put(uri, io.BytesIO(data), hashlib.sha256(data).hexdigest(), "")


def read(uri: str, version: str | None = None) -> bytes:
    sink = io.BytesIO()
    storage_of(uri).copy_to(uri, version, sink)
    return sink.getvalue()


def names(store: Store, pattern: str, excluded: tuple[str, ...] = ()) -> list[str]:
    found = list(storage_of(store.root).match(f"{store.root}/{pattern}", Selection(roots=excluded)))
    skipped = [one for one in found if isinstance(one, Skipped)]
    listed = [one for one in found if isinstance(one, ObjectInfo)]
    assert len(listed) + len(skipped) == len(found)
    return [one.uri.removeprefix(f"{store.root}/") for one in listed]


def test_a_second_put_changes_nothing(store: Store) -> None:
    uri = f"{store.root}/a/b.dcm"
    assert put(uri) is True
    before = storage_of(uri).stat(uri)
    assert put(uri) is False
    assert storage_of(uri).stat(uri) == before
    assert store.read_all() == {"a/b.dcm": DATA}


def test_an_object_with_other_bytes_is_kept_and_reported(store: Store) -> None:
    uri = store.write("a.dcm", b"of another writer")
    with pytest.raises(FileExistsError):
        put(uri)
    assert store.read_all() == {"a.dcm": b"of another writer"}


def test_the_same_bytes_of_another_writer_are_accepted(store: Store) -> None:
    assert put(store.write("a.dcm", DATA)) is False


def test_a_small_object_is_sent_in_one_request(store: Store) -> None:
    store.fault("uploadType=resumable|[?&]uploads", status=403)
    assert put(f"{store.root}/a.dcm") is True
    assert store.hits() == [0]


def test_a_server_side_copy_is_conditional(store: Store) -> None:
    source, target = store.write("a.dcm", DATA), f"{store.root}/b/c.dcm"
    storage = storage_of(target)
    if store.scheme == S3:  # no test server has conditional copies
        assert not isinstance(storage, SupportsServerSideCopy)
        return
    assert isinstance(storage, SupportsServerSideCopy)
    found = storage.stat(source)
    assert found is not None
    store.fault("^POST /upload", status=403)
    assert storage.copy_server_side(target, source, found.version, SHA) is True
    store.clear_faults()
    assert read(target) == DATA
    copied = storage.stat(target)
    assert copied is not None and copied.sha256 == SHA
    assert storage.copy_server_side(target, source, found.version, SHA) is False
    assert storage.stat(target) == copied

    other = store.write("other.dcm", b"of another writer")
    with pytest.raises(FileExistsError):
        storage.copy_server_side(other, source, found.version, SHA)
    store.write("a.dcm", b"another version")
    with pytest.raises(ObjectChanged):
        storage.copy_server_side(f"{store.root}/d.dcm", source, found.version, SHA)
    with pytest.raises(FileNotFoundError):
        storage.copy_server_side(f"{store.root}/d.dcm", f"{store.root}/none.dcm", "1", SHA)
    assert sorted(store.read_all()) == ["a.dcm", "b/c.dcm", "other.dcm"]


def test_one_of_many_concurrent_writers_wins(store: Store) -> None:
    uri = f"{store.root}/a.dcm"
    barrier = threading.Barrier(8)

    def write(number: int) -> bool:
        barrier.wait()
        try:
            return put(uri, f"bytes of {number}".encode())
        except FileExistsError:
            return False

    with ThreadPoolExecutor(8) as pool:
        won = list(pool.map(write, range(8)))
    assert sum(won) == 1
    assert store.read_all() == {"a.dcm": f"bytes of {won.index(True)}".encode()}


@pytest.mark.slow
def test_a_lost_response_is_no_failure(store: Store) -> None:
    """The store has written, the client gets no response and retries."""
    store.fault("^(POST|PUT) .*a.dcm|^POST /upload", count=1, after=True, reset=True)
    put(f"{store.root}/a.dcm")
    assert store.hits() == [1]
    assert store.read_all() == {"a.dcm": DATA}


@pytest.mark.slow
@pytest.mark.parametrize("status", [429, 503])
def test_transient_errors_are_retried(store: Store, status: int) -> None:
    uri = store.write("a.dcm", DATA)
    store.fault(".", count=2, status=status)
    assert read(uri) == DATA
    assert store.hits() == [2]


@pytest.mark.slow
def test_an_interrupted_download_continues(store: Store) -> None:
    uri = store.write("a.dcm", DATA)
    store.fault("^GET .*a.dcm", count=2, cut=400_000)
    assert read(uri) == DATA
    assert store.hits() == [2]


def test_exactly_the_listed_version_is_read(store: Store) -> None:
    uri = store.write("a.dcm", DATA)
    (found,) = storage_of(uri).list_below(store.root)
    assert isinstance(found, ObjectInfo)
    assert read(uri, found.version) == DATA
    store.write("a.dcm", b"new")
    with pytest.raises(ObjectChanged):
        read(uri, found.version)
    assert read(uri) == b"new"


def test_a_missing_object_is_reported(store: Store) -> None:
    uri = f"{store.root}/gone.dcm"
    assert storage_of(uri).stat(uri) is None
    with pytest.raises(FileNotFoundError):
        read(uri, "1")
    storage_of(uri).remove(uri)  # no error


def test_a_denied_permission_is_reported(store: Store) -> None:
    uri = store.write("a.dcm", DATA)
    store.fault(".", status=403)
    for attempt in (lambda: read(uri), lambda: put(uri), lambda: storage_of(uri).stat(uri)):
        with pytest.raises(PermissionError):
            attempt()
    (error,) = storage_of(uri).match(store.root)
    assert isinstance(error, PermissionError)


def test_a_missing_bucket_is_reported(store: Store) -> None:
    (error,) = storage_of(store.root).match(f"{store.scheme}://no-such-bucket/x/")
    assert isinstance(error, FileNotFoundError)


def test_patterns(store: Store) -> None:
    for name in ("in/a.dcm", "in/b/c.dcm", "in/b.txt", "in2/d.dcm", "in/[x].dcm", "lake/o"):
        store.write(name, b"x")
    store.write("in/b/", b"")  # a console's folder marker
    assert names(store, "in/a.dcm") == ["in/a.dcm"]
    assert names(store, "in") == names(store, "in/") == [
        "in/[x].dcm", "in/a.dcm", "in/b.txt", "in/b/c.dcm",
    ]  # fmt: skip
    assert names(store, "in/*.dcm") == ["in/[x].dcm", "in/a.dcm"]
    assert names(store, "**/*.dcm") == ["in/[x].dcm", "in/a.dcm", "in/b/c.dcm", "in2/d.dcm"]
    assert names(store, "**.dcm") == []
    assert names(store, "in/**.dcm") == ["in/[x].dcm", "in/a.dcm"]
    assert names(store, "in/?") == ["in/b/c.dcm"]
    assert names(store, "in//") == []
    assert names(store, "in/[x].dcm") == ["in/[x].dcm"]
    assert names(store, "in[!2]/") == names(store, "nothing") == []
    assert "lake/o" in names(store, "")
    assert "lake/o" not in names(store, "", (f"{store.root}/lake",))


def test_an_object_named_like_a_folder_is_an_object(store: Store) -> None:
    store.write("in/study/", DATA)
    assert names(store, "in") == ["in/study/"]
    assert read(f"{store.root}/in/study/") == DATA


@pytest.mark.parametrize(
    "name", ["a b+c.dcm", "100%25.dcm", "Ünï/Ж.dcm", "q?x=1&y#z.dcm", "'\";<b>.dcm", "a//b.dcm"]
)
def test_a_name_is_not_unquoted(store: Store, name: str) -> None:
    put(f"{store.root}/{name}")
    (found,) = storage_of(store.root).list_below(store.root)
    assert found.uri == f"{store.root}/{name}"
    assert read(found.uri, found.version) == DATA
    assert list(store.read_all()) == [name]


def test_large_objects_are_sent_in_parts(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(s3, "PART_BYTES", 5 << 20)
    data = DATA * 10
    uri = f"{store.root}/large.dcm"
    assert put(uri, data) is True
    assert put(uri, data) is False
    with pytest.raises(FileExistsError):
        put(uri, data + b"x")
    assert store.read_all() == {"large.dcm": data}


@pytest.mark.parametrize("store", [S3], indirect=True)
def test_a_store_without_conditional_writes_is_written_and_read_back(store: Store) -> None:
    store.fault("^PUT ", count=1, status=501)
    assert put(f"{store.root}/a.dcm") is True
    assert store.hits() == [1]
    assert store.read_all() == {"a.dcm": DATA}


def test_a_sha256_that_is_not_in_the_metadata_is_computed(store: Store) -> None:
    uri = store.write("a.dcm", DATA)
    assert sha256_of(storage_of(uri), uri) == SHA


@pytest.mark.parametrize("store", [S3], indirect=True)
def test_a_write_that_conflicts_with_another_is_retried(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(s3, "BACKOFF_S", (0.01, 0.01))
    store.fault("^PUT ", count=1, status=409)
    assert put(f"{store.root}/a.dcm") is True
    store.clear_faults()
    store.fault("^PUT ", status=409)
    with pytest.raises(OSError, match="no such object"):
        put(f"{store.root}/b.dcm")


def refer(store: Store, name: str) -> ObjectRef:
    found = storage_of(store.root).stat(f"{store.root}/{name}")
    assert found is not None
    return ObjectRef.of(found)


@pytest.mark.parametrize("part_bytes", [DATA_BYTES * 2, DATA_BYTES, DATA_BYTES // 4, 300_007])
def test_an_object_is_read_in_parts(
    store: Store, monkeypatch: pytest.MonkeyPatch, part_bytes: int
) -> None:
    monkeypatch.setattr(read_object, "PART_BYTES", part_bytes)
    store.write("a.dcm", DATA)
    reader = RefReader(refer(store, "a.dcm"))
    store.fault("^GET ")
    parts = reader.parts()
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda part: part(), reversed(parts)))
    assert len(parts) == -(-DATA_BYTES // part_bytes) <= store.hits()[0]
    with reader.finish() as data:
        assert data.rewind().read() == DATA
        assert data.sha256() == SHA


@pytest.mark.parametrize("content", [DATA[::-1], DATA[:-1], b""], ids=["same size", "less", "no"])
def test_parts_of_two_versions_are_never_mixed(
    store: Store, monkeypatch: pytest.MonkeyPatch, content: bytes
) -> None:
    monkeypatch.setattr(read_object, "PART_BYTES", DATA_BYTES // 4)
    store.write("a.dcm", DATA)
    reader = RefReader(refer(store, "a.dcm"))
    first, *others = reader.parts()
    first()
    store.write("a.dcm", content)
    with pytest.raises(ProcessingFailure) as caught:
        reader.finish(first_error(lambda: others))
    assert caught.value.reason is Reason.CHANGED


@pytest.mark.parametrize("content", [DATA, b""], ids=["content", "no content"])
def test_an_object_with_another_size_than_listed_has_changed(store: Store, content: bytes) -> None:
    store.write("a.dcm", content)
    ref = refer(store, "a.dcm")
    with read_ref(ref) as data:
        assert data.rewind().read() == content
    for size in (len(content) + 1, len(content) + 2 * read_object.PART_BYTES):
        with pytest.raises(ProcessingFailure) as caught:
            read_ref(replace(ref, size=size))
        assert caught.value.reason in (Reason.CHANGED, Reason.READ_FAILED)


def test_missing_credentials_are_a_failure_of_the_object(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("STORAGE_EMULATOR_HOST", raising=False)
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(tmp_path / "none.json"))
    reset_clients()
    try:
        with pytest.raises(ProcessingFailure) as caught:
            read_ref(ObjectRef("gs://bucket/a.dcm", "1", 5))
    finally:
        reset_clients()
    assert caught.value.reason is Reason.PERMISSION_DENIED


@pytest.mark.slow
def test_an_interrupted_part_is_read_again(store: Store) -> None:
    store.write("a.dcm", DATA)
    ref = refer(store, "a.dcm")
    store.fault("^GET .*a.dcm", count=2, cut=400_000)
    with read_ref(ref) as data:
        assert data.sha256() == SHA
    assert store.hits() == [2]
