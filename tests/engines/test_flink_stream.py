"""Streams on a real Flink cluster: killed processes, a savepoint, and a job resumed from it."""

from __future__ import annotations

import re
import time
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from models.bundle import read_info
from models.default_bundle import DEFAULT_BUNDLE
from tests import soak
from tests.conftest import Lake
from tests.engines.flink import READY, Cluster
from tests.engines.streams import (
    FAST,
    Stream,
    accounted,
    assert_same,
    copy_images,
    rows_in,
    start_stream,
)
from tests.models.test_reloading import drop as drop_bundle
from transforms.core.labels import SPINE

OBJECTS = 300
MIN_CHECKPOINTS = 3

pytestmark = [
    pytest.mark.engine,
    pytest.mark.stream,
    pytest.mark.xdist_group("engine"),
    pytest.mark.skipif(
        not READY.exists(),
        reason="Flink is not downloaded: install Java, Maven and run 'make flink'",
    ),
    pytest.mark.timeout(1800),
]


def options(cluster: Cluster, folder: Path, *more: str) -> list[str]:
    return [
        "--source=watch", "--input", str(folder), *FAST, "--runner=FlinkRunner",
        f"--flink_master={cluster.master}", f"--job_endpoint={cluster.jobs}",
        "--environment_type=EXTERNAL", f"--environment_config={cluster.workers}",
        "--parallelism=2", "--max_parallelism=128", "--checkpointing_interval=2000",
        "--max_bundle_time_mills=200", *more,
    ]  # fmt: skip


class Job:
    """The Flink job of a stream."""

    def __init__(self, cluster: Cluster, stream: Stream) -> None:
        self._cluster = cluster
        stream.wait_until(self._find)

    def _find(self) -> bool:
        running = [
            j for j in self._cluster.rest("/jobs/overview")["jobs"] if j["state"] == "RUNNING"
        ]
        self.id = running[0]["jid"] if running else ""
        return bool(running)

    @property
    def checkpoints(self) -> dict[str, int]:
        counts: dict[str, int] = self._cluster.rest(f"/jobs/{self.id}/checkpoints")["counts"]
        return counts

    def wait_for_checkpoints(self, stream: Stream) -> None:
        """Wait for more checkpoints, so that a restart without a restore can be told from one."""
        before = self.checkpoints["completed"]
        stream.wait_until(lambda: self.checkpoints["completed"] >= before + MIN_CHECKPOINTS)

    def stop_with_savepoint(self) -> str:
        """Stop the job and return the path of its savepoint."""
        request = self._cluster.rest(f"/jobs/{self.id}/stop", {"drain": False})
        while True:
            path = f"/jobs/{self.id}/savepoints/{request['request-id']}"
            response: dict[str, Any] = self._cluster.rest(path)
            if response["status"]["id"] == "COMPLETED":
                location: str = response["operation"]["location"]
                return location.removeprefix("file:")
            time.sleep(0.2)


def has_placed(lake: Path, objects: float) -> bool:
    return soak.placed(lake) > objects


def is_restored(cluster: Cluster, before: int) -> bool:
    return restores(cluster) > before


def restores(cluster: Cluster) -> int:
    """Return how often a job was restored from a checkpoint or savepoint, by the JobManager's log."""
    return len(
        re.findall(r"Restoring job \w+ from (?:Checkpoint|Savepoint) \d+", cluster.log("jm"))
    )


def test_a_stream_on_flink_gives_the_rows_of_a_batch(
    images: Path, baseline_lake: Path, tmp_path: Path, cluster: Cluster
) -> None:
    """The rows are equal because all arrive in one window."""
    lake = tmp_path / "lake"
    with start_stream(lake, *options(cluster, images, "--index_interval=60")) as stream:
        stream.wait_for_rows(OBJECTS)
        assert accounted(stream.stop()) == OBJECTS
    assert soak.compare(lake, baseline_lake) == (0, 0, 0)
    assert [j["state"] for j in cluster.rest("/jobs/overview")["jobs"]] == ["CANCELED"]


def test_kills_and_a_savepoint_resumed_with_another_model(
    images: Path, baseline_lake: Path, tmp_path: Path, cluster: Cluster
) -> None:
    lake, folder, models = tmp_path / "lake", tmp_path / "incoming", tmp_path / "models"
    watched = options(cluster, folder, "--index_interval=3")
    copy_images(images, folder, 0, 60)
    with start_stream(lake, *watched) as stream:
        job = Job(cluster, stream)
        stream.wait_for_rows(60)
        for killed, start in (("tm", 60), ("pool", 120)):
            job.wait_for_checkpoints(stream)
            restored = restores(cluster)
            copy_images(images, folder, start, start + 60)
            stream.wait_until(partial(has_placed, lake, 0.8 * (start + 10)))
            cluster.kill(killed)
            cluster.restart(killed)
            stream.wait_for_rows(start + 60)
            stream.wait_until(partial(is_restored, cluster, restored))
            assert job.checkpoints["restored"] > 0
            print(f"job {job.id}: {killed} killed, restored; checkpoints {job.checkpoints}")
        copy_images(images, folder, 180, 200)
        time.sleep(2)
        savepoint = job.stop_with_savepoint()
        print(f"job {job.id}: stopped with {Path(savepoint).name}")
        first = stream.wait()
    copy_images(images, folder, 200, OBJECTS)
    thresholds = {**read_info(DEFAULT_BUNDLE).thresholds, SPINE: 0.123}
    bundle = str(drop_bundle(models, "second", thresholds=thresholds))
    resumed = [f"--savepoint_path={savepoint}", "--model", bundle]
    rows_before = rows_in(lake)
    with start_stream(lake, *watched, *resumed) as stream:
        print(f"job {Job(cluster, stream).id}: resumed from it")
        stream.wait_for_rows(OBJECTS)
        second = stream.stop()
    assert "from Savepoint" in cluster.log("jm")
    assert accounted(first) + accounted(second) == OBJECTS
    rows = Lake(lake).rows()
    models_of = {Path(r["source_uri"]).name: r["model_id"] for r in rows if r["model_id"]}
    late = {model for name, model in models_of.items() if name >= "00200.dcm"}
    early = {model for name, model in models_of.items() if name < "00180.dcm"}
    assert len(early) == len(late) == 1
    assert early != late
    assert rows_before < OBJECTS
    assert_same(lake, baseline_lake)
