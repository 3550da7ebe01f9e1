"""A stream on a real Flink cluster: processes are killed, it is stopped with a savepoint and goes on."""

from __future__ import annotations

import re
import time
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
    drop,
    rows_in,
    stream,
)
from tests.models.test_reloading import drop as drop_bundle
from transforms.core.labels import SPINE

OBJECTS = 300
MIN_CHECKPOINTS = 3

pytestmark = [
    pytest.mark.skipif(
        not READY.exists(), reason="Flink is not fetched: install Java, Maven and run 'make flink'"
    ),
    pytest.mark.timeout(900),
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
    """A stream's job, as Flink tells of it."""

    def __init__(self, cluster: Cluster, one: Stream) -> None:
        self._cluster = cluster
        one.wait_until(self._find, "the job runs")

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

    def wait_for_checkpoints(self, one: Stream) -> None:
        """Wait for some more: a restart from the very beginning must not pass for a restore."""
        before = self.checkpoints["completed"]
        one.wait_until(
            lambda: self.checkpoints["completed"] >= before + MIN_CHECKPOINTS, "checkpoints"
        )

    def stop_with_savepoint(self) -> str:
        """Return where the savepoint stands."""
        asked = self._cluster.rest(f"/jobs/{self.id}/stop", {"drain": False})
        while True:
            path = f"/jobs/{self.id}/savepoints/{asked['request-id']}"
            answer: dict[str, Any] = self._cluster.rest(path)
            if answer["status"]["id"] == "COMPLETED":
                location: str = answer["operation"]["location"]
                return location.removeprefix("file:")
            time.sleep(0.2)


def restores(cluster: Cluster) -> int:
    """How often a job began from a checkpoint or savepoint, by the JobManager's log."""
    return len(
        re.findall(r"Restoring job \w+ from (?:Checkpoint|Savepoint) \d+", cluster.log("jm"))
    )


def test_a_stream_on_flink_gives_the_rows_of_a_batch(
    images: Path, baseline_lake: Path, tmp_path: Path, cluster: Cluster
) -> None:
    """The very rows, where all come in one window."""
    lake = tmp_path / "lake"
    with stream(lake, *options(cluster, images, "--index_every=60")) as one:
        one.wait_for_rows(OBJECTS)
        assert accounted(one.stop()) == OBJECTS
    assert soak.compare(lake, baseline_lake) == (0, 0, 0)
    assert [j["state"] for j in cluster.rest("/jobs/overview")["jobs"]] == ["CANCELED"]


def test_kills_a_savepoint_and_another_model(
    images: Path, baseline_lake: Path, tmp_path: Path, cluster: Cluster
) -> None:
    lake, folder, models = tmp_path / "lake", tmp_path / "incoming", tmp_path / "models"
    watched = options(cluster, folder, "--index_every=3")
    drop(images, folder, 0, 60)
    with stream(lake, *watched) as one:
        job = Job(cluster, one)
        one.wait_for_rows(60)
        for killed, start in (("tm", 60), ("pool", 120)):
            job.wait_for_checkpoints(one)
            restored = restores(cluster)
            drop(images, folder, start, start + 60)
            one.wait_until(lambda end=start + 10: soak.placed(lake) > end * 0.8, "objects placed")
            cluster.kill(killed)
            if killed == "tm":
                cluster.start("tm")
            else:
                cluster.start_pool()
            one.wait_for_rows(start + 60)
            one.wait_until(lambda r=restored: restores(cluster) > r, "a restore")
            assert job.checkpoints["restored"] > 0
            print(f"job {job.id}: {killed} killed, restored; checkpoints {job.checkpoints}")
        drop(images, folder, 180, 200)
        time.sleep(2)
        savepoint = job.stop_with_savepoint()
        print(f"job {job.id}: stopped with {Path(savepoint).name}")
        first = one.ended()
    drop(images, folder, 200, OBJECTS)
    thresholds = {**read_info(DEFAULT_BUNDLE).thresholds, SPINE: 0.123}
    bundle = str(drop_bundle(models, "second", thresholds=thresholds))
    resumed = [f"--savepoint_path={savepoint}", "--model", bundle]
    stood = rows_in(lake)
    with stream(lake, *watched, *resumed) as one:
        print(f"job {Job(cluster, one).id}: goes on from it")
        one.wait_for_rows(OBJECTS)
        second = one.stop()
    assert "from Savepoint" in cluster.log("jm")
    assert accounted(first) + accounted(second) == OBJECTS
    rows = Lake(lake).rows()
    models_of = {Path(r["source_uri"]).name: r["model_id"] for r in rows if r["model_id"]}
    late = {model for name, model in models_of.items() if name >= "00200.dcm"}
    early = {model for name, model in models_of.items() if name < "00180.dcm"}
    assert len(early) == len(late) == 1
    assert early != late
    assert stood < OBJECTS
    assert_same(lake, baseline_lake)
