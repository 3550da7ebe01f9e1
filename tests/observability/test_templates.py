"""Alerting rules and dashboard name metrics that exist, and Prometheus accepts them."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipeline.observability.metric_table import LABEL_VALUES, METRICS
from tests.observability.conftest import Observed

ROOT = Path(__file__).parents[2]
TEMPLATES = ROOT / "templates" / "observability"
DASHBOARD = TEMPLATES / "grafana" / "dicom-router.json"
NAME = re.compile(r"dicom_router[_:][a-z_:]+")
MATCHER = re.compile(r'(\w+)\s*(?:=~|!~|!=|=)\s*"([^"]*)"')
PROMTOOL = next(
    (str(p) for p in [ROOT / "build/bin/promtool"] if p.exists()), shutil.which("promtool")
)
needs_promtool = pytest.mark.skipif(PROMTOOL is None, reason="no promtool: run 'make promtool'")


def rules() -> list[dict[str, Any]]:
    groups = yaml.safe_load((TEMPLATES / "alerts.yml").read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


def panels() -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(DASHBOARD.read_text())["panels"]
    return found


def expressions() -> Iterator[str]:
    yield from (rule["expr"] for rule in rules())
    yield from (target["expr"] for panel in panels() for target in panel.get("targets", ()))


def promtool(*arguments: str | Path, text: str | None = None) -> str:
    command = [str(PROMTOOL), *map(str, arguments)]
    done = subprocess.run(command, input=text, capture_output=True, text=True, cwd=TEMPLATES)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.mark.parametrize(
    "file", ["alerts.yml", "alerts.test.yml", "grafana/dicom-router.json"], ids=lambda f: f
)
def test_every_metric_exists(file: str) -> None:
    exist = {metric.prometheus_name for metric in METRICS}
    exist |= {rule["record"] for rule in rules() if "record" in rule}
    named = set(NAME.findall((TEMPLATES / file).read_text()))
    assert named
    assert not named - exist


def test_every_metric_is_in_the_generated_table() -> None:
    page = (ROOT / "docs" / "metrics.md").read_text()
    for metric in METRICS:
        assert f"| `{metric.prometheus_name}` | {metric.kind} |" in page


def test_every_label_and_value_exists() -> None:
    labels = {one for metric in METRICS for one in metric.labels} | {"lake", "job"}
    compared = [found for text in expressions() for found in MATCHER.findall(text)]
    assert compared
    for label, values in compared:
        assert label in labels, label
        if label in LABEL_VALUES:
            assert set(values.split("|")) <= set(LABEL_VALUES[label]), values


def test_every_alert_has_a_severity_and_a_test_in_which_it_fires() -> None:
    alerts = {rule["alert"] for rule in rules() if "alert" in rule}
    tests = yaml.safe_load((TEMPLATES / "alerts.test.yml").read_text())["tests"]
    fired = {
        one["alertname"]
        for test in tests
        for one in test.get("alert_rule_test", ())
        if one["exp_alerts"]
    }
    fired |= {
        name
        for test in tests
        for one in test.get("promql_expr_test", ())
        if one["exp_samples"]
        for name in re.findall(r'alertname="(\w+)"', one["expr"])
    }
    assert fired == alerts
    for rule in rules():
        if "alert" in rule:
            assert rule["labels"]["severity"] in ("warning", "critical")


@pytest.mark.parametrize(
    "file", sorted(ROOT.glob("templates/*/prometheus.yml")), ids=lambda file: file.parent.name
)
def test_scrape_configurations_have_the_jobs_of_the_alerts(file: Path) -> None:
    jobs = {one["job_name"] for one in yaml.safe_load(file.read_text())["scrape_configs"]}
    assert {
        value for label, value in MATCHER.findall(" ".join(expressions())) if label == "job"
    } <= jobs


def test_runbooks_of_alerts_are_sections_of_the_docs() -> None:
    books = {rule["annotations"].get("runbook") for rule in rules() if "alert" in rule} - {None}
    for book in books:
        page, _, anchor = book.partition("#")
        titles = re.findall(r"^#+ (.+)$", (ROOT / page).read_text(), re.M)
        anchors = {re.sub(r"[^\w -]", "", title).lower().replace(" ", "-") for title in titles}
        assert anchor in anchors, book


def test_panels_have_their_own_ids_and_places() -> None:
    found = panels()
    assert len({panel["id"] for panel in found}) == len(found)
    cells: set[tuple[int, int]] = set()
    for panel in found:
        at = panel["gridPos"]
        own = {(at["x"] + x, at["y"] + y) for x in range(at["w"]) for y in range(at["h"])}
        assert not cells & own, panel["title"]
        assert at["x"] + at["w"] <= 24
        cells |= own
        for target in panel.get("targets", ()):
            assert target["datasource"] == {"type": "prometheus", "uid": "${datasource}"}


@needs_promtool
def test_prometheus_accepts_rules_and_configuration() -> None:
    assert f"{len(rules())} rules found" in promtool("check", "rules", "alerts.yml")
    assert "is valid prometheus config file" in promtool("check", "config", "prometheus.yml")


@needs_promtool
def test_alerts_fire_when_they_should() -> None:
    assert "SUCCESS" in promtool("test", "rules", "alerts.test.yml")


@needs_promtool
def test_prometheus_accepts_the_expressions_of_the_dashboard(tmp_path: Path) -> None:
    found = [target["expr"] for panel in panels() for target in panel.get("targets", ())]
    written = [
        {"record": f"panel:{number}", "expr": text.replace("$__rate_interval", "5m")}
        for number, text in enumerate(found)
    ]
    file = tmp_path / "dashboard.yml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "dashboard", "rules": written}]}))
    assert f"{len(found)} rules found" in promtool("check", "rules", file)


@needs_promtool
def test_prometheus_accepts_what_a_run_exports(observed: Observed) -> None:
    assert promtool("check", "metrics", text=observed.text) == ""
