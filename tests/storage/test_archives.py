"""Members of archives, also of hostile ones; nothing is extracted."""

from __future__ import annotations

import gzip
import hashlib
import io
import random
import stat
import struct
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.stores import Store
from transforms.storage import archive_storage
from transforms.storage.archive_names import archive_of, is_member
from transforms.storage.archive_storage import NotAnArchive
from transforms.storage.archives import InflationLimits
from transforms.storage.base import ObjectChanged, ObjectInfo, sha256_of
from transforms.storage.schemes import archives, storage_of
from transforms.storage.selection import Selection, Skip, Skipped

FILES = {
    "a.dcm": b"first" * 100,
    "day 1/ü.dcm": bytes(range(256)) * 300,
    "deep/er/b": b"",
    "n" * 200 + ".dcm": b"long name",
}


def as_zip(files: dict[str, bytes]) -> bytes:
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.mkdir("folder")
        for name, content in files.items():
            archive.writestr(name, content)
    return data.getvalue()


def as_tar(files: dict[str, bytes], *extra: tarfile.TarInfo) -> bytes:
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w") as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
        for info in extra:
            archive.addfile(info)
    return data.getvalue()


def as_tgz(files: dict[str, bytes]) -> bytes:
    return gzip.compress(as_tar(files))


PACK: dict[str, Callable[[dict[str, bytes]], bytes]] = {
    "x.zip": as_zip, "X.ZIP": as_zip, "x.tar": as_tar, "x.tar.gz": as_tgz, "x.tgz": as_tgz,
}  # fmt: skip


def members(uri: str, selection: Selection | None = None) -> list[ObjectInfo | Skipped]:
    found = storage_of(uri).stat(uri)
    assert found is not None
    return list(archives().members(found, InflationLimits(), selection or Selection()))


def read(found: ObjectInfo) -> tuple[bytes, str]:
    sink = io.BytesIO()
    problem = archives().copy_member(found.uri, found.version, sink)
    return sink.getvalue(), problem


def contents(uri: str) -> dict[str, tuple[bytes, str]]:
    found = [one for one in members(uri) if isinstance(one, ObjectInfo)]
    shuffled = random.Random(1).sample(found, len(found))
    result = {one.uri.removeprefix(f"{uri}!/"): read(one) for one in shuffled}
    assert all(len(read(one)[0]) == one.size for one in found)
    return result


def written(path: Path, data: bytes) -> str:
    path.write_bytes(data)
    return str(path)


@pytest.mark.parametrize("name", PACK)
def test_members_are_read_in_any_order(tmp_path: Path, name: str) -> None:
    uri = written(tmp_path / name, PACK[name](FILES))
    assert contents(uri) == {member: (data, "") for member, data in FILES.items()}


@pytest.mark.parametrize("name", PACK)
def test_members_of_archives_in_stores(store: Store, name: str) -> None:
    uri = store.write(f"in/{name}", PACK[name](FILES))
    assert contents(uri) == {member: (data, "") for member, data in FILES.items()}
    (found,) = [one for one in members(uri) if isinstance(one, ObjectInfo) and "a.dcm" in one.uri]
    store.write(f"in/{name}", PACK[name]({"a.dcm": b"another"}))
    archives().close()
    with pytest.raises(ObjectChanged):
        read(found)


@pytest.mark.parametrize("name", PACK)
def test_another_version_of_an_archive_is_not_read(tmp_path: Path, name: str) -> None:
    uri = written(tmp_path / name, PACK[name](FILES))
    found = [one for one in members(uri) if isinstance(one, ObjectInfo)]
    written(tmp_path / name, PACK[name]({**FILES, "more": b"x"}))
    with pytest.raises(ObjectChanged):
        read(found[0])
    Path(uri).unlink()
    with pytest.raises(FileNotFoundError):
        read(found[0])


def test_members_of_the_same_name_are_two_objects(tmp_path: Path) -> None:
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as archive, pytest.warns(UserWarning, match="Duplicate"):
        archive.writestr("a", b"1")
        archive.writestr("a", b"2")
    for name, packed in (
        ("x.zip", data.getvalue()),
        ("x.tar", as_tar({"a": b"1"})[:1024] + as_tar({"a": b"2"})),
    ):
        found = members(written(tmp_path / name, packed))
        assert [read(one)[0] for one in found if isinstance(one, ObjectInfo)] == [b"1", b"2"]


def test_a_member_that_is_encrypted_is_had_as_it_is_stored(tmp_path: Path) -> None:
    data = bytearray(as_zip({"a": b"secret", "b": b"open"}))
    for signature, flags in ((b"PK\3\4", 6), (b"PK\1\2", 8)):
        at = data.index(signature, data.index(b"a", data.index(signature)) - 60)
        while data[at + {b"PK\3\4": 30, b"PK\1\2": 46}[signature]] != ord("a"):
            at = data.index(signature, at + 1)
        data[at + flags] |= 1
    found = contents(written(tmp_path / "x.zip", bytes(data)))
    assert found["a"][1] == "encrypted_member"
    assert found["b"] == (b"open", "")


def test_a_damaged_member_hides_no_other(tmp_path: Path) -> None:
    stored = io.BytesIO()
    with zipfile.ZipFile(stored, "w") as archive:
        for name in "abc":
            archive.writestr(f"{name}.dcm", name.encode() * 50)
    data = stored.getvalue().replace(b"b" * 50, b"b" * 49 + b"B")
    found = contents(written(tmp_path / "x.zip", data))
    assert found["a.dcm"] == (b"a" * 50, "") and found["c.dcm"] == (b"c" * 50, "")
    assert found["b.dcm"] == (b"b" * 49 + b"B", "damaged_member")


@pytest.mark.parametrize("name", PACK)
@pytest.mark.parametrize("keep", [0.0, 0.3, 0.9])
def test_a_truncated_archive_is_not_one(tmp_path: Path, name: str, keep: float) -> None:
    noise = {n: random.Random(n).randbytes(20_000) for n in "abcdefgh"}
    packed = PACK[name](noise)
    uri = written(tmp_path / name, packed[: int(len(packed) * keep)])
    storage, info = archives(), storage_of(uri).stat(uri)
    assert info is not None
    found: list[ObjectInfo] = []
    with pytest.raises(NotAnArchive):
        for one in storage.members(info, InflationLimits(), Selection()):
            assert isinstance(one, ObjectInfo)
            found.append(one)
    assert all(read(one) == (noise[one.uri[-1]], "") for one in found)
    assert len(found) < len(noise)


@pytest.mark.parametrize("damage", [b"\xff" * 512, b"x", b"PK"])
def test_a_bad_header_is_not_the_end_of_a_tar_file(tmp_path: Path, damage: bytes) -> None:
    packed = bytearray(as_tar({"a": b"1", "b": b"2", "c": b"3"}))
    packed[1024 : 1024 + len(damage)] = damage
    uri = written(tmp_path / "x.tar", bytes(packed))
    with pytest.raises(NotAnArchive):
        members(uri)


def tar_info(name: str, kind: bytes, target: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


def test_links_and_devices_in_archives_are_skipped(tmp_path: Path) -> None:
    extra = [
        tar_info("link", tarfile.SYMTYPE, "/etc/passwd"),
        tar_info("hard", tarfile.LNKTYPE, "../../etc/passwd"),
        tar_info("fifo", tarfile.FIFOTYPE),
        tar_info("null", tarfile.CHRTYPE),
        tar_info("disk", tarfile.BLKTYPE),
        tar_info("folder", tarfile.DIRTYPE),
    ]
    found = members(written(tmp_path / "x.tar", as_tar({"a": b"1"}, *extra)))
    assert [one.why for one in found if isinstance(one, Skipped)] == (
        [Skip.LINK] * 2 + [Skip.SPECIAL_FILE] * 3
    )
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as archive:
        link = zipfile.ZipInfo("link")
        link.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(link, "/etc/passwd")
    assert members(written(tmp_path / "x.zip", data.getvalue())) == [Skipped(Skip.LINK)]


TRAVERSALS = ("../../evil.dcm", "/etc/evil.dcm", "..\\evil.dcm", "C:\\evil.dcm", "a/../../b.dcm")


@pytest.mark.parametrize("pack", [as_zip, as_tar])
def test_names_are_not_paths(tmp_path: Path, pack: Callable[[dict[str, bytes]], bytes]) -> None:
    name = "x.zip" if pack is as_zip else "x.tar"
    uri = written(tmp_path / name, pack(
        {one: one.encode() for one in TRAVERSALS}
    ))  # fmt: skip
    found = contents(uri)
    assert sorted(data for data, _ in found.values()) == sorted(t.encode() for t in TRAVERSALS)
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_a_name_that_is_not_unicode(tmp_path: Path) -> None:
    data = io.BytesIO()
    form = tarfile.GNU_FORMAT
    with tarfile.open(fileobj=data, mode="w", encoding="latin-1", format=form) as archive:
        archive.addfile(tarfile.TarInfo("caf\xe9.dcm"))
    assert contents(written(tmp_path / "x.tar", data.getvalue())) == {"caf\\xe9.dcm": (b"", "")}


@pytest.mark.slow
def test_bombs(tmp_path: Path) -> None:
    zeros = bytes(70 << 20)
    limits = InflationLimits()
    uri = written(tmp_path / "x.zip", as_zip({"a": b"1", "bomb": zeros}))
    found = contents(uri)
    assert found["a"] == (b"1", "")
    assert found["bomb"][1] == "inflates_too_far" and len(found["bomb"][0]) < 100_000
    for name in ("x.tgz", "x.tar.gz"):
        path = written(tmp_path / name, gzip.compress(as_tar({"a": b"1", "bomb": zeros})))
        info = storage_of(path).stat(path)
        assert info is not None
        with pytest.raises(NotAnArchive):
            list(archives().members(info, limits, Selection()))
    trailing = gzip.compress(as_tar({"a": b"1"}) + zeros)
    with pytest.raises(NotAnArchive):
        members(written(tmp_path / "tail.tgz", trailing))


def test_a_sparse_member_of_a_tar_file(tmp_path: Path) -> None:
    def sparse(size: int) -> bytes:
        info = tarfile.TarInfo("sparse")
        info.type, info.size = tarfile.GNUTYPE_SPARSE, 512
        header = bytearray(info.tobuf(tarfile.GNU_FORMAT))
        header[386:410] = b"%011o\0%011o\0" % (1024, 512)
        header[483:495] = b"%011o\0" % size
        header[148:156] = b" " * 8
        header[148:156] = b"%06o\0 " % sum(header)
        return bytes(header) + b"d" * 512 + bytes(1024)

    found = contents(written(tmp_path / "x.tar", sparse(2048)))
    assert found == {"sparse": (bytes(1024) + b"d" * 512 + bytes(512), "")}
    found = contents(written(tmp_path / "y.tar", sparse(1 << 32)))
    assert found == {"sparse": (b"d" * 512, "inflates_too_far")}


def test_zip_entries_that_overlap_are_refused(tmp_path: Path) -> None:
    data = bytearray(as_zip({"aaaa": b"1" * 2000, "bbbb": b"2" * 2000}))
    first = data.index(b"PK\1\2", data.index(b"PK\1\2") + 1)
    second = data.index(b"PK\1\2", first + 1)
    data[second + 42 : second + 46] = struct.pack(
        "<I", struct.unpack("<I", data[first + 42 : first + 46])[0] + 1
    )
    with pytest.raises(NotAnArchive):
        members(written(tmp_path / "x.zip", bytes(data)))


def test_a_huge_header_is_not_read(tmp_path: Path) -> None:
    info = tarfile.TarInfo("x")
    info.type, info.size = tarfile.XHDTYPE, 8 << 30
    with pytest.raises(NotAnArchive):
        members(written(tmp_path / "x.tar", info.tobuf() + bytes(4096)))
    nested = b"".join(
        tar_info("x", tarfile.GNUTYPE_LONGNAME).tobuf(tarfile.GNU_FORMAT) for _ in range(5000)
    )
    with pytest.raises(NotAnArchive):
        members(written(tmp_path / "y.tar", nested))


@pytest.mark.parametrize("name", PACK)
def test_names_are_selected_as_in_folders(tmp_path: Path, name: str) -> None:
    names = (
        "a.dcm",
        "__MACOSX/._a.dcm",
        "DICOMDIR",
        "skip/b.dcm",
        "lake/objects/c.dcm",
        "lake/lake.json",
    )
    uri = written(tmp_path / name, PACK[name](dict.fromkeys(names, b"x")))
    found = members(uri, Selection(exclude=("skip",)))
    assert [one.uri for one in found if isinstance(one, ObjectInfo)] == [f"{uri}!/a.dcm"]
    assert sorted(one.why for one in found if isinstance(one, Skipped)) == [
        Skip.EXCLUDED, Skip.EXCLUDED, Skip.LAKE, Skip.MEDIA_DIRECTORY,
    ]  # fmt: skip


def test_include_selects_members_or_archives() -> None:
    by_member = Selection(include=("*.dcm",))
    assert by_member.skip_file("day/x.zip") is None
    assert by_member.of_members("day/x.zip") == by_member
    assert by_member.skip_file("inner.zip", in_archive=True) == Skip.EXCLUDED
    by_archive = Selection(include=("x*.zip",), exclude=("*.txt",))
    assert by_archive.of_members("/in/X1.ZIP") == Selection(exclude=("*.txt",))
    assert Selection(exclude=("*.zip",)).skip_file("x.zip") == Skip.EXCLUDED


def test_folders_with_names_of_archives(tmp_path: Path) -> None:
    folder = tmp_path / "x.zip!"
    folder.mkdir()
    assert not is_member(written(folder / "a.dcm", b"x"))
    uri = written(folder / "y.tar", as_tar({"b!/c.zip!/d": b"1"}))
    (member,) = members(uri)
    assert isinstance(member, ObjectInfo)
    assert (member.uri, archive_of(member.uri)) == (f"{uri}!/b!/c.zip!/d", uri)
    assert archive_of("s3://b/x.zip!/y.tar!/z") == "s3://b/x.zip"
    assert sha256_of(storage_of(member.uri), member.uri) == hashlib.sha256(b"1").hexdigest()


def test_archives_without_members(tmp_path: Path) -> None:
    for name, data in {
        "x.zip": b"PK\5\6" + bytes(18),
        "x.tar": bytes(10240),
        "x.tgz": gzip.compress(bytes(10240)),
    }.items():
        assert members(written(tmp_path / name, data)) == []


def test_few_archives_stay_open(tmp_path: Path) -> None:
    uris = [written(tmp_path / f"{n}.zip", as_zip({"a": b"%d" % n})) for n in range(20)]
    found = [one for uri in uris for one in members(uri) if isinstance(one, ObjectInfo)]
    assert [read(one)[0] for one in found] == [b"%d" % n for n in range(20)]
    assert len(archives()._open) <= archive_storage.MAX_OPEN


@pytest.mark.parametrize("damage", ["count", "name_length"])
def test_a_member_that_the_directory_does_not_list_is_damage(tmp_path: Path, damage: str) -> None:
    noise = {f"{n}.dcm": random.Random(n).randbytes(500) for n in "abcdef"}
    data = bytearray(as_zip(noise))
    entry = data.index(b"PK\1\2")
    following = data.index(b"PK\1\2", data.index(b"PK\1\2", entry + 1) + 1)
    if damage == "name_length":  # the name of the first entry contains the next entry
        data[entry + 28 : entry + 30] = struct.pack("<H", following - entry - 46)
    else:
        del data[entry:following]
        end = data.index(b"PK\5\6")
        (size,) = struct.unpack("<I", data[end + 12 : end + 16])
        data[end + 12 : end + 16] = struct.pack("<I", size - (following - entry))
    info = storage_of(uri := written(tmp_path / "x.zip", bytes(data))).stat(uri)
    assert info is not None
    with pytest.raises(NotAnArchive):
        list(archives().members(info, InflationLimits(), Selection()))
