"""Faults of real file systems: full, read-only, failing, and changing while they are read."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pipeline.cli import main
from tests.conftest import Lake, Route, counts, write
from tests.disks import mounted
from tests.synthetic import dicom_bytes, image
from transforms.core.choices import PLACEMENTS
from transforms.core.object_ref import ObjectRef

IMAGES = 8


@pytest.fixture
def images(source: Path) -> Path:
    for number in range(IMAGES):
        write(source, f"{number}.dcm", dicom_bytes(image(number), name=str(number)))
    return source


@pytest.fixture
def small_disk(lake: Lake) -> Iterator[Path]:
    """Mount a file system of 2 MiB for the lake; an image has 640 KiB."""
    with mounted(lake.root, "2m") as disk:
        yield disk


def remount(disk: Path, options: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{options}", disk], check=True)


@pytest.mark.slow
def test_a_full_disk_is_reported_and_the_next_run_completes_the_lake(
    images: Path, small_disk: Path, lake: Lake, route: Route, capsys: pytest.CaptureFixture[str]
) -> None:
    code = main(["route", "--input", str(images), "--lake", str(small_disk)])
    assert code == 1
    err = capsys.readouterr().err
    assert "the lake's storage is full" in err and "free space, then run again" in err
    assert "ENOSPC" in err  # of an object, or of the journal of its batch: whichever was first
    assert "Traceback" not in err
    objects = list(small_disk.glob("objects/**/*.dcm"))
    assert 0 < len(objects) < IMAGES
    assert {path.stat().st_size for path in objects} == {
        path.stat().st_size for path in images.iterdir()
    }, "an object is complete or absent"
    remount(small_disk, "size=64m")
    route()
    assert len(lake.rows()) == IMAGES
    assert main(["verify", str(small_disk), "--deep"]) == 0


@pytest.mark.slow
def test_a_read_only_disk_is_reported(
    images: Path, small_disk: Path, route: Route, capsys: pytest.CaptureFixture[str]
) -> None:
    remount(small_disk, "ro")
    assert main(["route", "--input", str(images), "--lake", str(small_disk)]) == 1
    err = capsys.readouterr().err
    assert "cannot be written or locked (Read-only file system)" in err
    remount(small_disk, "rw,size=64m")
    route()


@pytest.mark.slow
@pytest.mark.parametrize("placement", PLACEMENTS)
def test_a_read_error_fails_one_object(
    images: Path, lake: Lake, route: Route, placement: str
) -> None:
    """Reading the start of a process's memory fails with EIO (proc(5))."""
    bad = images / "bad^NAME.dcm"
    bad.symlink_to("/proc/self/mem")
    summary = route("--placement", placement, expect=1)
    (failure,) = summary["failures"]
    assert failure["reason"] == "read_failed"
    assert failure["object_key"] == hashlib.sha256(str(bad).encode()).hexdigest()[:12]
    bad.unlink()
    assert counts(route("--placement", placement)) == {"unchanged": IMAGES}


@pytest.mark.slow
@pytest.mark.parametrize("placement", PLACEMENTS)
def test_sources_that_change_while_they_are_read_are_left_to_the_next_run(
    images: Path, lake: Lake, route: Route, placement: str
) -> None:
    whole = dicom_bytes(image(99, (1600, 1280)), name="99")
    growing, shrinking = (write(images, f"{name}.dcm", whole) for name in ("grows", "shrinks"))
    done = threading.Event()

    def keep_writing() -> None:
        while not done.is_set():
            with growing.open("ab") as stream:
                stream.write(b"more")
            os.truncate(shrinking, max(1, shrinking.stat().st_size - 1))

    writer = threading.Thread(target=keep_writing)
    writer.start()
    try:
        summary = route("--placement", placement, expect=1)
    finally:
        done.set()
        writer.join()
    assert [failure["reason"] for failure in summary["failures"]] == ["changed", "changed"]
    assert len(lake.rows()) == IMAGES
    growing.write_bytes(whole)
    shrinking.write_bytes(whole)
    route("--placement", placement)
    for path in (growing, shrinking):
        assert lake.row(path)["content_sha256"] == hashlib.sha256(whole).hexdigest()
    assert main(["verify", str(lake.root), "--deep"]) == 0


@pytest.mark.slow
def test_a_source_that_is_removed_before_it_is_read_fails_alone(
    images: Path, lake: Lake, route: Route, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transforms.sandbox.examine import object_read

    gone, real = images / "3.dcm", object_read

    def remove_first(ref: ObjectRef, *rest: Any) -> Any:
        if ref.uri == str(gone):
            gone.unlink()
        return real(ref, *rest)

    monkeypatch.setattr("transforms.fetch.object_read", remove_first)
    summary = route(expect=1)
    (failure,) = summary["failures"]
    assert failure["reason"] == "disappeared"
    monkeypatch.undo()
    assert counts(route()) == {"unchanged": IMAGES - 1}


def as_another_user(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a command as another user if this one is root, who may open the folder and those above it."""
    command = [sys.executable, "-m", "pipeline", *arguments]
    if os.geteuid() == 0:
        for above in (folder, *folder.parents[:3]):  # those of pytest
            if str(above) != tempfile.gettempdir():
                above.chmod(0o755)
        if closed := [one for one in folder.parents if not one.stat().st_mode & 0o001]:
            pytest.skip(f"another user cannot open {closed[-1]}")
        command = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", *command]
    environment = {**os.environ, "HOME": "/tmp"}
    return subprocess.run(command, capture_output=True, text=True, env=environment)


@pytest.mark.slow
@pytest.mark.parametrize("mode", [0o555, 0o600], ids=["not writable", "not searchable"])
def test_a_lake_without_permission_is_reported(images: Path, tmp_path: Path, mode: int) -> None:
    locked = tmp_path / "locked"
    locked.mkdir(mode=mode)
    lake = str(locked / "lake")
    done = as_another_user(tmp_path, "route", "--input", str(images), "--lake", lake)
    assert done.returncode == 1
    assert "Permission denied" in done.stderr
    assert "check its permissions" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_lake_below_a_folder_that_cannot_be_searched_is_reported(tmp_path: Path) -> None:
    locked = tmp_path / "locked"
    locked.mkdir(mode=0o600)
    done = as_another_user(tmp_path, "status", str(locked / "lake"))
    assert done.returncode == 1
    assert "lake cannot be opened (Permission denied); check the permissions" in done.stderr
