"""A run exports the same numbers as a text file, by OTLP and as OpenLineage events."""

from __future__ import annotations

import json
import socket
import stat
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pipeline.cli import main
from pipeline.observability.lineage import datasets_of
from pipeline.observability.metric_table import METRICS
from pipeline.observability.observer import observer_of
from tests.conftest import Lake, route_into, write
from tests.graphs import config_of
from tests.observability.collectors import collector
from tests.observability.conftest import FILE_NAME, Observed, values_of
from tests.test_imports import MODULES, imported
from transforms.config.monitoring_options import MonitoringOptions
from transforms.core.reasons import TERMS
from transforms.lake.layout import Layout
from transforms.storage.extras import how_to_install

CLIENTS = ("prometheus_client", "opentelemetry", "openlineage")
ENVIRONMENT = (
    "OTEL_EXPORTER_OTLP_ENDPOINT", "OPENLINEAGE_URL", "OPENLINEAGE_CONFIG",
    "OPENLINEAGE__TRANSPORT__TRANSPORTS__DEFAULT_HTTP__URL",
    "OPENLINEAGE__TRANSPORT__TRANSPORTS__DEFAULT_HTTP__TYPE",
)  # fmt: skip


@pytest.fixture
def env(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """The environment without a collector; what the OpenLineage client adds to it is removed."""
    for name in ENVIRONMENT:
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    return monkeypatch


def events_in(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()]


def test_the_text_file_has_the_counts_of_the_summary(observed: Observed) -> None:
    values, summary = observed.values, observed.summary
    common = (("kind", "route"), ("lake", observed.lake_id))
    terms = {
        dict(labels)["term"]: value for labels, value in values["dicom_router_run_objects"].items()
    }
    assert terms == {term: summary["counts"][term] for term in TERMS}
    assert (
        values["dicom_router_run_discovered_objects"]
        == {common: 4}
        == {common: sum(terms.values())}
    )
    assert values["dicom_router_run_complete"] == {common: 1}
    assert values["dicom_router_run_duration_seconds"] == {common: summary["duration_s"]}
    assert (
        values["dicom_router_run_success_timestamp_seconds"]
        == values["dicom_router_run_end_timestamp_seconds"]
    )
    destinations = {
        dict(labels)["destination"]: value
        for labels, value in values["dicom_router_run_destination_objects"].items()
    }
    assert destinations == summary["destinations"]
    fetched = values["dicom_router_step_executions_total"][
        (("lake", observed.lake_id), ("step", "fetch"))
    ]
    assert fetched == summary["metrics"]["distributions"]["fetch_ms"]["count"] == 4


def test_the_text_file_is_replaced_at_once_and_readable_by_all(observed: Observed) -> None:
    assert stat.S_IMODE(observed.file.stat().st_mode) == 0o644
    assert sorted(p.name for p in observed.folder.iterdir()) == [
        observed.file.name, "lake", "source",
    ]  # fmt: skip
    assert observed.text.endswith("\n")


def test_only_documented_metrics_and_values_of_closed_lists_are_exported(
    observed: Observed,
) -> None:
    names = {metric.prometheus_name for metric in METRICS}
    assert observed.values.keys() <= names
    assert "unknown" not in observed.text


def test_otlp_has_the_values_of_the_text_file(observed: Observed) -> None:
    sent = observed.collector.metrics()
    by_name = {metric.prometheus_name: metric.otlp_name for metric in METRICS}
    varying = ("storage", "timestamp")
    for name, values in observed.values.items():
        if not any(one in name for one in varying):
            assert sent[by_name[name]] == values, name
    resource = observed.collector.resource()
    assert resource["service.name"] == "dicom-router"
    assert resource["deployment.environment"] == "test"


def test_spans_of_the_stages_are_children_of_that_of_the_run(observed: Observed) -> None:
    spans = {span.name: span for span in observed.collector.spans()}
    root = spans.pop("route")
    assert not root.parent_span_id
    assert set(spans) == {"lock", "prepare", "pipeline"}
    for span in spans.values():
        assert (span.trace_id, span.parent_span_id) == (root.trace_id, root.span_id)
        assert root.start_time_unix_nano <= span.start_time_unix_nano
        assert span.end_time_unix_nano <= root.end_time_unix_nano
    run_id = {one.key: one.value.string_value for one in root.attributes}["dicom_router.run_id"]
    assert run_id == observed.summary["run_id"]


def test_lineage_has_the_datasets_and_the_equation(observed: Observed) -> None:
    start, end = observed.collector.events()
    assert (start["eventType"], end["eventType"]) == ("START", "COMPLETE")
    assert start["run"]["runId"] == end["run"]["runId"]
    for event in (start, end):
        assert event["job"]["name"] == "route.lake"
        (read,), (written,) = event["inputs"], event["outputs"]
        assert (read["namespace"], read["name"]) == ("file", str(observed.folder / "source"))
        assert written["name"] == str(observed.folder / "lake" / "index")
    facet = end["run"]["facets"]["dicom_router_completeness"]
    assert facet["equation"] == observed.summary["equation"]
    assert facet["runId"] == observed.summary["run_id"]
    assert facet["counts"] == observed.summary["counts"]
    (written,) = end["outputs"]
    assert written["outputFacets"]["outputStatistics"]["rowCount"] == 4
    columns = {field["name"] for field in written["facets"]["schema"]["fields"]}
    assert {"source_uri", "content_sha256", "ingest_date"} <= columns


def test_no_output_has_patient_data_or_names_of_files(observed: Observed) -> None:
    posted = b"".join(body for bodies in observed.collector.posted.values() for body in bodies)
    assert observed.collector.posted.keys() == {"/v1/metrics", "/v1/traces", "/api/v1/lineage"}
    for text in (observed.text.encode(), posted):
        assert b"DOE" not in text
        assert FILE_NAME.encode() not in text
        assert b".dcm" not in text


def test_an_incomplete_run_keeps_the_time_of_the_last_complete_one(
    observed: Observed, env: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    log = tmp_path / "events.jsonl"
    config = write(
        tmp_path, "openlineage.yml",
        f"transport: {{type: file, log_file_path: {log}, append: true}}\n".encode(),
    )  # fmt: skip
    env.setenv("OPENLINEAGE_CONFIG", str(config))
    listed = write(tmp_path, "list.txt", f"{tmp_path}/{FILE_NAME}\n".encode())
    file = tmp_path / "second.prom"
    route_into(
        Lake(observed.folder / "lake"), "--source=manifest", "--metrics_file", str(file), "--lineage",
        inputs=(str(listed),), expect=1,
    )  # fmt: skip
    values = values_of(file.read_text())
    common = (("kind", "route"), ("lake", observed.lake_id))
    assert values["dicom_router_run_complete"] == {common: 0}
    assert values["dicom_router_run_failed_objects"] == {common: 1}
    assert values["dicom_router_failures_total"] == {
        (("lake", observed.lake_id), ("reason", "disappeared")): 1
    }
    name = "dicom_router_run_success_timestamp_seconds"
    assert values[name] == observed.values[name]
    start, end = events_in(log)
    assert (start["eventType"], end["eventType"]) == ("START", "FAIL")
    assert "1 failed" in end["run"]["facets"]["errorMessage"]["message"]
    assert FILE_NAME not in log.read_text() + file.read_text()


def test_collectors_that_refuse_or_never_answer_do_not_fail_a_run(
    observed: Observed, env: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with collector() as refusing, socket.create_server(("127.0.0.1", 0)) as silent:
        refusing.status = 400
        env.setenv("OPENLINEAGE_URL", refusing.url)
        port = silent.getsockname()[1]
        env.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{port}")
        env.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "1")
        source = str(observed.folder / "source")
        summary = route_into(
            Lake(observed.folder / "lake"), "--otlp", "--lineage", inputs=(source,)
        )
        assert len(refusing.events()) == 2
    assert summary["complete"]
    assert sorted(record.message.partition(":")[0] for record in caplog.records) == [
        "OTLP", "OpenLineage",
    ], "one warning each"  # fmt: skip


@pytest.mark.parametrize("how", ["an exception", "a signal"])
def test_a_run_that_raises_or_is_interrupted_names_no_message(
    how: str, env: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    log, file = tmp_path / "events.jsonl", tmp_path / "run.prom"
    env.setenv("OPENLINEAGE__TRANSPORT__TYPE", "file")
    env.setenv("OPENLINEAGE__TRANSPORT__LOG_FILE_PATH", str(log))
    env.setenv("OPENLINEAGE__TRANSPORT__APPEND", "true")
    layout = Layout(str(tmp_path / "lake"))
    config = replace(config_of(), layout=layout, inputs=(f"{tmp_path}/{FILE_NAME}.dcm",))
    options = MonitoringOptions(metrics_file=file, lineage=True)
    observer = observer_of(config, options, "route", "DirectRunner")
    if how == "a signal":
        with observer:
            observer.started()
            observer.aborted()
    else:
        with pytest.raises(RuntimeError), observer:
            observer.started()
            raise RuntimeError(FILE_NAME)
        values = values_of(file.read_text())
        assert values["dicom_router_run_complete"] == {(("kind", "route"),): 0}
        assert "dicom_router_run_success_timestamp_seconds" not in values
        assert FILE_NAME not in file.read_text()
    start, end = events_in(log)
    assert start["eventType"] == "START"
    assert end["eventType"] == ("ABORT" if how == "a signal" else "FAIL")
    error = "KeyboardInterrupt" if how == "a signal" else "RuntimeError"
    assert end["run"]["facets"]["errorMessage"]["message"] == error
    assert FILE_NAME not in log.read_text()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--metrics_address", "0.0.0.0"], "--metrics_address needs --metrics_port"),
        (["--metrics_address", "lake", "--metrics_port", "0"], "write an IP address"),
        (["--metrics_port", "70000"], "must be in 0..65535"),
        (["--metrics_file", "/tmp/metrics.txt"], "end in .prom only"),
        (["--lineage"], "set OPENLINEAGE_URL"),
    ],
    ids=["address-alone", "address", "port", "suffix", "lineage"],
)
def test_options_that_cannot_be_used_are_refused_before_anything_runs(
    options: list[str], message: str, env: pytest.MonkeyPatch, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    env.setenv("HOME", str(tmp_path))
    env.chdir(tmp_path)
    source = write(tmp_path, "a.dcm", b"x")
    assert main(["route", "--input", str(source), "--lake", str(tmp_path / "lake"), *options]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "lake").exists()


@pytest.mark.parametrize(
    "option", ["--otlp", "--lineage", "--metrics_port=0", "--metrics_file=x.prom"]
)
def test_a_missing_extra_is_named(
    option: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("transforms.config.monitoring_options.is_installed", lambda module: False)
    source = write(tmp_path, "a.dcm", b"x")
    assert main(["route", "--input", str(source), "--lake", str(tmp_path / "lake"), option]) == 2
    assert how_to_install("observability") in capsys.readouterr().err


def test_otlp_over_grpc_is_refused(
    env: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    env.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")
    source = write(tmp_path, "a.dcm", b"x")
    assert main(["route", "--input", str(source), "--lake", str(tmp_path / "lake"), "--otlp"]) == 2
    assert "only http/protobuf is supported" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("inputs", "found"),
    [
        (["{}/in/DOE_JANE.dcm"], [("file", "{}/in")]),
        (["{}/in/DOE*"], [("file", "{}/in")]),
        (["{}/in/a", "{}/in/b"], [("file", "{}/in")]),
        (["gs://hospital/incoming/DOE_JANE"], [("gs://hospital", "incoming")]),
        (["gs://hospital/incoming/"], [("gs://hospital", "incoming")]),
        (["s3://b/x/1/*.dcm", "s3://b/x/2/"], [("s3://b", "x")]),
        (["gs://hospital"], [("gs://hospital", "/")]),
        (["projects/p/subscriptions/s"], [("pubsub", "subscription:p:s")]),
        (["dicomweb+https://user:secret@pacs/dicom-web"], [("dicomweb+https://pacs", "/")]),
    ],
)
def test_datasets_are_folders_and_never_files(
    inputs: list[str], found: list[tuple[str, str]], tmp_path: Path
) -> None:
    for name in ("a", "b"):
        write(tmp_path, f"in/{name}/1", b"")
    root = str(tmp_path)
    assert datasets_of([one.format(root) for one in inputs]) == [
        (namespace, name.format(root)) for namespace, name in found
    ]


def test_only_three_modules_import_clients_and_only_when_asked_to() -> None:
    users = {
        module
        for module, path in MODULES.items()
        if any(name.split(".")[0] in CLIENTS for name in imported(path))
    }
    own = {f"pipeline.observability.{name}" for name in ("prometheus", "otlp", "lineage")}
    assert users == own
    code = (
        "import sys, pipeline.observability.observer, pipeline.receive.metrics; "
        f"print([one for one in {CLIENTS!r} if one in sys.modules])"
    )
    command = [sys.executable, "-c", code]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "[]\n"


def test_reroute_exports_what_it_has_changed(
    observed: Observed, env: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with collector() as found:
        env.setenv("OPENLINEAGE_URL", found.url)
        policy = write(tmp_path, "policy.yaml", b"min_long_side: 500\n")
        lake, file = observed.folder / "lake", tmp_path / "reroute.prom"
        command = ["reroute", str(lake), "--policy", str(policy), "--quiet", "--lineage"]
        command += ["--metrics_file", str(file)]
        assert main(command) == 0
        assert not file.exists() and not found.events(), "nothing was applied"
        assert main([*command, "--apply"]) == 0
        start, end = found.events()
    assert (start["eventType"], end["eventType"]) == ("START", "COMPLETE")
    assert end["job"]["name"] == "reroute.lake"
    values = values_of(file.read_text())
    common = (("kind", "reroute"), ("lake", observed.lake_id))
    assert values["dicom_router_run_complete"] == {common: 1}
    reasons = values["dicom_router_run_reason_objects"]
    assert sum(reasons.values()) > 0
    assert {dict(labels)["reason"] for labels in reasons} == {"too_small"}
    assert main(["verify", str(lake), "--deep"]) == 0
