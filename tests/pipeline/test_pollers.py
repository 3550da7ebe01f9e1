"""Which objects the streaming sources emit, and when: pollers without an engine, with a manual clock."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.cli import main
from pipeline.sources.poller import PollFn
from pipeline.sources.pubsub import MalformedNotification, Notification, parse_notification
from pipeline.sources.watch import Watcher
from tests.conftest import write
from tests.graphs import config_of
from tests.lake.rows import ONE, index_row
from transforms.config.route_config import RouteConfig
from transforms.config.stream_options import StreamConfig
from transforms.core.object_ref import ObjectRef
from transforms.lake import drain
from transforms.lake.append import append
from transforms.lake.dead_letters import write_dead_letter
from transforms.lake.index_replica import replica_of
from transforms.lake.layout import Layout
from transforms.lake.source_versions import resolve_version
from transforms.storage.local import LocalStorage

pytestmark = pytest.mark.stream


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def config(tmp_path: Path) -> RouteConfig:
    (tmp_path / "in").mkdir()
    stream = StreamConfig(stable_for=5, retry_after=100, max_in_flight=3)
    made = replace(config_of("--source=watch"), inputs=(str(tmp_path / "in"),), stream=stream)
    return replace(made, layout=Layout(str(tmp_path / "lake")))


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def watcher(config: RouteConfig, clock: Clock) -> Iterator[Watcher]:
    yield Watcher(config, config.inputs[0], clock)
    replica_of(config.layout).close()


def poll(watcher: Watcher, clock: Clock, after: float = 0) -> list[str]:
    """Poll after some seconds, and return the names of the files that were emitted."""
    clock.now += after
    found = list(watcher.poll(draining=False))
    return [Path(ref.uri).name for ref in found if isinstance(ref, ObjectRef)]


def index(config: RouteConfig, *paths: Path) -> None:
    """Append rows of files to the index, as a worker does."""
    for path in paths:
        status = path.stat()
        version = f"{status.st_size}-{status.st_mtime_ns}"
        uid = f"1.{status.st_ino}"
        one = index_row(str(path), path.name * 8, sop_instance_uid=uid, source_version=version)
        assert append(config.layout, replica_of(config.layout), ONE, [one]).rows


def test_a_file_with_an_extreme_mtime_is_emitted_without_event_time(
    watcher: Watcher, clock: Clock, tmp_path: Path
) -> None:
    for name, seconds in (("before 1970", -5_000_000_000), ("year 2300", 10_413_792_000)):
        os.utime(write(tmp_path / "in", name, b"1"), (seconds, seconds))
    assert poll(watcher, clock) == []
    clock.now += 6
    refs = [found for found in watcher.poll(draining=False) if isinstance(found, ObjectRef)]
    assert [ref.modified for ref in refs] == [None, None]
    assert [ref.version for ref in refs] == [f"1-{Path(r.uri).stat().st_mtime_ns}" for r in refs]


def test_a_file_is_emitted_once_it_stops_changing(
    watcher: Watcher, clock: Clock, tmp_path: Path
) -> None:
    path = write(tmp_path / "in", "a", b"1")
    assert poll(watcher, clock) == []
    assert poll(watcher, clock, 4) == []
    path.write_bytes(b"12")
    assert poll(watcher, clock, 4) == [], "it changed since the last poll"
    assert poll(watcher, clock, 6) == ["a"]
    assert poll(watcher, clock, 6) == []


def ingest(config: RouteConfig, path: Path) -> None:
    """Append the row of a file to the index, with what a worker records of it."""
    found = LocalStorage().stat(str(path))
    assert found is not None and found.state is not None
    content = hashlib.sha256(path.read_bytes()).hexdigest()
    ref = resolve_version(ObjectRef.of(found), replica_of(config.layout).rows_of_source(str(path)))
    one = index_row(str(path), content, source_version=ref.version, source_state=ref.state)
    assert append(config.layout, replica_of(config.layout), ONE, [one]).rows


def test_other_content_of_the_same_size_and_time_is_emitted_once(
    watcher: Watcher, clock: Clock, config: RouteConfig, tmp_path: Path
) -> None:
    path = write(tmp_path / "in", "a", b"1")
    poll(watcher, clock)
    assert poll(watcher, clock, 6) == ["a"]
    ingest(config, path)
    assert poll(watcher, clock, 6) == []
    times = path.stat()
    path.write_bytes(b"2")
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    emitted = [name for _ in range(4) for name in poll(watcher, clock, 6)]
    assert emitted == ["a"]
    ingest(config, path)
    assert [name for _ in range(3) for name in poll(watcher, clock, 6)] == []
    assert not watcher.pending


def test_a_file_with_other_permissions_is_not_emitted_again(
    watcher: Watcher, clock: Clock, config: RouteConfig, tmp_path: Path
) -> None:
    path = write(tmp_path / "in", "a", b"1")
    poll(watcher, clock)
    assert poll(watcher, clock, 6) == ["a"]
    ingest(config, path)
    assert poll(watcher, clock, 6) == []
    path.chmod(0o600)
    os.link(path, tmp_path / "elsewhere")
    assert [name for _ in range(3) for name in poll(watcher, clock, 6)] == []


def test_max_in_flight_bounds_the_pending_objects(
    watcher: Watcher, clock: Clock, config: RouteConfig, tmp_path: Path
) -> None:
    paths = [write(tmp_path / "in", name, b"x") for name in "abcde"]
    poll(watcher, clock)
    assert poll(watcher, clock, 6) == ["a", "b", "c"]
    index(config, paths[1])
    assert poll(watcher, clock, 1) == ["d"]


def test_a_stalled_object_is_retried_and_frees_capacity(
    watcher: Watcher, clock: Clock, config: RouteConfig, tmp_path: Path
) -> None:
    paths = {name: write(tmp_path / "in", name, b"x") for name in "abcd"}
    poll(watcher, clock)
    assert poll(watcher, clock, 6) == ["a", "b", "c"]
    index(config, paths["b"], paths["c"])
    assert poll(watcher, clock, 10) == ["d"]
    index(config, paths["d"])  # emitted after a and ingested before it: a has stalled
    assert poll(watcher, clock, 80) == []
    assert poll(watcher, clock, 11) == ["a"]
    assert poll(watcher, clock, 150) == [], "the delay doubles"
    assert poll(watcher, clock, 60) == ["a"]


def test_queued_objects_are_not_retried_while_others_progress(
    watcher: Watcher, clock: Clock, config: RouteConfig, tmp_path: Path
) -> None:
    paths = {name: write(tmp_path / "in", name, b"x") for name in "abc"}
    poll(watcher, clock)
    assert poll(watcher, clock, 6) == ["a", "b", "c"]
    index(config, paths["a"])
    assert poll(watcher, clock, 90) == []
    index(config, paths["b"])
    assert poll(watcher, clock, 90) == [], "c is last in the queue"


def test_ingested_versions_are_not_emitted(
    watcher: Watcher, clock: Clock, config: RouteConfig, tmp_path: Path
) -> None:
    index(config, write(tmp_path / "in", "a", b"x"))
    write(tmp_path / "in", "b", b"x")
    poll(watcher, clock)
    assert poll(watcher, clock, 6) == ["b"]
    os.utime(tmp_path / "in" / "a", ns=(1, 1))  # another version
    poll(watcher, clock, 1)
    assert poll(watcher, clock, 6) == ["a"]


def test_a_removed_file_is_no_longer_pending(
    watcher: Watcher, clock: Clock, tmp_path: Path
) -> None:
    path = write(tmp_path / "in", "a", b"x")
    poll(watcher, clock)
    assert poll(watcher, clock, 6) == ["a"]
    path.unlink()
    assert poll(watcher, clock, 200) == []
    assert len(watcher.pending) == 0


@pytest.fixture
def draining(config: RouteConfig, tmp_path: Path) -> Iterator[RouteConfig]:
    """A source that polls at every trigger, with one file in flight and a drain requested."""
    stream = StreamConfig(poll_interval=1e-9, stable_for=1e-9, index_interval=30)
    config = replace(config, stream=stream)
    write(tmp_path / "in", "a", b"x")
    emitted = [ref for _ in range(3) for ref in PollFn(config, Watcher).process(0)]
    assert [Path(ref.uri).name for ref in emitted] == ["a"]
    drain.request(config.layout)
    yield config
    replica_of(config.layout).close()


def test_a_drained_source_reports_once_its_objects_have_rows(
    draining: RouteConfig, tmp_path: Path
) -> None:
    write(tmp_path / "in", "b", b"x")
    assert not list(PollFn(draining, Watcher).process(0)), "nothing new is emitted"
    assert not drain.reports(draining.layout, draining.run_id, 1), "a is in flight"
    index(draining, tmp_path / "in" / "a")
    assert not list(PollFn(draining, Watcher).process(0))
    assert drain.reports(draining.layout, draining.run_id, 1) == [drain.DrainReport(())]


def test_a_report_that_the_lake_refuses_is_written_at_the_next_poll(
    draining: RouteConfig, tmp_path: Path
) -> None:
    index(draining, tmp_path / "in" / "a")
    scratch = Path(draining.layout.scratch())
    shutil.rmtree(scratch)
    scratch.write_bytes(b"not a folder")
    assert not list(PollFn(draining, Watcher).process(0))
    assert not drain.reports(draining.layout, draining.run_id, 1)
    scratch.unlink()
    assert not list(PollFn(draining, Watcher).process(0))
    assert drain.reports(draining.layout, draining.run_id, 1) == [drain.DrainReport(())]


def test_a_source_that_waits_too_long_reports_its_objects_in_flight(
    draining: RouteConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.sources.poller.DRAIN_TIMEOUT_FACTOR", 0)
    for _ in range(2):
        assert not list(PollFn(draining, Watcher).process(0))
    (report,) = drain.reports(draining.layout, draining.run_id, 1)
    assert len(report.object_keys) == 1


def test_a_dead_letter_names_an_object_by_its_key(config: RouteConfig) -> None:
    for _ in range(2):  # redelivered messages are written once
        write_dead_letter(config.layout, "../17", "disappeared", "gs://b/DOE^JANE.dcm")
    (path,) = Path(config.layout.root).glob("dead_letters/*")
    letter = json.loads(path.read_text())
    assert letter == {
        "message": "___17",
        "object_key": letter["object_key"],
        "reason": "disappeared",
        "remedy": "run again",
    }
    assert "DOE" not in path.read_text()


ATTRIBUTES = {
    "eventType": "OBJECT_FINALIZE",
    "bucketId": "b",
    "objectId": "dir/a b.dcm",
    "objectGeneration": "17",
    "eventTime": "2026-03-01T10:00:00.123456Z",
}


def test_notifications_are_parsed() -> None:
    whole = parse_notification(ATTRIBUTES, b'{"size": "123"}')
    assert whole == Notification("gs://b/dir/a b.dcm", "17", 123, 1772359200.123456)
    bare = parse_notification({**ATTRIBUTES, "eventTime": "?"}, b"")
    assert bare == Notification("gs://b/dir/a b.dcm", "17", None, None)
    assert parse_notification({**ATTRIBUTES, "eventType": "OBJECT_DELETE"}, b"") is None


@pytest.mark.parametrize(
    "broken",
    [{"eventType": None}, {"bucketId": None}, {"objectId": None}, {"objectGeneration": "x"}],
)
def test_a_malformed_notification_is_rejected(broken: dict[str, str | None]) -> None:
    attributes = {k: v for k, v in {**ATTRIBUTES, **broken}.items() if v is not None}
    with pytest.raises(MalformedNotification):
        parse_notification(attributes, b"{}")


@pytest.mark.parametrize(("options", "message"), [
    (["--source=watch", "--input=/no/such"], "input 1 (/no/such) does not exist"),
    (["--source=pubsub", "--input=gs://bucket"], "write projects/PROJECT/subscriptions/NAME"),
    (["--source=watch", "--input=.", "--ingest_date=2026-01-01"], "of the current day"),
    (["--source=pubsub", "--input=projects/p/subscriptions/s", "--ack_deadline=5"], "in 10..600"),
    (["--source=watch", "--input=.", "--runner=FlinkRunner", "--job_endpoint=h:1",
      "--environment_type=LOOPBACK"], "needs --flink_master"),
])  # fmt: skip
def test_invalid_options_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], message: str
) -> None:
    runner = [] if any("--runner" in o for o in options) else ["--runner=PrismRunner"]
    prism = [] if not runner else ["--prism_location=setup.py"]
    assert main(["route", "--lake", str(tmp_path / "lake"), *options, *runner, *prism]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "lake").exists()
