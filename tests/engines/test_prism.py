"""Batch runs on Prism, in this process and in a worker pool, equal the in-process run."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.cli import main
from tests import soak
from tests.conftest import counts
from tests.engines.servers import PRISM, prism_server, worker_pool

OBJECTS = 300

pytestmark = [
    pytest.mark.engine,
    pytest.mark.xdist_group("engine"),
    pytest.mark.skipif(
        not PRISM.exists(), reason="Prism is not built: install Go and run 'make servers'"
    ),
]


@pytest.fixture(scope="module")
def pool_options() -> Iterator[list[str]]:
    """Prism with a worker pool: graph, elements and functions cross process boundaries."""
    with prism_server() as jobs, worker_pool() as workers:
        yield [
            "--runner=PortableRunner",
            f"--job_endpoint={jobs}",
            "--environment_type=EXTERNAL",
            f"--environment_config={workers}",
        ]


LOOPBACK = ["--runner=PrismRunner", f"--prism_location={PRISM}"]


def command(images: Path, lake: Path, options: list[str]) -> list[str]:
    module = [sys.executable, "-m", "pipeline", "route", "--json"]
    return [*module, "--input", str(images), "--lake", str(lake), *options]


def routed(images: Path, lake: Path, options: list[str]) -> dict[str, int]:
    done = subprocess.run(command(images, lake, options), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return counts(json.loads(done.stdout))


def test_prism_produces_the_same_lake(images: Path, baseline_lake: Path, tmp_path: Path) -> None:
    routed(images, tmp_path, LOOPBACK)
    assert soak.compare(tmp_path, baseline_lake) == (0, 0, 0)
    assert routed(images, tmp_path, LOOPBACK) == {"unchanged": OBJECTS}


def test_a_worker_pool_produces_the_same_lake(
    images: Path, baseline_lake: Path, tmp_path: Path, pool_options: list[str]
) -> None:
    routed(images, tmp_path, pool_options)
    assert soak.compare(tmp_path, baseline_lake) == (0, 0, 0)
    assert routed(images, tmp_path, pool_options) == {"unchanged": OBJECTS}


def test_metrics_of_a_worker_pool_are_reported(
    images: Path, tmp_path: Path, pool_options: list[str]
) -> None:
    few = tmp_path / "few"
    few.mkdir()
    for path in sorted(images.iterdir())[:5]:
        (few / path.name).symlink_to(path)
    done = subprocess.run(
        command(few, tmp_path / "lake", pool_options), capture_output=True, text=True
    )
    summary = json.loads(done.stdout)
    counters, distributions = summary["metrics"]["counters"], summary["metrics"]["distributions"]
    assert counters["discovered"] == counters["placed"] == 5
    assert {n: v for n, v in counters.items() if n.startswith("status_")} == {
        f"status_{term}": number for term, number in counts(summary).items()
    }
    assert distributions["fetch_ms"]["count"] == distributions["object_bytes"]["count"] == 5
    assert distributions["object_bytes"]["sum"] == summary["size_bytes"]


def test_a_run_killed_on_prism_is_completed_by_the_next(
    images: Path, baseline_lake: Path, tmp_path: Path
) -> None:
    run = subprocess.Popen(
        command(images, tmp_path, LOOPBACK), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        start_new_session=True,
    )  # fmt: skip
    while run.poll() is None and soak.placed(tmp_path) < 40:
        time.sleep(0.01)
    assert run.poll() is None
    os.killpg(run.pid, signal.SIGKILL)
    run.wait()
    assert not list((tmp_path / "index").glob("**/*.parquet"))
    routed(images, tmp_path, LOOPBACK)
    assert soak.compare(tmp_path, baseline_lake) == (0, 0, 0)


def test_an_error_on_prism_is_reported_to_the_user(
    images: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    source, lake = tmp_path / "source", tmp_path / "lake"
    source.mkdir()
    (source / "a.dcm").symlink_to(images / "00001.dcm")
    routed(source, lake, LOOPBACK)
    (index,) = lake.glob("index/**/*.parquet")
    index.write_bytes(index.read_bytes()[:100])
    done = subprocess.run(command(source, lake, LOOPBACK), capture_output=True, text=True)
    assert done.returncode == 1
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1  # apart from the log of Prism
    assert str(index) in errors[0]
    assert "restore it from a backup" in errors[0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--runner=PrismRunner"], "needs --prism_location"),
        (["--runner=PrismRunner", "--prism_location=/no/such"], "no such file"),
        (["--runner=PortableRunner"], "needs --job_endpoint"),
        (["--runner=PortableRunner", "--job_endpoint=h:1"], "needs --environment_type: EXTERNAL"),
    ],
)
def test_missing_runner_options_are_reported(
    images: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    options: list[str],
    message: str,
) -> None:
    arguments = ["route", "--input", str(images), "--lake", str(tmp_path / "lake")]
    assert main([*arguments, *options]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "lake").exists()
