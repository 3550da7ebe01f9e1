"""Batch runs on a real Flink cluster, with and without kills, equal the in-process run."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import soak
from tests.conformance import violations
from tests.conftest import counts
from tests.engines.flink import READY, STANDALONE, Cluster
from tests.engines.servers import POOL_ENVIRONMENT

OBJECTS = 300

pytestmark = [
    pytest.mark.engine,
    pytest.mark.xdist_group("engine"),
    pytest.mark.skipif(
        not READY.exists(),
        reason="Flink is not downloaded: install Java, Maven and run 'make flink'",
    ),
]


@contextlib.contextmanager
def start_run(
    images: Path, lake: Path, cluster: Cluster, *more: str
) -> Iterator[subprocess.Popen[str]]:
    """Run the script of the templates."""
    run = subprocess.Popen(
        ["sh", str(STANDALONE / "route.sh"),
         "--json", "--input", str(images), "--lake", str(lake), *more],
        env={
            **os.environ, "PATH": POOL_ENVIRONMENT["PATH"], "FLINK_MASTER": cluster.master,
            "JOB_ENDPOINT": cluster.jobs, "WORKER_POOL": cluster.workers,
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )  # fmt: skip
    try:
        yield run
    finally:
        run.kill()
        run.wait()


def wait_for_counts(run: subprocess.Popen[str], cluster: Cluster) -> dict[str, int]:
    out, err = run.communicate()
    assert run.returncode == 0, err + cluster.log("jm")[-3000:]
    return counts(json.loads(out))


def wait_until_placed(run: subprocess.Popen[str], lake: Path, objects: int) -> None:
    while soak.placed(lake) < objects:
        assert run.poll() is None, run.communicate()
        time.sleep(0.01)


def test_flink_produces_the_same_lake(
    images: Path, baseline_lake: Path, tmp_path: Path, cluster: Cluster
) -> None:
    cached = "--environment_cache_millis=10000"  # a worker serves several steps
    with start_run(images, tmp_path, cluster, cached, "--runner=PortableRunner") as run:
        wait_for_counts(run, cluster)
    assert soak.compare(tmp_path, baseline_lake) == (0, 0, 0)
    with start_run(images, tmp_path, cluster, cached) as run:
        assert wait_for_counts(run, cluster) == {"unchanged": OBJECTS}
    finished = [job["status"] for job in cluster.rest("/jobs")["jobs"]]
    assert finished == ["FINISHED", "FINISHED"]


def segments(lake: Path) -> list[Path]:
    return list(lake.glob("index/*/*.parquet"))


def restarts(cluster: Cluster) -> int:
    """Return how often jobs were restarted, by the JobManager's log."""
    return cluster.log("jm").count("switched from state RUNNING to RESTARTING")


@pytest.mark.parametrize("placing", ["tm", "pool"])
def test_a_killed_process_changes_nothing_in_the_lake(
    images: Path, baseline_lake: Path, tmp_path: Path, cluster: Cluster, placing: str
) -> None:
    """The worker pool is killed once: this runner may not notice that a second one has died."""
    before = restarts(cluster)
    with start_run(images, tmp_path, cluster, "--runner=PortableRunner") as run:
        wait_until_placed(run, tmp_path, 40)
        cluster.kill(placing)
        assert not segments(tmp_path)
        cluster.restart(placing)
        while not segments(tmp_path):
            assert run.poll() is None, run.communicate()
            time.sleep(0.01)
        cluster.kill("tm")
        cluster.restart("tm")
        wait_for_counts(run, cluster)
    assert soak.compare(tmp_path, baseline_lake) == (0, 0, 0)
    assert violations(tmp_path) == []
    assert restarts(cluster) > before
