"""`pipeline.api.route`: what it returns and raises, and what it leaves alone."""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.api import IncompleteRun, RouteFailed, UsageError, route
from pipeline.cli import main
from tests.conftest import Lake, route_into, write
from tests.synthetic import dicom_bytes, image
from tests.test_startup import SLOW

INTERRUPTED = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
from pathlib import Path
from pipeline.api import route
before = signal.getsignal(signal.SIGINT)
try:
    route(sys.argv[1], sys.argv[2])
except KeyboardInterrupt:
    print("interrupted", signal.getsignal(signal.SIGINT) is before)
"""


def message_of_command(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """What the command line says of arguments, without the hint to its help."""
    assert main(["route", *arguments]) == 2
    error = capsys.readouterr().err.removeprefix("error: ")
    return error.partition("see 'dicom-router")[0].rstrip("\n")


def test_wrong_usage_raises_what_the_command_line_says(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given, lake = tmp_path / "missing", tmp_path / "lake"
    with pytest.raises(UsageError) as unknown:
        route(given, lake, devices="cpu")  # type: ignore[call-arg]
    arguments = ("--input", str(given), "--lake", str(lake))
    assert str(unknown.value) == message_of_command(capsys, *arguments, "--devices", "cpu")
    assert "did you mean --device?" in str(unknown.value)
    with pytest.raises(UsageError, match="placement") as choice:
        route(given, lake, placement="move", quiet=True)  # type: ignore[arg-type, call-arg]
    command = message_of_command(capsys, *arguments, "--placement", "move")
    assert str(choice.value) == command
    with pytest.raises(UsageError, match="the list is empty"):
        route([], lake)
    assert not lake.exists()


@pytest.mark.slow
def test_a_run_of_many_paths_reports_its_failures_and_leaves_this_process_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    source, lake = tmp_path / "source", Lake(tmp_path / "lake")
    data = dicom_bytes(image(1), name="1")
    paths = [write(source, f"{name}.dcm", data) for name in ("a", "[b]", "c d")]
    monkeypatch.setattr("pipeline.api.routing.MAX_PATTERNS", 2)
    state = (
        {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)},
        list(logging.getLogger().handlers), logging.getLogger("dicom_router").level,
        list(sys.path), dict(os.environ),
    )  # fmt: skip

    def names() -> Iterator[str | Path]:
        yield from paths
        yield str(source / "missing.dcm")

    with pytest.raises(IncompleteRun, match="1 failed") as error:
        route(names(), lake.root, ingest_date="2026-01-02", fetch_threads=1)
    summary = error.value.summary
    assert (summary.complete, summary.exit_code) == (False, 1)
    assert summary.exit_meaning.startswith("failed or incomplete")
    assert "missing.dcm" not in str(error.value), "names of sources may name patients"
    assert [summary.counts[one] for one in ("discovered", "duplicate", "failed")] == [3, 2, 1]
    assert summary.equation.startswith("3 discovered")
    assert {row["source_uri"] for row in lake.rows()} == set(map(str, paths))
    assert {row["run_id"] for row in lake.rows()} == {summary.run_id}
    assert state == (
        {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)},
        list(logging.getLogger().handlers), logging.getLogger("dicom_router").level,
        list(sys.path), dict(os.environ),
    )  # fmt: skip

    def broken() -> Iterator[Path]:
        yield from paths
        raise LookupError("no more names")

    with pytest.raises(LookupError, match="no more names"):
        route(broken(), tmp_path / "other")
    assert caplog.records == [] or all(r.name == "dicom_router" for r in caplog.records)


@pytest.mark.slow
@pytest.mark.kill
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL], ids=["interrupt", "kill"])
def test_the_run_ends_with_the_program_or_its_interrupt(
    tmp_path: Path, number: signal.Signals
) -> None:
    source, lake = tmp_path / "source", Lake(tmp_path / "lake")
    data = [dicom_bytes(image(one), name=str(one)) for one in range(2)]
    for one in range(12):
        write(source, f"{one}.dcm", data[one % 2])
    process = subprocess.Popen(
        [sys.executable, "-c", INTERRUPTED, str(source), str(lake.root)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=tmp_path,
    )
    while not (lake.root / "lake.json").exists():
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(number)
    out, err = process.communicate()
    if number == signal.SIGINT:
        assert (process.returncode, out) == (0, "interrupted True\n"), err
    else:
        assert process.returncode == -number
    summary = route_into(lake, inputs=(str(source),))
    assert summary["counts"]["discovered"] == 12
    assert summary["counts"]["unchanged"] < 12, "the run has ended with its program"
    assert len(lake.rows()) == 12
    assert main(["verify", str(lake.root), "--deep"]) == 0


def test_a_run_that_is_killed_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", write_killed(tmp_path))
    with pytest.raises(RouteFailed, match="signal 9 killed the run"):
        route(tmp_path, tmp_path / "lake")


def write_killed(folder: Path) -> str:
    """Write a program that kills itself, as the kernel does when memory runs out."""
    path = folder / "python"
    path.write_text("#!/bin/sh\nkill -9 $$\n")
    path.chmod(0o755)
    return str(path)


def test_importing_the_api_is_cheap_and_keeps_the_import_path(tmp_path: Path) -> None:
    script = (
        "import json, sys\nsys.path.insert(0, '')\nbefore = list(sys.path)\nimport pipeline.api\n"
        "print(json.dumps([sorted(sys.modules), sys.path == before]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    modules, is_kept = json.loads(done.stdout)
    assert set(modules) & SLOW == set()
    assert is_kept, "a notebook may import modules beside it"


INTERRUPTIBLE = f"""#!{sys.executable}
import pathlib, signal, sys, time
def end(*_):
    print(pathlib.Path("summary.json").read_text())
    sys.exit(0)
signal.signal(signal.SIGINT, end)
pathlib.Path("started").touch()
time.sleep(600)
"""


def test_a_stream_that_is_interrupted_returns_its_summary(tmp_path: Path) -> None:
    """Instead of a stream, a script that ends as one does when it is interrupted."""
    values = {
        "run_id": "r", "complete": True, "counts": {}, "equation": "1 = 1 routed",
        "destinations": {"spine": 1}, "expectations": [{"key": "k", "met": False, "text": "too few"}],
    }  # fmt: skip
    (tmp_path / "summary.json").write_text(json.dumps(values))
    (tmp_path / "python").write_text(INTERRUPTIBLE)
    (tmp_path / "python").chmod(0o755)
    script = (
        "import signal, sys; sys.executable = './python'\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\nfrom pipeline.api import route\n"
        "s = route('in', 'lake', source='watch')\nprint(s.run_id, s.exit_code, s.exit_meaning, s.unmet)"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", script], cwd=tmp_path, stdout=subprocess.PIPE, text=True
    )
    while not (tmp_path / "started").exists():
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    out, _ = process.communicate()
    assert out == "r 3 complete, but an expectation of the policy is not met ['too few']\n"
