"""Limits, storage errors and interruptions: the message names a remedy, and a second run completes."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom.uid import JPEG2000Lossless

from pipeline.cli import main
from tests.conftest import Lake, Route, counts, write
from tests.synthetic import dicom_bytes, image


@pytest.mark.slow
def test_each_limit_has_its_own_reason(route: Route, lake: Lake, source: Path) -> None:
    large = write(source, "large.dcm", dicom_bytes(image(1), name="1"))
    wide = write(source, "wide.dcm", dicom_bytes(image(2, (400, 300)), name="2"))
    valid = write(source, "valid.dcm", dicom_bytes(image(3, (200, 200)), name="3"))
    route("--max_object_bytes", "300000", "--max_pixels", "100000")
    assert lake.row(valid)["status"] in ("routed", "review")
    assert lake.row(large)["reason"] == "too_large"
    assert lake.path(lake.row(large)).read_bytes() == large.read_bytes()
    assert lake.row(wide)["reason"] == "too_many_pixels"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("option", "value", "reason"),
    [
        ("--max_object_seconds", "0.0001", "took_too_long"),
        ("--max_memory_bytes", "4000000", "too_much_memory"),
    ],
)
def test_time_and_memory_per_object_are_limited(
    route: Route, lake: Lake, source: Path, option: str, value: str, reason: str
) -> None:
    path = write(source, "large.dcm", dicom_bytes(np.zeros((9000, 9000), np.uint16)))
    small = write(source, "no.txt", b"no DICOM")
    route(option, value)
    assert lake.row(path)["reason"] == reason
    assert lake.path(lake.row(path)).read_bytes() == path.read_bytes()
    assert lake.row(small)["status"] == "quarantined"


@pytest.mark.slow
def test_an_unreadable_object_makes_the_run_incomplete(
    route: Route, lake: Lake, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(source, "a.dcm", dicom_bytes(image(1), name="1"))
    secret = write(source, "DOE^JANE.dcm", dicom_bytes(image(2), name="2"))
    real_open = os.open

    def refuse(path: Any, *args: Any, **kwargs: Any) -> int:
        if path == secret:
            raise PermissionError(13, "Permission denied", str(path))
        return real_open(path, *args, **kwargs)

    monkeypatch.setattr(os, "open", refuse)
    summary = route(expect=1)
    assert not summary["complete"]
    (failure,) = summary["failures"]
    assert failure["reason"] == "permission_denied"
    assert failure["object_key"] == hashlib.sha256(str(secret).encode()).hexdigest()[:12]
    assert "DOE" not in str(summary)
    monkeypatch.undo()
    assert counts(route())["unchanged"] == 1
    assert main(["verify", str(lake.root), "--deep"]) == 0


@pytest.mark.slow
@pytest.mark.parametrize("how", ["link", "move"])
def test_a_moved_lake_keeps_its_objects(
    route: Route, lake: Lake, source: Path, tmp_path: Path, how: str
) -> None:
    """Its index has the URIs of the old root; their objects are not orphans."""
    for number in range(3):
        write(source, f"{number}.dcm", dicom_bytes(image(number, (96, 64)), name=str(number)))
    route()
    before = {name: digest for name, digest in lake.tree().items() if name[0] != "."}  # no locks
    other = tmp_path / "other"
    if how == "link":
        other.symlink_to(lake.root)
    else:
        lake.root.rename(other)
    assert counts(route("--reprocess", "all", "--lake", str(other))) == {"unchanged": 3}
    after = Lake(other).tree()
    assert {name: after.get(name) for name in before} == before


@pytest.mark.slow
def test_a_damaged_index_file_is_reported_with_a_remedy(
    lake: Lake, source: Path, route: Route, capsys: pytest.CaptureFixture[str]
) -> None:
    write(source, "a.dcm", dicom_bytes(image(1, (96, 64))))
    route("--index_shards", "1")
    (path,) = lake.root.glob("index/**/*.parquet")
    path.write_bytes(path.read_bytes()[:100])
    capsys.readouterr()
    assert main(["route", "--input", str(source), "--lake", str(lake.root)]) == 1
    err = capsys.readouterr().err
    assert str(path) in err
    assert "restore it from a backup" in err
    assert "Traceback" not in err


@pytest.mark.slow
def test_a_partition_without_list_permission_fails_the_run(
    lake: Lake,
    source: Path,
    route: Route,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    write(source, "a.dcm", dicom_bytes(image(1, (96, 64))))
    route()
    real = os.scandir

    def refuse(folder: str = ".") -> Any:
        if Path(folder).name.startswith("ingest_date="):
            raise PermissionError(13, "Permission denied", str(folder))
        return real(folder)

    monkeypatch.setattr(os, "scandir", refuse)
    assert main(["route", "--input", str(source), "--lake", str(lake.root)]) == 1
    monkeypatch.undo()
    assert len(lake.rows()) == 1


@pytest.mark.slow
def test_a_full_disk_is_reported_and_a_second_run_completes(
    lake: Lake,
    source: Path,
    route: Route,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import transforms.lake.append as append_module
    from transforms.core.reasons import ProcessingFailure, Reason, Stage

    write(source, "a.dcm", dicom_bytes(image(1, (96, 64))))

    def full(*args: Any, **kwargs: Any) -> None:
        raise ProcessingFailure(Stage.PLACE, Reason.NO_SPACE, "ENOSPC")

    monkeypatch.setattr(append_module, "put_bytes", full)
    assert main(["route", "--input", str(source), "--lake", str(lake.root)]) == 1
    err = capsys.readouterr().err
    assert "storage is full; free space, then run again" in err
    assert "Traceback" not in err
    monkeypatch.undo()
    summary = route()
    assert summary["counts"]["recovered"] == 1
    assert main(["verify", str(lake.root), "--deep"]) == 0


def interrupt(command: list[str], lake: Path, number: int) -> tuple[int, str]:
    """Interrupt the process group of a run once objects are placed; return exit code and stderr."""
    run = subprocess.Popen(
        command,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    while run.poll() is None and not list((lake / "objects").rglob("*.dcm")):
        time.sleep(0.02)
    os.killpg(run.pid, number)
    _, error = run.communicate()
    return run.returncode, error


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("options", [[], ["multi_processing"]], ids=["in-process", "processes"])
def test_an_interrupted_run_tells_how_to_complete_it(
    source: Path, lake: Lake, options: list[str], number: int
) -> None:
    for instance in range(40):
        data = dicom_bytes(image(instance, (160, 128)), name=str(instance), syntax=JPEG2000Lossless)
        write(source, f"{instance}.dcm", data)
    command = [sys.executable, "-m", "pipeline", "route", "--input", str(source)]
    command += ["--lake", str(lake.root), "--quiet"]
    for mode in options:
        command += ["--runner=FnApiRunner", "--direct_num_workers=2"]
        command += [f"--direct_running_mode={mode}"]
    code, error = interrupt(command, lake.root, number)
    assert code == 128 + number
    lines = [line for line in error.splitlines() if "apitools" not in line]
    assert [line.split(";")[0] for line in lines[-1:]] == ["interrupted"]
    assert len(lines) == 1
    assert subprocess.run(command, capture_output=True, check=False).returncode == 0
    assert main(["verify", str(lake.root), "--deep"]) == 0


INTERRUPTING_IMPORTS = """
import os, signal, sys

class Interrupt:
    def find_spec(self, name, path=None, target=None):
        if name == "pipeline.cli":
            os.kill(os.getpid(), int(os.environ["SIGNAL"]))

sys.meta_path.insert(0, Interrupt())
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_during_the_first_imports_ends_it_with_one_sentence(
    tmp_path: Path, number: int
) -> None:
    write(tmp_path, "sitecustomize.py", INTERRUPTING_IMPORTS.encode())
    root = str(Path(__file__).parents[2])
    run = subprocess.run(
        [sys.executable, "-P", "-m", "pipeline", "--version"],
        env={**os.environ, "PYTHONPATH": f"{tmp_path}:{root}", "SIGNAL": str(int(number))},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (run.returncode, run.stdout) == (128 + number, "")
    assert run.stderr == "interrupted; run the same command again to complete\n"


@pytest.mark.slow
def test_quiet_runs_report_failures(
    lake: Lake, source: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(source, "a.dcm", dicom_bytes())
    bad = source / "bad.dcm"
    bad.symlink_to("/proc/self/mem")  # reading its start fails with EIO (proc(5))
    assert main(["route", "--input", str(source), "--lake", str(lake.root), "--quiet"]) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert hashlib.sha256(str(bad).encode()).hexdigest()[:12] in captured.err
    assert "check the storage" in captured.err
