"""The DAG, parsed and run by a real Airflow with the real router.

Kubernetes and Dataflow are not run: their parameters are checked against the router's parser, the
metadata of the template and the API of Dataflow.
"""

from __future__ import annotations

import ast
import json
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from pydicom.data import get_testdata_file

from pipeline import runners
from pipeline.cli import parse
from pipeline.cli.resolve_config import route_config
from pipeline.exit_codes import DONE, UNEXPECTED, USAGE
from tests.conftest import Lake
from tests.engines.dataflow_api import TARGET, definitions, problems, validate
from transforms.core.option import BATCH
from transforms.core.reasons import FORGOTTEN, TERMS
from transforms.lake.layout import Layout
from transforms.lake.verify import verify_lake

ROOT = Path(__file__).parents[2]
DAG_FILE = ROOT / "templates" / "airflow" / "dicom_router.py"
PYTHON = ROOT / "build" / "airflow" / "bin" / "python"
OBJECTS = ("RG1_UNCR.dcm", "RG3_UNCR.dcm")
INGEST_DATE = "{{ (dag_run.data_interval_start or dag_run.run_after) | ds }}"
ALERT = "ops@hospital.test"
SETTINGS = {
    "IMAGE": "europe-west4-docker.pkg.dev/p/dicom/dicom-router@sha256:0",
    "PROJECT": "p",
    "REGION": "europe-west4",
    "TEMPLATE": "gs://temp/templates/batch.json",
    "TEMP_LOCATION": "gs://temp/dataflow",
    "SERVICE_ACCOUNT": "dicom-router-worker@p.iam.gserviceaccount.com",
    "SUBNETWORK": "regions/europe-west4/subnetworks/s",
    "ACCELERATOR": "type:nvidia-l4;count:1;install-nvidia-driver",
    "ALERT_EMAIL": ALERT,
}

pytestmark = [
    pytest.mark.engine,
    pytest.mark.slow,
    pytest.mark.skipif(not PYTHON.exists(), reason="needs Airflow: run 'make airflow'"),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("airflow")


@pytest.fixture(scope="module")
def found(folder: Path) -> dict[str, Any]:
    """What Airflow found in the DAG, and how two runs of it ended."""
    for name in ("dags", "in", "home"):
        (folder / name).mkdir()
    shutil.copy(DAG_FILE, folder / "dags")
    for name in OBJECTS:
        source = get_testdata_file(name, download=False)
        assert source
        shutil.copy(source, folder / "in")
    router = folder / "dicom-router"
    python = f"PYTHONPATH={shlex.quote(str(ROOT))} exec {shlex.quote(sys.executable)}"
    router.write_text(f'#!/bin/sh\n{python} -m pipeline "$@"\n')
    router.chmod(0o755)
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}
    environment = {
        **kept,
        **{f"DICOM_ROUTER_{name}": value for name, value in SETTINGS.items()},
        "AIRFLOW_HOME": str(folder / "home"),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__CORE__DAGS_FOLDER": str(folder / "dags"),
        "AIRFLOW__CORE__DAGBAG_IMPORT_TIMEOUT": "600",
        "DICOM_ROUTER_INPUT": str(folder / "in"),
        "DICOM_ROUTER_COMMAND": str(router),
        "LAKE": str(folder / "lake"),
    }
    script = Path(__file__).with_name("run_dags.py")
    command = [str(PYTHON), str(script), str(folder / "dags"), str(folder / "found.json")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, cwd=folder)
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-5000:]
    result: dict[str, Any] = json.loads((folder / "found.json").read_text())
    return result


def test_a_night_is_routed_into_the_partition_of_its_data_interval(
    found: dict[str, Any], folder: Path
) -> None:
    assert found["complete"] == {
        "state": "success",
        "tasks": dict.fromkeys(("route", "check_equation", "check_expectations"), "success"),
    }
    rows = Lake(folder / "lake").rows()
    assert len(rows) == len(OBJECTS)
    assert {str(row["ingest_date"]) for row in rows} == {"2026-11-29"}
    assert verify_lake(Layout(str(folder / "lake")), deep=True).holds


def test_the_index_is_an_asset_that_a_balanced_run_updates(
    found: dict[str, Any], folder: Path
) -> None:
    (event,) = found["events"]
    assert event["uri"] == f"file://{folder}/lake/index"
    assert event["extra"]["discovered"] == event["extra"]["routed"] == len(OBJECTS)
    assert event["extra"]["run_id"] in {path.stem for path in (folder / "lake/runs").glob("*.json")}


def test_an_unbalanced_equation_fails_the_run_and_alerts(found: dict[str, Any]) -> None:
    assert found["unbalanced"] == {
        "state": "failed",
        "tasks": {
            "route": "success",
            "check_equation": "failed",
            "check_expectations": "upstream_failed",
        },
    }
    assert found["mails_before"] == 0
    mail, _ = found["mails"]
    assert f"To: {ALERT}" in mail
    assert "check_equation of dicom_router_nightly" in mail


def test_a_usage_error_is_not_tried_again_and_alerts(found: dict[str, Any]) -> None:
    """A code of 3, with which the run before ended, is none."""
    assert found["usage_error"]["tasks"]["route"] == "failed"
    _, mail = found["mails"]
    assert "route of dicom_router_nightly" in mail


@pytest.mark.parametrize(
    ("engine", "operator"),
    [
        ("local", "_PythonDecoratedOperator"),
        ("kubernetes", "KubernetesPodOperator"),
        ("dataflow", "DataflowStartFlexTemplateOperator"),
    ],
)
def test_the_dag_of_an_engine(found: dict[str, Any], engine: str, operator: str) -> None:
    dag = found[engine]
    assert (dag["max_active_runs"], dag["catchup"]) == (1, False)
    assert dag["timetable"] == "CronDataIntervalTimetable"
    tasks = dag["tasks"]
    assert tasks["route"]["operator"] == operator
    assert {name: task["downstream"] for name, task in tasks.items()} == {
        "route": ["check_equation"],
        "check_equation": ["check_expectations"],
        "check_expectations": [],
    }
    assert [task["retries"] for task in tasks.values()] == [3, 0, 0]
    assert all(task["alerts"] == 1 for task in tasks.values())
    assert [len(task["outlets"]) for task in tasks.values()] == [0, 1, 0]
    if engine != "local":
        assert dag["deferrable"] is True
        assert tasks["check_equation"]["outlets"] == ["gs://hospital/lake/index"]


def test_the_pod_runs_the_router_with_arguments_that_it_accepts(found: dict[str, Any]) -> None:
    dag = found["kubernetes"]
    assert INGEST_DATE in " ".join(dag["arguments"])
    given = [one.replace(INGEST_DATE, "2026-11-29") for one in dag["arguments"]]
    config = route_config(parse(given))
    config.check()
    assert (config.ingest_date, config.allow_empty, config.lock_timeout) == (
        "2026-11-29",
        True,
        3600,
    )
    assert "'read_only_root_filesystem': True" in dag["security"]
    assert "'allow_privilege_escalation': False" in dag["security"]


@pytest.mark.parametrize(("code", "expected"), [(0, 0), (1, 1), (2, 1), (3, 0)])
def test_the_pod_fails_unless_the_run_is_complete(
    found: dict[str, Any], tmp_path: Path, code: int, expected: int
) -> None:
    """A run that is complete, but not as the policy expects, is not run again."""
    router = tmp_path / "dicom-router"
    router.write_text(f'#!/bin/sh\ntest "$1 $2" = "route --x y" || exit 9\nexit {code}\n')
    router.chmod(0o755)
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    command = [*found["kubernetes"]["cmds"], "route", "--x y"]
    assert subprocess.run(command, env=environment).returncode == expected


def test_dataflow_is_launched_with_parameters_of_the_batch_template(
    found: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runners, "is_installed", lambda module: True)
    dag = found["dataflow"]
    validate(dag["body"], "LaunchFlexTemplateRequest")
    launched = dag["body"]["launchParameter"]
    given = launched["parameters"]
    assert given["ingest_date"] == INGEST_DATE
    given["ingest_date"] = "2026-11-29"
    given["input"] = "gs://hospital/in"  # the fixture's is local
    assert problems(BATCH, given) == []
    assert given["accelerator"] == SETTINGS["ACCELERATOR"]
    assert launched["environment"]["ipConfiguration"] == "WORKER_IP_PRIVATE"
    assert launched["jobName"] == "dicom-router-nightly"
    assert dag["append_job_name"] is False, "Dataflow refuses two active jobs of a name"


def test_the_schema_of_the_api_is_that_of_googles_client() -> None:
    (document,) = PYTHON.parents[1].glob(
        "lib/python*/site-packages/googleapiclient/discovery_cache/documents/dataflow.v1b3.json"
    )
    assert json.loads(TARGET.read_text()) == definitions(document)


def test_the_dag_has_the_terms_and_exit_codes_of_the_router() -> None:
    """It cannot import them: the router is in another environment."""
    values = {
        target.id: ast.literal_eval(node.value)
        for node in ast.parse(DAG_FILE.read_text()).body
        if isinstance(node, ast.Assign) and not isinstance(node.value, ast.Call | ast.JoinedStr)
        for target in ast.walk(node)
        if isinstance(target, ast.Name) and target.id == "TERMS"
    }
    assert values == {"TERMS": (*TERMS, FORGOTTEN)}
    assert (
        f"COMPLETE, USAGE_ERROR, UNEXPECTED = {DONE}, {USAGE}, {UNEXPECTED}" in DAG_FILE.read_text()
    )
