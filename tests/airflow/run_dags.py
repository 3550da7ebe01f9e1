"""Parse and run the DAG with a real Airflow, in whose environment this runs, without the router.

`python run_dags.py DAGS OUT` reads the DAG for each engine, runs that for `local`, and writes what it
found to a JSON file: a run over the inputs, one whose summary does not balance, and a usage error.
Airflow sends mails to a server in this process.
"""

from __future__ import annotations

import json
import os
import socketserver
import sys
import threading
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

MAILS: list[str] = []
ENGINES = ("kubernetes", "dataflow", "local")


class MailServer(socketserver.StreamRequestHandler):
    """Accept mails by SMTP."""

    def handle(self) -> None:
        self._answer("220 mail")
        while line := self.rfile.readline().decode().strip().upper():
            if line == "DATA":
                self._answer("354 go ahead")
                lines = iter(lambda: self.rfile.readline().decode().rstrip("\r\n"), ".")
                MAILS.append("\n".join(lines))
            self._answer("221 bye" if line == "QUIT" else "250 ok")

    def _answer(self, text: str) -> None:
        self.wfile.write(f"{text}\r\n".encode())


def parse(folder: str) -> Any:
    """Return the only DAG of a folder."""
    from airflow.dag_processing.dagbag import DagBag

    bag = DagBag(dag_folder=folder)
    assert bag.import_errors == {}, bag.import_errors
    assert list(bag.dags) == ["dicom_router_nightly"]
    return bag.dags["dicom_router_nightly"]


def describe(dag: Any) -> dict[str, Any]:
    """Return what a DAG declares, ready for JSON."""
    route = dag.get_task("route")
    return {
        "tasks": {
            task.task_id: {
                "downstream": sorted(task.downstream_task_ids),
                "retries": task.retries,
                "outlets": [outlet.uri for outlet in task.outlets],
                "alerts": len(task.on_failure_callback or ()),
                "operator": task.task_type,
            }
            for task in dag.tasks
        },
        "max_active_runs": dag.max_active_runs,
        "catchup": dag.catchup,
        "timetable": type(dag.timetable).__name__,
        "deferrable": getattr(route, "deferrable", None),
        "append_job_name": getattr(route, "append_job_name", None),
        "body": getattr(route, "body", None),
        "cmds": getattr(route, "cmds", None),
        "arguments": getattr(route, "arguments", None),
        "security": str(getattr(route, "container_security_context", None)),
    }


def run(dag: Any, month: int, day: int) -> dict[str, Any]:
    """Run a DAG for the night that ends on a day, and return the states of its tasks."""
    done = dag.test(logical_date=datetime(2026, month, day, 3, tzinfo=UTC))
    return {
        "state": str(done.state),
        "tasks": {one.task_id: str(one.state) for one in done.get_task_instances()},
    }


def unbalance(lake: Path) -> Path:
    """Write and return the summary of a later run, for the next night, that has lost an object."""
    (latest,) = (lake / "runs").glob("*.json")
    summary = json.loads(latest.read_text())
    summary["run_id"] = "9" + summary["run_id"][1:]
    summary["options"]["ingest_date"] = "2026-11-30"
    summary["counts"]["discovered"] += 1
    path = lake / "runs" / f"{summary['run_id']}.json"
    path.write_text(json.dumps(summary))
    return path


def replace_router(code: int) -> None:
    """Let the DAG run a program that only ends with a code."""
    program = Path(os.environ["AIRFLOW_HOME"], f"exit-{code}")
    program.write_text(f"#!/bin/sh\nexit {code}\n")
    program.chmod(0o755)
    os.environ["DICOM_ROUTER_COMMAND"] = str(program)


def asset_events() -> list[dict[str, Any]]:
    """Return the URIs and additional values of the asset events."""
    from airflow import settings
    from airflow.models.asset import AssetEvent

    assert settings.Session is not None
    with settings.Session() as session:
        return [{"uri": e.asset.uri, "extra": e.extra} for e in session.query(AssetEvent)]


def main(folder: str, out: str) -> None:
    """Write everything to a JSON file."""
    from airflow.utils.db import initdb

    initdb()
    found: dict[str, Any] = {}
    for engine in ENGINES:
        os.environ["DICOM_ROUTER_ENGINE"] = engine
        os.environ["DICOM_ROUTER_LAKE"] = (
            os.environ["LAKE"] if engine == "local" else "gs://hospital/lake"
        )
        dag = parse(folder)
        found[engine] = describe(dag)
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), MailServer) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        port = server.server_address[1]
        os.environ["AIRFLOW_CONN_SMTP_DEFAULT"] = json.dumps(
            {
                "conn_type": "smtp", "host": "127.0.0.1", "port": port,
                "extra": {"disable_ssl": True, "disable_tls": True, "from_email": "airflow@test"},
            }
        )  # fmt: skip
        found["complete"] = run(dag, 11, 30)
        found["mails_before"] = len(MAILS)
        wrong = unbalance(Path(os.environ["LAKE"]))
        replace_router(3)
        found["unbalanced"] = run(dag, 12, 1)
        replace_router(2)
        found["usage_error"] = run(dag, 12, 2)
        wrong.unlink()
        server.shutdown()
    found["events"] = asset_events()
    found["mails"] = MAILS
    Path(out).write_text(json.dumps(found, default=str))


if __name__ == "__main__":
    main(*sys.argv[1:])
