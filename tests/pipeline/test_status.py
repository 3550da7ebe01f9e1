"""`status` and `stop` say what runs, without a lock and without a write; streams report themselves."""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pipeline.cli import main
from pipeline.exit_codes import DONE, FAILED, USAGE
from pipeline.progress import RecordState
from pipeline.review.applier import Progress
from pipeline.review.record_session import INTERVAL_S, RecordSession
from pipeline.stream_monitor import StreamMonitor
from tests.conftest import Lake, Route, write
from tests.graphs import config_of
from tests.lake.rows import append_rows, index_row, new_lake, set_clock
from tests.pipeline.test_pollers import Clock
from tests.stores import GS, Store
from tests.synthetic import dicom_bytes, image
from transforms.config.expectations import Expectations
from transforms.config.route_config import RouteConfig
from transforms.config.stream_options import StreamConfig
from transforms.core.reasons import Reason, Stage, Status
from transforms.lake import drain
from transforms.lake.dead_letters import write_dead_letter
from transforms.lake.layout import WRITER_LOCK, Layout
from transforms.lake.lock import lock_lake
from transforms.lake.run_state import LAUNCHER, StateWriter, clear_states
from transforms.lake.tombstones import Tombstones, forget_source, tombstone_key


@pytest.fixture
def status(capsys: pytest.CaptureFixture[str]) -> Any:
    def read(lake: str | Path) -> tuple[dict[str, Any], str]:
        assert main(["status", str(lake), "--json"]) == DONE
        found = json.loads(capsys.readouterr().out)
        assert main(["status", str(lake)]) == DONE
        return found, capsys.readouterr().out

    return read


def everything(root: Path) -> dict[str, int]:
    """The time of change of each file and folder, hidden ones too."""
    return {str(path): path.stat().st_ctime_ns for path in root.rglob("*")}


def test_a_lake_without_runs(
    tmp_path: Path, status: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    new_lake(tmp_path / "lake")
    before = everything(tmp_path)
    found, text = status(tmp_path / "lake")
    assert everything(tmp_path) == before
    assert (found["running"]["held"], found["index"]["rows"], found["runs"]) == ("no", 0, [])
    assert "running     nothing\n" in text
    assert "runs        none has ended yet" in text
    assert main(["status", str(tmp_path)]) == USAGE
    assert main(["status", str(tmp_path / "missing")]) == USAGE
    assert "no such folder" in capsys.readouterr().err


@pytest.mark.slow
def test_what_failed_and_what_was_quarantined(
    lake: Lake, source: Path, route: Route, tmp_path: Path, status: Any
) -> None:
    write(source, "a.dcm", dicom_bytes(image(1, (96, 64)), name="1"))
    write(source, "DOE^JOHN", b"not DICOM")
    manifest = write(
        tmp_path, "list.txt", f"{source}/a.dcm\n{source}/DOE^JOHN\n\xff\n".encode("latin-1")
    )
    assert (
        route("--source=manifest", inputs=(str(manifest),), expect=FAILED)["counts"]["failed"] == 1
    )
    write_dead_letter(Layout(str(lake.root)), "17", Reason.DISAPPEARED, "gs://b/DOE^JOHN.dcm")
    before = everything(lake.root)
    found, text = status(lake.root)
    assert everything(lake.root) == before, "nothing is written"
    assert found["index"]["rows"] == 2
    assert found["recent"]["quarantined"] == [{"reason": "not_dicom", "objects": 1}]
    assert found["runs"][0]["complete"] is False
    assert found["dead_letters"]["number"] == 1
    assert "1 not_dicom: the object is not a DICOM file (PS3.10)" in text
    assert "1 dead letter in LAKE/dead_letters, the last: disappeared, " in text
    assert ", disappeared: the object disappeared" in text
    assert "  route, incomplete, 1 failed" in text
    assert "DOE" not in text + json.dumps(found)
    assert len(text.splitlines()) <= 30


def test_a_batch_run_shows_how_far_it_is(
    tmp_path: Path, status: Any, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    layout = new_lake(tmp_path / "lake")
    monkeypatch.setattr("pipeline.progress.STATE_DELAY_S", 0.0)
    config = replace(config_of(), layout=layout)
    with lock_lake(layout), RecordState(config):
        while not list((tmp_path / "lake/.run").glob("*.json")):
            time.sleep(0.01)
        found, text = status(layout.root)
        holder = {name: found["running"][name] for name in ("held", "host")}
        assert holder == {"held": "yes", "host": socket.gethostname()}
        assert found["running"]["run"]["run_id"] == config.run_id
        assert "running     a batch run of 1 input (files): process " in text
        assert main(["stop", layout.root]) == DONE
        assert "but a batch run (process " in capsys.readouterr().out
    assert status(layout.root)[0]["running"]["held"] == "no"
    assert not list((tmp_path / "lake/.run").glob("*"))


def test_open_reviews_are_listed(tmp_path: Path, status: Any) -> None:
    layout, clock = new_lake(tmp_path / "lake"), Clock()
    assert "\nreviews " not in status(layout.root)[1]
    progress = [Progress(changed=3, waiting=2, problem="another run is writing to this lake")]
    session = RecordSession(layout, 8042, lambda: 1234, lambda: progress[0], clock)
    session.update()
    found, text = status(layout.root)
    (review,) = found["reviews"]
    assert (review["port"], review["images"], review["responds"]) == (8042, 1234, True)
    assert review["pid"] == os.getpid()
    assert "reviews     process " in text
    assert "port 8042, since " in text
    assert "1,234 images wait, 3 decisions changed, 2 answers not applied yet (another run" in text
    progress[0] = Progress(changed=5)
    session.update()
    assert status(layout.root)[0]["reviews"][0]["changed"] == 3, "written now and then"
    clock.now += INTERVAL_S
    session.update()
    assert "1,234 images wait, 5 decisions changed\n" in status(layout.root)[1]
    clear_states(layout)  # as a run does when it begins
    assert len(status(layout.root)[0]["reviews"]) == 1
    session.close()
    assert status(layout.root)[0]["reviews"] == []


def test_a_killed_review_is_not_listed(tmp_path: Path, status: Any) -> None:
    layout = new_lake(tmp_path / "lake")
    RecordSession(layout, 1, lambda: 0, Progress).update()
    (file,) = (tmp_path / "lake" / ".reviews").iterdir()
    state = json.loads(file.read_text())
    ended = {**state, "start_ticks": state["start_ticks"] - 1}  # another process had this id
    file.write_text(json.dumps(ended))
    assert status(layout.root)[0]["reviews"] == []
    elsewhere = {**ended, "host": "other", "host_id": "0" * 12}
    file.write_text(json.dumps(elsewhere))
    assert status(layout.root)[0]["reviews"][0]["responds"] is True
    file.write_text(json.dumps({**elsewhere, "updated_at": state["updated_at"] - 3600}))
    assert "; nothing heard of it since " in status(layout.root)[1]
    file.write_text(json.dumps(ended))
    RecordSession(layout, 1, lambda: 0, Progress)
    assert not file.exists()


def test_a_killed_run_is_named(
    tmp_path: Path, status: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    layout = new_lake(tmp_path / "lake")
    StateWriter(layout, "20260101T000000Z-0", LAUNCHER).write(streaming=True)
    assert "nothing; run 20260101T000000Z-0 was interrupted" in status(layout.root)[1]
    assert main(["stop", layout.root]) == DONE
    assert "no stream runs on " in capsys.readouterr().out
    assert drain.is_requested(layout), "of a job on an engine whose client is gone"
    with lock_lake(layout), RecordState(replace(config_of(), layout=layout)):
        assert status(layout.root)[0]["running"]["run"] is None, (
            "that of the killed run was removed"
        )


@pytest.mark.slow
@pytest.mark.parametrize("store", [GS], indirect=True)
def test_a_lake_in_a_store(store: Store, source: Path, route: Route, status: Any) -> None:
    write(source, "a", b"not DICOM")
    lake = f"{store.root}/lake"
    summary = route("--lake", lake)
    before = store.read_all()
    with lock_lake(Layout(lake), names=[WRITER_LOCK]):
        found, text = status(lake)
        assert found["running"]["held"] == "yes"
        assert "a run: process " in text
    found, _ = status(lake)
    assert found["running"]["held"] == "no"
    assert found["index"] == {
        "rows": 1,
        "files": 1,
        "first_day": found["index"]["last_day"],
        "last_day": summary["options"]["ingest_date"],
    }
    assert found["runs"][0]["run_id"] == summary["run_id"]
    after = store.read_all()
    assert {name for name in before if before[name] != after[name]} <= {"lake/.writer.lock"}
    assert before.keys() == after.keys()


@pytest.fixture
def stream(tmp_path: Path) -> RouteConfig:
    expect = Expectations(max_quarantine_share=0.5, min_sample=2, not_all_quarantined=False)
    made = config_of("--source=watch")
    return replace(
        made,
        layout=new_lake(tmp_path / "lake"),
        stream=StreamConfig(log_interval=60),
        policy=replace(made.policy, expect=expect),
    )


def rows_of(config: RouteConfig, names: str, segment: int, **columns: Any) -> None:
    """Append a segment, as a worker of a stream does."""
    day = time.strftime("%Y-%m-%d", time.gmtime())
    append_rows(
        config.layout,
        *(
            index_row(
                name,
                name * 64,
                sop_instance_uid=f"1.{ord(name)}",
                run_id=f"{config.run_id}.{segment}",
                ingest_date=day,
                ingested_at=int(time.time() * 1e6),
                **columns,
            )
            for name in names
        ),
    )


QUARANTINED: dict[str, Any] = {
    "status": Status.QUARANTINED,
    "stage": Stage.HEADER,
    "reason": Reason.NOT_DICOM,
    "destination": "quarantine",
}


@pytest.mark.slow
def test_a_stream_reports_itself(
    stream: RouteConfig, status: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    layout, clock = stream.layout, Clock()
    with pytest.MonkeyPatch.context() as earlier:
        set_clock(earlier, "2026-01-01")
        for number in range(2):
            append_rows(
                layout, index_row(f"{number}", f"{number}" * 64, sop_instance_uid=f"1.{number}")
            )
    before = {str(path) for path in Path(layout.index).rglob("*.parquet")}
    with lock_lake(layout, names=[WRITER_LOCK]):
        monitor = StreamMonitor(stream, before, quiet=False, clock=clock)
        monitor.update(lambda: 0)
        assert capsys.readouterr().err == "", "the first line comes after a minute"
        rows_of(stream, "abc", 2)
        StateWriter(layout, stream.run_id, "0").write(
            in_flight=4, waiting=7, retried=1, retried_keys=["0a1b2c3d4e5f"]
        )
        clock.now += 60
        monitor.update(lambda: 2)
        assert capsys.readouterr().err == (
            "stream: 3 rows since start (3 routed), 3 in the last minute, 4 in flight (1 retried), "
            "7 waiting, 2 errors\n"
        )
        found, text = status(layout.root)
        assert found["running"]["run"]["rows"] == 3
        assert "a stream of 1 input (watch): process " in text
        assert (
            "3 rows since its start, 3 in the last minute, 4 in flight (1 retried), 7 waiting"
            in text
        )
        assert "retried until they have a row: 0a1b2c3d4e5f" in text
        assert main(["stop", layout.root]) == DONE
        assert "the stream (process " in capsys.readouterr().out
        assert ", stopping" in status(layout.root)[1]

        assert main(["compact", layout.root]) == DONE
        assert "1 day" in capsys.readouterr().out
        rows_of(stream, "defgh", 3, **QUARANTINED)
        erased = Tombstones(tombstone_key(layout))
        forget_source(layout, erased, index_row("/again", run_id=stream.run_id))
        clock.now += 60
        monitor.update(lambda: None)
        err = capsys.readouterr().err
        assert (
            "stream: 8 rows since start (3 routed, 5 quarantined), 5 in the last minute, 1 forgotten"
            in err
        )
        assert (
            "warning: stream, in the last hour: expected at most 50.0% of the objects quarantined"
            in err
        )
        clock.now += 60
        monitor.update(lambda: None)
        assert "warning" not in capsys.readouterr().err, "once, until it is met again"
        assert "expected at most 50.0%" in status(layout.root)[1]
        clock.now += 3600
        monitor.update(lambda: None)
        assert "expect.max_quarantine_share is met again" in capsys.readouterr().err
        monitor.close()
        assert status(layout.root)[0]["running"]["run"] is None


@pytest.fixture
def quiet(stream: RouteConfig) -> Iterator[tuple[StreamMonitor, Clock]]:
    clock = Clock()
    monitor = StreamMonitor(stream, set(), quiet=True, clock=clock)
    yield monitor, clock
    monitor.close()


def test_a_quiet_stream_reports_only_what_is_unexpected(
    stream: RouteConfig, quiet: tuple[StreamMonitor, Clock], capsys: pytest.CaptureFixture[str]
) -> None:
    monitor, clock = quiet
    rows_of(stream, "ab", 1, **QUARANTINED)
    clock.now += 60
    monitor.update(lambda: 0)
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("warning: stream, in the last hour: expected at most 50.0%")
