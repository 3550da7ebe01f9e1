"""Streams on Prism: watched folders, Pub/Sub, kills, and model updates."""

from __future__ import annotations

import json
import time
import urllib.request
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import duckdb
import pytest
from google.cloud import pubsub_v1, storage
from pydicom import dcmread

from pipeline.cli import main
from tests import soak
from tests.conftest import Lake, write
from tests.engines.servers import PRISM, free_port, running
from tests.engines.streams import (
    FAST,
    Stream,
    accounted,
    assert_ok,
    assert_same,
    copy_images,
    rows_in,
    start_stream,
)
from tests.lake.conftest import LENIENT
from tests.models.test_reloading import drop as drop_bundle
from tests.observability.conftest import Values, values_of
from tests.stores import GS, Store
from transforms.lake.drain import is_requested
from transforms.lake.layout import Layout

OBJECTS = 300
PSTEST = PRISM.parent / "pstest"
ON_PRISM = ["--runner=DirectRunner", f"--prism_location={PRISM}"]

pytestmark = [
    pytest.mark.engine,
    pytest.mark.stream,
    pytest.mark.xdist_group("engine"),
    pytest.mark.skipif(
        not PRISM.exists(), reason="Prism is not built: install Go and run 'make servers'"
    ),
]


def watching(folder: Path, *more: str) -> list[str]:
    return ["--source=watch", "--input", str(folder), *ON_PRISM, *FAST, *more]


def test_a_watched_folder_and_a_kill(images: Path, baseline_lake: Path, tmp_path: Path) -> None:
    lake, folder = tmp_path / "lake", tmp_path / "incoming"
    options = watching(folder, "--index_interval=3")
    copy_images(images, folder, 0, 60)
    with start_stream(lake, *options) as stream:
        stream.wait_for_rows(20)
        copy_images(images, folder, 60, 160)
        stream.wait_until(lambda: soak.placed(lake) > 80)
        stream.kill()
    before = rows_in(lake)
    assert 20 <= before < 160
    with start_stream(lake, *options) as stream:
        stream.wait_for_rows(160)
        copy_images(images, folder, 160, OBJECTS)
        stream.wait_for_rows(OBJECTS)
        summary = stream.stop()
    assert accounted(summary) == OBJECTS - before, "ingested objects are not emitted again"
    assert summary["counts"]["recovered"] > 0
    measured = summary["metrics"]["distributions"]["latency_s"]["count"]
    assert 140 <= measured <= OBJECTS - before, "recovered rows are not measured"
    assert_same(lake, baseline_lake)


def test_a_file_is_not_read_while_it_is_written(images: Path, tmp_path: Path) -> None:
    lake, folder = tmp_path / "lake", tmp_path / "incoming"
    folder.mkdir()
    whole = (images / "00000.dcm").read_bytes()
    with start_stream(lake, *watching(folder, "--index_interval=1", "--stable_for=8")) as stream:
        with (folder / "slow.dcm").open("wb", buffering=0) as slow:
            for start in range(0, len(whole), len(whole) // 8 + 1):
                slow.write(whole[start : start + len(whole) // 8 + 1])
                time.sleep(1.5)
        stream.wait_for_rows(1)
        assert main(["stop", str(lake)]) == 0
        assert accounted(stream.wait()) == 1
    assert "leaked" not in stream.stderr, "the replica was closed"
    (row,) = Lake(lake).rows()
    assert row["source_size_bytes"] == len(whole)
    assert row["status"] in ("routed", "review")
    assert not is_requested(Layout(str(lake)))


def test_a_new_model_is_loaded_without_a_restart(images: Path, tmp_path: Path) -> None:
    lake, folder, models = tmp_path / "lake", tmp_path / "incoming", tmp_path / "models"
    models.mkdir()
    options = watching(
        folder, "--index_interval=1", "--models", str(models), "--model_poll_interval=1"
    )

    def model_of(name: str) -> str:
        return str(Lake(lake).row(folder / name)["model_id"])

    copy_images(images, folder, 0, 1)
    with start_stream(lake, *options) as stream:
        stream.wait_for_rows(1)
        first = model_of("00000.dcm")
        drop_bundle(models, "2026-01", temperature=2.0)
        time.sleep(2)
        copy_images(images, folder, 1, 2)
        stream.wait_for_rows(2)
        second = model_of("00001.dcm")
        assert second != first
        broken = drop_bundle(models, "2026-02", temperature=3.0)
        (broken / "weights.safetensors").write_bytes(b"truncated")
        time.sleep(2)
        copy_images(images, folder, 2, 3)
        stream.wait_for_rows(3)
        assert model_of("00002.dcm") == second
        assert accounted(stream.stop()) == 3
    assert_ok(lake)


def test_thumbnails_and_structured_reports_are_written(images: Path, tmp_path: Path) -> None:
    lake, folder = tmp_path / "lake", tmp_path / "incoming"
    policy = write(tmp_path, "policy.yaml", f"{LENIENT}thumbnails: all\n".encode())
    options = ("--index_interval=1", "--write_sr", "--policy", str(policy))
    copy_images(images, folder, 0, 3)
    with start_stream(lake, *watching(folder, *options)) as stream:
        stream.wait_for_rows(3)
        assert accounted(stream.stop()) == 3
    rows = Lake(lake).rows()
    reports = [dcmread(path) for path in (lake / "structured_reports").rglob("*.dcm")]
    reported = [
        item.ReferencedSOPInstanceUID
        for report in reports
        for study in report.CurrentRequestedProcedureEvidenceSequence
        for series in study.ReferencedSeriesSequence
        for item in series.ReferencedSOPSequence
    ]
    routed = [row["sop_instance_uid"] for row in rows if row["status"] == "routed"]
    assert sorted(reported) == sorted(routed) != []
    thumbnails = duckdb.sql(f"SELECT content_sha256 FROM '{lake}/thumbnails/*/*.parquet'")
    assert {one for (one,) in thumbnails.fetchall()} == {row["content_sha256"] for row in rows}
    assert_ok(lake)


def scrape(port: int) -> Values:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as answer:
        return values_of(answer.read().decode())


def exported(port: int, name: str) -> list[float]:
    """Return the values that a stream shows Prometheus for a metric, one of each set of labels."""
    return [*scrape(port).get(f"dicom_router_{name}", {}).values()]


def steps(port: int) -> set[str]:
    """Return the steps whose executions a stream shows Prometheus."""
    measured = scrape(port).get("dicom_router_step_executions_total", {})
    return {dict(labels)["step"] for labels in measured}


def assert_exported(values: Values) -> None:
    """Assert that a stream has shown Prometheus three quarantined objects."""
    ((labels, rows),) = values["dicom_router_rows_total"].items()
    assert (dict(labels)["status"], dict(labels)["reason"], rows) == ("quarantined", "not_dicom", 3)
    for name, expected in {
        "oldest_in_flight_seconds": 0, "unmet_expectations": 1,
        "dead_letter_files": 0,
    }.items():  # fmt: skip
        assert [*values[f"dicom_router_{name}"].values()] == [expected], name
    started = [*values["dicom_router_start_timestamp_seconds"].values()]
    for name in ("last_row", "last_poll"):
        assert [*values[f"dicom_router_{name}_timestamp_seconds"].values()] > started


def test_an_unexpected_stream_is_seen_while_it_runs_and_in_its_exit_code(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lake, folder = tmp_path / "lake", tmp_path / "incoming"
    for number in range(3):
        write(folder, f"{number}.dcm", b"not DICOM %d" % number)
    port = free_port()
    options = watching(
        folder, "--index_interval=1", "--log_interval=2", "--quiet", f"--metrics_port={port}"
    )
    with start_stream(lake, *options) as stream:
        stream.wait_until(
            lambda: "warning: stream, in the last hour: expected some" in stream.stderr
        )

        def state() -> dict[str, Any]:
            capsys.readouterr()
            assert main(["status", str(lake), "--json"]) == 0
            found: dict[str, Any] = json.loads(capsys.readouterr().out)["running"]
            return found

        stream.wait_until(lambda: [one["in_flight"] for one in state()["inputs"]] == [0])
        stream.wait_until(lambda: state()["run"]["rows"] == 3)
        running = state()
        assert (running["held"], running["pid"]) == ("yes", stream.pid)
        assert (running["run"]["rows"], running["run"]["counts"]["quarantined"]) == (3, 3)
        stream.wait_until(lambda: exported(port, "in_flight_objects") == [0])
        # Beam's metrics follow the index.
        stream.wait_until(lambda: exported(port, "placed_total") == [3])
        stream.wait_until(lambda: exported(port, "examined_total") == [3])
        stream.wait_until(lambda: steps(port) == {"fetch", "decode", "place", "index", "latency"})
        assert_exported(scrape(port))
        assert main(["stop", str(lake)]) == 0
        assert f"the stream (process {stream.pid} on " in capsys.readouterr().out
        assert stream.wait_for_exit_code() == 3
        assert "not as the policy expects" in stream.stderr
    assert state()["held"] == "no"
    assert not list((lake / ".run").glob("*"))
    assert_ok(lake)


def test_a_batch_waits_for_the_stream_to_end(images: Path, tmp_path: Path) -> None:
    lake = tmp_path / "lake"
    copy_images(images, tmp_path / "incoming", 0, 2)
    with start_stream(lake, *watching(tmp_path / "incoming", "--index_interval=1")) as stream:
        stream.wait_for_rows(2)
        batch = Stream(lake, ["--input", str(tmp_path / "incoming")], tmp_path / "batch.log")
        try:
            batch.wait_until(lambda: "waiting for it to finish" in batch.stderr)
            assert main(["compact", str(lake)]) == 0
            stream.stop()
            assert batch.wait()["counts"]["unchanged"] == 2
        finally:
            batch.kill()


def test_a_failed_stream_reports_the_error(images: Path, tmp_path: Path) -> None:
    lake, folder = tmp_path / "lake", tmp_path / "incoming"
    copy_images(images, folder, 0, 2)
    options = watching(folder, "--index_interval=1")
    with start_stream(lake, *options) as stream:
        stream.wait_for_rows(2)
        (partition,) = lake.glob("index/*")
        (damaged := partition / "part-00000-damaged.parquet").write_bytes(b"PAR1")
        assert stream.wait_for_exit_code() == 1
        errors = [line for line in stream.stderr.splitlines() if line.startswith("error: ")]
        assert [str(damaged) in line for line in errors] == [True]
    damaged.unlink()
    assert not list(lake.glob("runs/*.json")), "no complete run"
    copy_images(images, folder, 2, 3)
    with start_stream(lake, *options) as stream:
        stream.wait_for_rows(3)
        assert accounted(stream.stop()) == 1
    assert_ok(lake)


def test_options_that_do_not_stream_are_refused(
    images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [
        "route",
        "--source=watch",
        "--input",
        str(images),
        "--lake",
        str(tmp_path / "lake"),
    ]
    for options, message in [
        (["--runner=FnApiRunner"], "cannot run a streaming source; use one of"),
        ([], "--runner PrismRunner needs --prism_location"),
        ([*ON_PRISM, "--reprocess=all"], "reprocess with --source files"),
        ([*ON_PRISM, "--poll_interval=0"], "--poll_interval must be above 0"),
    ]:
        assert main([*arguments, *options]) == 2
        assert message in capsys.readouterr().err
    assert main(["route", "--input", str(images), "--lake", str(tmp_path), "--models=/m"]) == 2
    assert "--models needs a streaming source" in capsys.readouterr().err


class Topic:
    """A topic with one subscription, for notifications of one bucket."""

    def __init__(self, store: Store) -> None:
        self._publisher = pubsub_v1.PublisherClient()
        self._subscriber = pubsub_v1.SubscriberClient()
        self._topic = "projects/test-project/topics/new"
        self.subscription = "projects/test-project/subscriptions/router"
        self._publisher.create_topic(name=self._topic)
        self._subscriber.create_subscription(name=self.subscription, topic=self._topic)
        self._store = store
        client = storage.Client(project="test")
        self._bucket = client.bucket(store.root.partition("://")[2])

    def notify(self, name: str, *, payload: bool = True, **changed: str) -> None:
        """Publish the notification that Cloud Storage sends about an object, with changed attributes."""
        blob = self._bucket.get_blob(name)
        attributes = {
            "eventType": "OBJECT_FINALIZE",
            "bucketId": self._bucket.name,
            "objectId": name,
            "objectGeneration": str(blob.generation if blob else 1),
            "eventTime": "2026-03-01T10:00:00.000000Z",
            "payloadFormat": "JSON_API_V1",
        }
        size = {"size": str(blob.size)} if blob else {"size": "10"}
        data = json.dumps(size).encode() if payload else b""
        attributes = {k: v for k, v in {**attributes, **changed}.items() if v}
        self._publisher.publish(self._topic, data, **attributes).result()

    def undelivered(self) -> int:
        """Return the number of messages that another subscriber would receive now."""
        request = {"subscription": self.subscription, "max_messages": 1000}
        with warnings.catch_warnings():  # without the deprecated flag an empty one keeps us waiting
            warnings.filterwarnings("ignore", "The return_immediately flag", DeprecationWarning)
            response = self._subscriber.pull(request={**request, "return_immediately": True})
        return len(response.received_messages)


@pytest.fixture
def topic(store: Store, monkeypatch: pytest.MonkeyPatch) -> Iterator[Topic]:
    if not PSTEST.exists():
        pytest.skip("the Pub/Sub server is not built: install Go and run 'make servers'")
    port = free_port()
    with running([str(PSTEST), f"--port={port}"], port) as endpoint:
        monkeypatch.setenv("PUBSUB_EMULATOR_HOST", endpoint.replace("localhost", "127.0.0.1"))
        yield Topic(store)


@pytest.mark.parametrize("store", [GS], indirect=True)
def test_notifications_and_a_kill(
    images: Path, baseline_lake: Path, tmp_path: Path, store: Store, topic: Topic
) -> None:
    lake = tmp_path / "lake"
    names = [path.name for path in sorted(images.iterdir())[:60]]

    def put(some: list[str]) -> None:
        for name in some:
            store.write(name, (images / name).read_bytes())
            topic.notify(name, payload=name != "00001.dcm")

    subscribed = ["--source=pubsub", "--input", topic.subscription, "--ack_deadline=10"]
    options = [*subscribed, *ON_PRISM, *FAST, "--index_interval=3", "--retry_after=8"]
    put(names[:20])
    topic.notify(names[3])  # Pub/Sub redelivers messages
    topic.notify(names[0], eventType="OBJECT_DELETE")
    topic.notify(names[0], objectId="")
    with start_stream(lake, *options) as stream:
        stream.wait_for_rows(10)
        put(names[20:])
        stream.wait_until(lambda: soak.placed(lake) > 22)
        stream.kill()
    assert rows_in(lake) < len(names)
    topic.notify("gone.dcm")
    with start_stream(lake, *options) as stream:
        stream.wait_for_rows(len(names))
        stream.wait_until(lambda: len(list(lake.glob("dead_letters/*"))) == 2)
        topic.notify(names[5])  # ingested already
        time.sleep(5)
        stream.stop()
    time.sleep(11)  # past the deadline of any message that was not acknowledged
    assert topic.undelivered() == 0
    rows = Lake(lake).rows()
    assert sorted(r["source_uri"] for r in rows) == sorted(f"{store.root}/{n}" for n in names)
    baseline = {Path(r["source_uri"]).name: r for r in Lake(baseline_lake).rows()}
    for row in rows:
        expected = baseline[row["source_uri"].rpartition("/")[2]]
        assert row["content_sha256"] == expected["content_sha256"]
        assert row["destination"] == expected["destination"]
    letters = [json.loads(path.read_text()) for path in lake.glob("dead_letters/*")]
    assert sorted(letter["reason"] for letter in letters) == ["KeyError", "disappeared"]
    assert not any("gone" in path.read_text() for path in lake.glob("dead_letters/*"))
    assert_ok(lake)


@pytest.mark.parametrize("times", [1, 2])
def test_ctrl_c_drains_and_a_second_one_ends_at_once(
    images: Path, tmp_path: Path, times: int
) -> None:
    lake, folder = tmp_path / "lake", tmp_path / "incoming"
    copy_images(images, folder, 0, 2)
    # An index interval that the drain would wait for, unless it ends at once.
    options = watching(folder, "--index_interval=1" if times == 1 else "--index_interval=3600")
    with start_stream(lake, *options) as stream:
        stream.wait_until(lambda: soak.placed(lake) == 2)
        stream.interrupt()
        stream.wait_until(lambda: "stopping" in stream.stderr)
        if times == 2:
            stream.interrupt()
        assert stream.wait_for_exit_code() == (0 if times == 1 else 130)
    lines = ["stopping: finishing objects in flight first"]
    lines += ["interrupted; run the same command again to complete"] if times == 2 else []
    assert stream.stderr.splitlines() == lines
    assert main(["route", "--input", str(folder), "--lake", str(lake), "--quiet"]) == 0
    assert len(Lake(lake).rows()) == 2
    assert main(["verify", str(lake), "--deep"]) == 0
