"""Sources that change while their size and modification time stay, and those that only seem to."""

from __future__ import annotations

import os
import shutil
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from pipeline.cli import main
from tests.conformance import violations
from tests.conftest import Lake, Route, counts
from tests.synthetic import dicom_bytes, image
from transforms.core.object_ref import ObjectRef
from transforms.lake.layout import Layout
from transforms.lake.source_states import SourceStates
from transforms.lake.source_versions import resolve_version
from transforms.storage.base import Storage, sha256_of
from transforms.storage.local import LocalStorage

pytestmark = pytest.mark.slow

FIRST = dicom_bytes(image(1, (96, 64)), name="1")
SECOND = dicom_bytes(image(2, (96, 64)), name="1")
CONSTANT = dicom_bytes(image(3, (96, 64)), name="3")
NAME = "a.dcm"


@pytest.fixture
def path(source: Path) -> Path:
    """The only source: an image."""
    assert len(FIRST) == len(SECOND)
    (source / NAME).write_bytes(FIRST)
    return source / NAME


def restore_times(path: Path, times: os.stat_result) -> None:
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))


def rewrite_in_place(path: Path) -> None:
    times = path.stat()
    path.write_bytes(SECOND)
    restore_times(path, times)


def replace_by_rename(path: Path) -> None:
    times = path.stat()
    other = path.with_name("other")
    other.write_bytes(SECOND)
    restore_times(other, times)
    other.replace(path)


def change_permissions(path: Path) -> None:
    path.chmod(0o600)


def link_elsewhere(path: Path) -> None:
    os.link(path, path.parents[1] / "elsewhere")


def restore_from_backup(path: Path) -> None:
    backup = path.parents[1] / "backup"
    shutil.copy2(path, backup)
    path.unlink()
    shutil.copy2(backup, path)


REWRITES = [rewrite_in_place, replace_by_rename]
NO_CHANGES = [change_permissions, link_elsewhere, restore_from_backup]


@pytest.mark.parametrize("placement", ["copy", "link", "index_only"])
@pytest.mark.parametrize("rewrite", REWRITES)
def test_other_content_of_the_same_size_and_time_is_ingested_once(
    route: Route, lake: Lake, path: Path, rewrite: Callable[[Path], None], placement: str
) -> None:
    options = ("--placement", placement)
    route(*options)
    rewrite(path)
    summary = route(*options)
    assert summary["counts"]["unchanged"] == 0 and summary["counts"]["discovered"] == 1
    first, second = sorted(lake.rows(), key=lambda row: len(row["source_version"]))
    assert second["source_version"].startswith(f"{first['source_version']}-")
    assert second["content_sha256"] != first["content_sha256"] and second["conflict"]
    assert counts(route(*options)) == {"unchanged": 1}
    assert counts(route(*options, "--reprocess", "all")) == {"unchanged": 1}
    assert len(lake.rows()) == 2
    if placement == "copy":
        assert main(["verify", str(lake.root), "--deep"]) == 0
        assert not violations(lake.root)


@pytest.mark.parametrize("placement", ["copy", "link"])
@pytest.mark.parametrize("change", NO_CHANGES)
def test_the_same_content_stays_unchanged(
    route: Route, lake: Lake, path: Path, change: Callable[[Path], None], placement: str
) -> None:
    options = ("--placement", placement)
    route(*options)
    assert counts(route(*options)) == {"unchanged": 1}
    change(path)
    assert counts(route(*options)) == {"unchanged": 1}
    assert len(lake.rows()) == 1
    assert main(["verify", str(lake.root)]) == 0
    assert not violations(lake.root)


@pytest.mark.parametrize("change", NO_CHANGES)
def test_a_source_in_another_state_is_read_once(
    route: Route,
    lake: Lake,
    path: Path,
    change: Callable[[Path], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    read: list[str] = []

    def sha256_once(storage: Storage, uri: str, version: str | None) -> str:
        read.append(uri)
        return sha256_of(storage, uri, version)

    monkeypatch.setattr("transforms.lake.source_versions.sha256_of", sha256_once)
    route()
    assert counts(route()) == {"unchanged": 1} and not read
    change(path)
    for _ in range(2):
        assert counts(route()) == {"unchanged": 1}
    assert read == [str(path)]
    rewrite_in_place(path)
    assert "unchanged" not in counts(route()) and len(read) == 2


@pytest.mark.parametrize("change", [rewrite_in_place, replace_by_rename])
def test_archives_of_the_same_size_and_time_are_told_apart(
    route: Route, lake: Lake, source: Path, change: Callable[[Path], None]
) -> None:
    def pack(name: str, *contents: bytes) -> Path:
        with zipfile.ZipFile(source / name, "w", zipfile.ZIP_STORED) as archive:
            for number, content in enumerate(contents):
                archive.writestr(zipfile.ZipInfo(f"{number}.dcm"), content)
        return source / name

    path = pack("a.zip", FIRST, CONSTANT)
    route()
    path.chmod(0o600)
    assert counts(route()) == {"unchanged": 2}
    times = path.stat()
    with pytest.MonkeyPatch.context() as patched:
        patched.setitem(globals(), "SECOND", pack("b.zip", SECOND, CONSTANT).read_bytes())
        (source / "b.zip").unlink()
        change(path)
    assert (path.stat().st_size, path.stat().st_mtime_ns) == (times.st_size, times.st_mtime_ns)
    summary = route()
    assert summary["counts"]["unchanged"] == 1 and summary["counts"]["discovered"] == 2
    assert counts(route()) == {"unchanged": 2}
    assert len(lake.rows()) == 3 and not violations(lake.root)


def test_many_states_are_merged_and_have_no_names(tmp_path: Path) -> None:
    layout = Layout(str(tmp_path / "lake"))
    refs = [ObjectRef(f"/in/{number}", "1-1", 1, state="5-5") for number in range(20)]
    for ref in refs:
        states = SourceStates(layout, 7)
        assert states.get(ref) is None
        states.add(ref, f"1-1-{ref.uri[4:]}")
        states.save()
    states = SourceStates(layout, 7)
    assert [states.get(ref) for ref in refs] == [f"1-1-{number}" for number in range(20)]
    assert states.get(replace(refs[0], state="6-5")) is None
    files = list((tmp_path / "lake").glob(".source_states/007/*"))
    assert 0 < len(files) <= 9 and b"/in/" not in b"".join(p.read_bytes() for p in files)
    files[0].write_bytes(b"damaged")
    assert SourceStates(layout, 7).get(replace(refs[0], state="6-5")) is None


def test_rows_of_earlier_releases_match_by_size_and_time(
    route: Route, lake: Lake, path: Path
) -> None:
    route()
    (file,) = lake.root.glob("index/**/*.parquet")
    metadata = pq.read_schema(file).metadata
    table = pq.read_table(file, partitioning=None).drop_columns(["source_state"])
    pq.write_table(table.replace_schema_metadata(metadata), file)
    assert main(["verify", str(lake.root), "--deep"]) == 0
    change_permissions(path)
    assert counts(route()) == {"unchanged": 1}


def test_a_file_that_is_known_in_another_state_is_read_only_then(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ref = ObjectRef.of(found) if (found := LocalStorage().stat(str(path))) else None
    assert ref is not None and ref.state is not None

    class Known:
        source_version = ref.version
        source_state: str | None = ref.state
        content_sha256 = "0" * 64

    read: list[str] = []
    monkeypatch.setattr(LocalStorage, "copy_to", lambda self, uri, *_: read.append(uri))
    assert resolve_version(ref, [Known()]) == ref
    Known.source_state = None
    assert resolve_version(ref, [Known()]) == ref
    assert resolve_version(replace(ref, state=None), [Known()]) == ref
    assert not read
    Known.source_state = "1-1"
    assert resolve_version(ref, [Known()]).version == f"{ref.version}-{ref.state}"
    assert read == [str(path)]


def edit_in_place(path: Path) -> None:
    with path.open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        last = file.read(1)
        file.seek(-1, os.SEEK_END)
        file.write(bytes([last[0] ^ 1]))


def edit_secretly(path: Path) -> None:
    times = path.stat()
    edit_in_place(path)
    restore_times(path, times)


@pytest.mark.parametrize("edit", [edit_in_place, edit_secretly])
@pytest.mark.parametrize("placement", ["link", "index_only"])
def test_plain_verification_finds_an_edited_source(
    route: Route,
    lake: Lake,
    path: Path,
    placement: str,
    edit: Callable[[Path], None],
    capsys: pytest.CaptureFixture[str],
) -> None:
    route("--placement", placement)
    assert main(["verify", str(lake.root)]) == 0
    edit(path)
    capsys.readouterr()
    assert main(["verify", str(lake.root)]) == 1
    out = capsys.readouterr().out
    assert out.count("object with other bytes") == 1
    assert str(path) not in out, "names of sources can have patient data"
    assert main(["verify", str(lake.root), "--deep"]) == 1
    assert capsys.readouterr().out.count("object with other bytes") == 1


def test_links_are_warned_of(
    source: Path, lake: Lake, path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["route", "--input", str(source), "--lake", str(lake.root), "--quiet"]
    assert main([*command, "--placement", "link"]) == 0
    assert "warning: --placement link" in capsys.readouterr().err
    assert main(command) == 0
    assert "warning" not in capsys.readouterr().err
