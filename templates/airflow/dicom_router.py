"""Route the objects of each night into a lake, with Airflow 3.

Copy this file into the DAG folder. One DAG, whose first task runs on the worker of Airflow (`local`), as
a pod (`kubernetes`) or from the flex template (`dataflow`); variables of the environment configure it, as
docs/deploy/airflow.md lists. The ingest date is the start of the data interval, so that a run repeated
for a night writes to the same partition. The asset, which other DAGs can wait for, is updated once every
object is accounted for.
"""

from __future__ import annotations

import json
import os
import subprocess
from datetime import UTC, datetime, timedelta
from typing import Any

from airflow.sdk import (
    DAG,
    Asset,
    CronDataIntervalTimetable,
    ObjectStoragePath,
    get_current_context,
    task,
)
from airflow.sdk.exceptions import AirflowException, AirflowFailException

LOCAL, KUBERNETES, DATAFLOW = "local", "kubernetes", "dataflow"
PREFIX = "DICOM_ROUTER_"
COMPLETE, USAGE_ERROR, UNEXPECTED = 0, 2, 3
"""Exit codes of the router: complete; not started; complete, but not as the policy expects."""
TERMS = ("routed", "review", "not_xray", "quarantined", "duplicate", "unchanged", "forgotten")
"""Terms of the completeness equation: discovered = routed + review + …"""
INGEST_DATE = "{{ (dag_run.data_interval_start or dag_run.run_after) | ds }}"


def setting(name: str, default: str | None = None) -> str:
    """Return a variable of the environment."""
    value = os.environ.get(PREFIX + name, default)
    if value is None:
        raise AirflowException(f"set {PREFIX}{name}; see docs/deploy/airflow.md")
    return value


ENGINE = setting("ENGINE", LOCAL)
INPUT, LAKE = setting("INPUT"), setting("LAKE")
POLICY, IMAGE = setting("POLICY", ""), setting("IMAGE", "")
ALERT_EMAIL = setting("ALERT_EMAIL", "")
INDEX = Asset(
    name="dicom_router_index",
    uri=f"{LAKE}/index" if "://" in LAKE else f"file://{LAKE}/index",
    group="radiographs",
)


def route_arguments(ingest_date: str) -> list[str]:
    """Return the arguments of `dicom-router` for a process that waits for the end of the run."""
    given = {"input": INPUT, "lake": LAKE, "ingest_date": ingest_date, "lock_timeout": "3600"}
    given |= {"policy": POLICY} if POLICY else {}
    return ["route", *(f"--{name}={value}" for name, value in given.items()), "--allow_empty"]


def flex_template_body(ingest_date: str) -> dict[str, Any]:
    """Return the request that launches the batch template.

    The name of the job is the same every night: Dataflow refuses a second active job of a name, which
    prevents runs that overlap.
    """
    parameters = {
        "input": INPUT,
        "lake": LAKE,
        "ingest_date": ingest_date,
        "allow_empty": "true",
        "sdk_container_image": IMAGE,
    }
    parameters |= {"policy": POLICY} if POLICY else {}
    environment: dict[str, Any] = {
        "tempLocation": setting("TEMP_LOCATION"),
        "stagingLocation": setting("TEMP_LOCATION"),
        "serviceAccountEmail": setting("SERVICE_ACCOUNT"),
        "subnetwork": setting("SUBNETWORK"),
        "ipConfiguration": "WORKER_IP_PRIVATE",
        "machineType": setting("MACHINE_TYPE", "n2-standard-4"),
        "maxWorkers": int(setting("MAX_WORKERS", "10")),
    }
    if accelerator := setting("ACCELERATOR", ""):
        parameters["accelerator"] = accelerator
    return {
        "launchParameter": {
            "jobName": "dicom-router-nightly",
            "containerSpecGcsPath": setting("TEMPLATE"),
            "parameters": parameters,
            "environment": environment,
        }
    }


def local_task() -> Any:
    """Return the task that runs the router on the worker of Airflow."""

    @task(task_id="route")
    def route(ingest_date: str) -> None:
        """Run the router; a usage error is final, an incomplete run is tried again."""
        command = [setting("COMMAND", "dicom-router"), *route_arguments(ingest_date), "--quiet"]
        code = subprocess.run(command, check=False).returncode
        if code == USAGE_ERROR:
            raise AirflowFailException("the router did not start; the log says what to correct")
        if code not in (COMPLETE, UNEXPECTED):
            raise AirflowException(f"the router ended with {code}; the next try completes the run")

    return route(INGEST_DATE)


def kubernetes_task() -> Any:
    """Return the task that runs the router as a pod."""
    from airflow.providers.cncf.kubernetes.operators.pod import KubernetesPodOperator
    from kubernetes.client import models as k8s

    return KubernetesPodOperator(
        task_id="route",
        name="dicom-router",
        namespace=setting("NAMESPACE", "dicom-router"),
        image=IMAGE,
        # Expectations that are not met are another task's alert, and no reason to run again.
        cmds=["sh", "-c", f'dicom-router "$@" || test $? -eq {UNEXPECTED}', "dicom-router"],
        arguments=[*route_arguments(INGEST_DATE), "--quiet"],
        service_account_name=setting("SERVICE_ACCOUNT", "dicom-router"),
        automount_service_account_token=False,
        container_resources=k8s.V1ResourceRequirements(
            requests={"cpu": "2", "memory": "4Gi"}, limits={"memory": "4Gi"}
        ),
        security_context=k8s.V1PodSecurityContext(run_as_non_root=True, fs_group=10001),
        container_security_context=k8s.V1SecurityContext(
            allow_privilege_escalation=False,
            read_only_root_filesystem=True,
            capabilities=k8s.V1Capabilities(drop=["ALL"]),
        ),
        volumes=[k8s.V1Volume(name="tmp", empty_dir=k8s.V1EmptyDirVolumeSource())],
        volume_mounts=[k8s.V1VolumeMount(name="tmp", mount_path="/tmp")],
        on_finish_action="delete_succeeded_pod",
        get_logs=True,
        deferrable=True,
    )


def dataflow_task() -> Any:
    """Return the task that launches the flex template and waits for the job without a worker slot."""
    from airflow.providers.google.cloud.operators.dataflow import DataflowStartFlexTemplateOperator

    return DataflowStartFlexTemplateOperator(
        task_id="route",
        project_id=setting("PROJECT"),
        location=setting("REGION"),
        body=flex_template_body(INGEST_DATE),
        append_job_name=False,
        expected_terminal_state="JOB_STATE_DONE",
        deferrable=True,
    )


def latest_summary(ingest_date: str) -> dict[str, Any]:
    """Return the summary of the last run for an ingest date, complete or not.

    Names of summaries sort by time.
    """
    runs = ObjectStoragePath(LAKE) / "runs"
    found = [
        path
        for folder in (runs, runs / "incomplete")
        if folder.exists()
        for path in folder.iterdir()
        if path.name.endswith(".json")
    ]
    for path in sorted(found, key=lambda path: path.name, reverse=True):
        summary: dict[str, Any] = json.loads(path.read_text())
        if summary["options"].get("ingest_date") == ingest_date:
            return summary
    raise AirflowException(f"no run for {ingest_date} has written a summary")


def unbalanced(summary: dict[str, Any]) -> str | None:
    """Return what a run did not account for, or None."""
    counts = summary["counts"]
    if counts["discovered"] == sum(counts.get(term, 0) for term in TERMS) and summary["complete"]:
        return None
    return f"run {summary['run_id']}: {summary['equation']}, {counts['failed']} failed"


@task(outlets=[INDEX], retries=0)
def check_equation(ingest_date: str) -> dict[str, Any]:
    """Fail if an object is not accounted for; otherwise update the asset. Returns the counts."""
    summary = latest_summary(ingest_date)
    if problem := unbalanced(summary):
        raise AirflowFailException(problem)
    counts: dict[str, Any] = summary["counts"]
    get_current_context()["outlet_events"][INDEX].extra = {"run_id": summary["run_id"], **counts}
    return counts


@task(retries=0)
def check_expectations(ingest_date: str) -> None:
    """Fail if the run found something else than the policy expects; the index is complete anyway."""
    summary = latest_summary(ingest_date)
    unmet = [one["text"] for one in summary.get("expectations", ()) if not one["met"]]
    if unmet:
        raise AirflowFailException(f"run {summary['run_id']}: {'; '.join(unmet)}")


def alert(context: Any) -> None:
    """Send a mail about a task that has failed for good; it has counts and ids only.

    The notifier is new for each mail, because it keeps the text of the first.
    """
    if not ALERT_EMAIL:
        return
    from airflow.providers.smtp.notifications.smtp import SmtpNotifier

    text = "{{ ti.task_id }} of {{ dag.dag_id }}, {{ run_id }}: {{ exception }}"
    SmtpNotifier(to=ALERT_EMAIL, subject="DICOM router: " + text, html_content=text)(context)


ROUTE_TASKS = {LOCAL: local_task, KUBERNETES: kubernetes_task, DATAFLOW: dataflow_task}

with DAG(
    dag_id="dicom_router_nightly",
    description="Route the radiographs of each night into the lake",
    schedule=CronDataIntervalTimetable(setting("SCHEDULE", "0 2 * * *"), timezone="UTC"),
    start_date=datetime(2026, 1, 1, tzinfo=UTC),
    catchup=False,  # a run ingests everything that is new, whatever nights were missed
    max_active_runs=1,
    default_args={
        "retries": 3,
        "retry_delay": timedelta(minutes=10),
        "retry_exponential_backoff": True,
        "max_retry_delay": timedelta(hours=1),
        "execution_timeout": timedelta(hours=12),
        "on_failure_callback": alert,
    },
    tags=["dicom", "radiographs"],
):
    ROUTE_TASKS[ENGINE]() >> check_equation(INGEST_DATE) >> check_expectations(INGEST_DATE)
