"""Routing from, to and between object stores gives the same lake as local files."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from pipeline.cli import main
from tests import soak
from tests.conftest import Lake, counts
from tests.stores import GS, Store
from tests.synthetic import dicom_bytes, image
from transforms.core.reasons import ProcessingFailure, Reason, Stage
from transforms.lake.layout import Layout
from transforms.lake.lock import lock_lake
from transforms.storage.schemes import storage_of

pytestmark = pytest.mark.slow

OBJECTS = 30
Route = Callable[..., dict[str, Any]]


def upload(images: Path, store: Store) -> str:
    for path in sorted(images.iterdir()):
        store.write(f"in/{path.name}", path.read_bytes())
    return f"{store.root}/in"


def verified(lake: str, capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    capsys.readouterr()
    code = main(["verify", lake, "--deep", "--json"])
    report: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert code == 0, report["violations"]
    return report


def decisions(lake: Path, prefix: str) -> dict[str, dict[str, Any]]:
    """Return rows by file name, without the columns that differ between two lakes."""
    volatile = {*soak.VOLATILE, "source_uri", "source_version", "object_key"}
    return {
        row["source_uri"].removeprefix(prefix).lstrip("/"): {
            name: value for name, value in row.items() if name not in volatile
        }
        for row in Lake(lake).rows()
    }


@pytest.mark.parametrize("source_is", ["local", "in the store"])
def test_a_lake_in_a_store_equals_a_local_one(
    store: Store,
    images: Path,
    baseline_lake: Path,
    tmp_path: Path,
    route: Route,
    capsys: pytest.CaptureFixture[str],
    source_is: str,
) -> None:
    source = str(images) if source_is == "local" else upload(images, store)
    lake = f"{store.root}/some/lake"
    summary = route("--lake", lake, inputs=(source,))
    assert summary["counts"]["discovered"] == OBJECTS
    copy = store.download(tmp_path / "copy", "some/lake")
    assert soak.objects_of(copy) == soak.objects_of(baseline_lake)
    assert decisions(copy, source) == decisions(baseline_lake, str(images))
    assert {row["object_uri"].partition("/")[0] for row in Lake(copy).rows()} == {
        "objects", "quarantine",
    }  # fmt: skip
    assert verified(lake, capsys)["rows"] == OBJECTS

    before = store.read_all()
    again = route("--lake", lake, inputs=(source,))
    assert counts(again) == {"unchanged": OBJECTS}
    after = {n: d for n, d in store.read_all().items() if "/runs/" not in n and ".lock" not in n}
    assert after == {n: d for n, d in before.items() if "/runs/" not in n and ".lock" not in n}


def test_from_a_store_to_a_local_lake(
    store: Store,
    images: Path,
    baseline_lake: Path,
    lake: Lake,
    route: Route,
    capsys: pytest.CaptureFixture[str],
) -> None:
    source = upload(images, store)
    route(inputs=(f"{source}/*.dcm",))
    assert soak.objects_of(lake.root) == soak.objects_of(baseline_lake)
    assert {row["source_uri"] for row in lake.rows()} == {
        f"{source}/{path.name}" for path in images.iterdir()
    }
    verified(str(lake.root), capsys)
    assert counts(route(inputs=(f"{source}/*.dcm",))) == {"unchanged": OBJECTS}


def test_an_overwritten_object_is_another_version(store: Store, lake: Lake, route: Route) -> None:
    uri = store.write("in/a.dcm", dicom_bytes(image(1, (96, 64)), name="1"))
    route(inputs=(uri,))
    store.write("in/a.dcm", dicom_bytes(image(2, (96, 64)), name="2"))
    assert sum(counts(route(inputs=(uri,))).values()) == 1
    rows = lake.rows()
    assert [row["source_uri"] for row in rows] == [uri, uri]
    assert len({row["source_version"] for row in rows}) == 2


def test_a_lake_is_not_routed_into_itself(store: Store, images: Path, route: Route) -> None:
    upload(images, store)
    for _ in range(2):
        summary = route("--lake", f"{store.root}/lake", inputs=(store.root,))
        assert summary["counts"]["discovered"] == OBJECTS


def test_a_sink_in_a_store_beside_a_local_lake(
    store: Store, images: Path, tmp_path: Path, lake: Lake, route: Route
) -> None:
    policy = tmp_path / "policy.yaml"
    policy.write_text(f"sinks: {{quarantine: '{store.root}/bad/'}}\n")
    route("--policy", str(policy), inputs=(str(images),))
    bad = [row for row in lake.rows() if row["status"] == "quarantined"]
    assert {row["object_uri"].removeprefix(f"{store.root}/") for row in bad} == {
        name for name in store.read_all() if "/." not in name
    }
    assert main(["verify", str(lake.root), "--deep", "--policy", str(policy)]) == 0
    assert main(["verify", str(lake.root), "--deep"]) == 0


def test_refused_writes_make_a_run_incomplete_and_the_next_completes_it(
    store: Store, images: Path, route: Route, capsys: pytest.CaptureFixture[str]
) -> None:
    lake = f"{store.root}/lake"
    writes = "^(POST /upload.*|PUT .*)body_part"
    if store.scheme == GS:  # the name is in the body
        writes = "^POST /upload"
        store.fault(writes, count=4, status=403)  # the lock, the journal and two objects
        assert main(["route", "--input", str(images), "--lake", lake]) == 1
        assert "check its permissions" in capsys.readouterr().err
        store.clear_faults()
    else:
        store.fault(writes, count=3, status=403)
        summary = route("--lake", lake, inputs=(str(images),), expect=1)
        assert summary["counts"]["failed"] == 3
        assert {failed["reason"] for failed in summary["failures"]} == {"permission_denied"}
    route("--lake", lake, inputs=(str(images),))
    assert verified(lake, capsys)["rows"] == OBJECTS


def test_transient_errors_of_a_store_are_retried(
    store: Store, images: Path, route: Route, capsys: pytest.CaptureFixture[str]
) -> None:
    lake = f"{store.root}/lake"
    store.fault(".", count=3, status=503)
    store.fault("^(POST|PUT)", count=2, after=True, reset=True)
    route("--lake", lake, inputs=(str(images),))
    assert store.hits() == [3, 2]
    assert verified(lake, capsys)["rows"] == OBJECTS


@pytest.mark.parametrize(
    "fault",
    [
        {},
        {"status": 403},  # the bytes that were read are sent
        {"count": 2, "after": True, "reset": True},  # only responses are lost
    ],
    ids=["copies", "refuses", "loses responses"],
)
def test_objects_are_copied_server_side_where_supported(
    store: Store,
    images: Path,
    baseline_lake: Path,
    tmp_path: Path,
    route: Route,
    capsys: pytest.CaptureFixture[str],
    fault: dict[str, Any],
) -> None:
    source, lake = upload(images, store), f"{store.root}/lake"
    store.fault("/rewriteTo/", **fault)
    store.fault("^(POST /upload|PUT .*/lake/(objects|quarantine)/)")
    route("--lake", lake, inputs=(source,))
    copies, sent = store.hits()
    placed = len(soak.objects_of(baseline_lake))
    assert (copies > 0) == (store.scheme == GS)
    if store.scheme == GS and "status" not in fault:
        assert sent < placed, "locks, the journal, the index and a summary"
        assert copies == fault.get("count", OBJECTS)
    else:
        assert sent >= placed
    assert soak.objects_of(store.download(tmp_path / "copy", "lake")) == soak.objects_of(
        baseline_lake
    )
    assert verified(lake, capsys)["rows"] == OBJECTS


def test_a_missing_object_fails_alone(store: Store, images: Path, route: Route) -> None:
    source = upload(images, store)
    store.fault("/in/00003.dcm|in%2F00003.dcm", status=404)
    summary = route("--lake", f"{store.root}/lake", inputs=(source,), expect=1)
    (failure,) = summary["failures"]
    assert (failure["stage"], failure["reason"]) == ("fetch", "disappeared")
    store.clear_faults()
    assert counts(route("--lake", f"{store.root}/lake", inputs=(source,)))["unchanged"] == 29


def test_a_missing_bucket_of_the_lake_is_reported_at_once(
    store: Store, images: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    missing = f"{store.scheme}://no-such-bucket/x"
    assert main(["route", "--input", str(images), "--lake", missing]) == 1
    assert "no such object or bucket" in capsys.readouterr().err


def test_objects_whose_write_was_wrongly_reported_as_failed_get_rows(
    store: Store,
    images: Path,
    tmp_path: Path,
    route: Route,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Every response of a write is lost; the next run has another policy."""
    import transforms.place as place

    real, lake = place.place, f"{store.root}/lake"

    def write_and_fail(*arguments: Any) -> None:
        real(*arguments)
        raise ProcessingFailure(Stage.PLACE, Reason.WRITE_FAILED)

    monkeypatch.setattr(place, "place", write_and_fail)
    summary = route("--lake", lake, inputs=(str(images),), expect=1)
    assert summary["counts"]["failed"] == OBJECTS
    monkeypatch.undo()
    policy = tmp_path / "policy.yaml"
    policy.write_text("min_long_side: 4000\n")  # every image is sent to review
    route("--lake", lake, "--policy", str(policy), inputs=(str(images),))
    assert verified(lake, capsys)["rows"] == OBJECTS


def test_a_missing_bucket_of_the_input_is_reported_at_once(
    store: Store, lake: Lake, capsys: pytest.CaptureFixture[str]
) -> None:
    missing = f"{store.scheme}://no-such-bucket/x"
    assert main(["route", "--input", missing, "--lake", str(lake.root)]) == 2
    assert "no such object or bucket" in capsys.readouterr().err


def start(source: str, lake: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "pipeline", "route", "--input", source, "--lake", lake]
    return subprocess.Popen(
        [*command, "--json"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True
    )


def test_a_killed_run_is_completed_by_the_next(
    store: Store,
    images: Path,
    baseline_lake: Path,
    tmp_path: Path,
    route: Route,
    capsys: pytest.CaptureFixture[str],
) -> None:
    source, lake = upload(images, store), f"{store.root}/lake"
    run = start(source, lake)
    placed = partial(storage_of(lake).list_below, f"{lake}/objects")
    while run.poll() is None and not next(placed(), None):
        time.sleep(0.02)
    store.fault("^(POST|PUT)", status=503)  # keeps it from ending before it is killed
    assert run.poll() is None, run.communicate()
    os.killpg(run.pid, signal.SIGKILL)
    run.communicate()
    store.clear_faults()
    summary = route("--lake", lake, inputs=(source,))
    assert summary["counts"]["recovered"] > 0
    copy = store.download(tmp_path / "copy", "lake")
    assert soak.objects_of(copy) == soak.objects_of(baseline_lake)
    assert decisions(copy, source) == decisions(baseline_lake, str(images))
    assert verified(lake, capsys)["journal_files"] == 0


def test_two_concurrent_runs_give_one_lake(
    store: Store,
    images: Path,
    baseline_lake: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """They overlap only by chance; the next test forces it."""
    source, lake = upload(images, store), f"{store.root}/lake"
    ended = [run.communicate() for run in [start(source, lake), start(source, lake)]]
    summaries = [json.loads(out) for out, _ in ended]
    assert sorted(s["counts"]["unchanged"] for s in summaries) == [0, OBJECTS]
    copy = store.download(tmp_path / "copy", "lake")
    assert decisions(copy, source) == decisions(baseline_lake, str(images))
    verified(lake, capsys)


def test_a_run_reports_that_it_waits_for_another(store: Store, images: Path) -> None:
    lake = f"{store.root}/lake"
    with lock_lake(Layout(lake), lambda: pytest.fail("no other run holds the lake")):
        run = start(str(images), lake)
        assert run.stderr is not None
        lines = iter(run.stderr.readline, b"")
        assert any(b"waiting for it to finish" in line for line in lines)
        assert run.poll() is None
        assert not [name for name in store.read_all() if "/objects/" in name]
    out, _ = run.communicate()
    assert json.loads(out)["counts"]["discovered"] == OBJECTS
