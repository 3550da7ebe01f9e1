"""The compose files: what can be checked without a container engine."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from check_jsonschema.builtin_schemas import get_builtin_schema
from jsonschema import ValidationError
from jsonschema.validators import validator_for

from tests.observability.test_templates import needs_promtool, promtool
from tests.templates.commands import TEMPLATES, check_command

FOLDER = TEMPLATES / "compose"
FILES = sorted(FOLDER.glob("compose*.yaml"))
DOCKERFILE = TEMPLATES / "images" / "Dockerfile"
PAGE = TEMPLATES.parent / "docs" / "deploy" / "compose.md"
VARIABLE = re.compile(r"(?<!\$)\$\{(\w+)(?::([-?])([^}]*))?\}")
ENVIRONMENT = dict(
    line.split("=", 1) for line in (FOLDER / "env.example").read_text().splitlines()
    if line and not line.startswith("#")
)  # fmt: skip
DATA = {"INCOMING", "LAKE_FOLDER", "STORE_FOLDER"}
"""Variables of folders that the page creates, and that containers write to."""
ROUTER = "dicom-router:cpu"


def substituted(text: str, values: dict[str, str]) -> str:
    """Return a text with its variables replaced, as Compose does."""
    return VARIABLE.sub(lambda m: values.get(m[1]) or (m[3] if m[2] == "-" else ""), text)


def loaded(path: Path, values: dict[str, str] | None = None) -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load(substituted(path.read_text(), values or {}))
    return content


def services() -> dict[str, dict[str, Any]]:
    """Return the services of all files; those that only extend another have no image."""
    return {
        name: service
        for path in FILES
        for name, service in loaded(path)["services"].items()
        if "image" in service
    }


each_service = pytest.mark.parametrize("name", sorted(services()))


def test_the_files_match_the_schema() -> None:
    schema = get_builtin_schema("vendor.compose-spec")
    validator = validator_for(schema)(schema)
    for path in FILES:
        validator.validate(yaml.safe_load(path.read_text()))
    wrong = FILES[0].read_text().replace("    read_only: true", "    readonly: true")
    with pytest.raises(ValidationError, match="readonly"):
        validator.validate(yaml.safe_load(wrong))


@each_service
def test_a_service_has_no_privileges(name: str) -> None:
    service = services()[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert int(service["user"].partition(":")[0]) > 0
    assert not service.keys() & {"privileged", "cap_add", "devices", "pid", "network_mode"}
    assert re.search(r":[^/]+$", service["image"]), "an image needs a tag"
    assert ":latest" not in service["image"]


@each_service
def test_a_service_mounts_what_exists(name: str) -> None:
    """Files of the repository cannot be written by a container."""
    service = services()[name]
    secrets = {s for path in FILES for s in loaded(path).get("secrets", {})}
    volumes = {v for path in FILES for v in loaded(path).get("volumes", {})}
    data = {ENVIRONMENT[variable] for variable in DATA}
    for volume in service.get("volumes", ()):
        source, target, *mode = volume.split(":")
        assert target.startswith("/")
        if source not in data and source not in volumes:
            assert (FOLDER / source).exists(), source
            assert mode == ["ro"]
    assert set(service.get("secrets", ())) <= secrets


@each_service
def test_commands_are_those_of_the_router(name: str, tmp_path: Path) -> None:
    service = services()[name]
    if service["image"] != ROUTER:
        return
    assert service["entrypoint"] == ["dicom-router"]
    args = check_command(service["command"], tmp_path)
    mounted = {volume.split(":")[1]: volume.split(":")[2:] for volume in service["volumes"]}
    named = [w.partition("=")[2] or w for w in service["command"] if "/srv/" in w or "/etc/" in w]
    assert all(path in mounted for path in named)
    lake = getattr(args, "folder", None) or args.lake
    assert mounted[str(lake).removeprefix(str(tmp_path))] == [], "it is written"
    build = service["build"]
    assert (FOLDER / build["context"] / build["dockerfile"]).resolve() == DOCKERFILE
    assert f" AS {build['target']}\n" in DOCKERFILE.read_text()
    assert "/tmp" in service["tmpfs"][0]


def test_the_lake_can_be_in_a_store(tmp_path: Path) -> None:
    values = ENVIRONMENT | {"LAKE": "s3://dicom-lake/lake", "AWS_SECRET_ACCESS_KEY": "secret"}
    override = loaded(FOLDER / "compose.store.yaml", values)["services"]
    for name, service in loaded(FOLDER / "compose.yaml", values)["services"].items():
        if any("s3://" in word for word in service.get("command", ())):
            check_command(service["command"], tmp_path)
            url = override[name]["environment"]["AWS_ENDPOINT_URL_S3"]
            assert url.split("//")[1].split(":")[0] in override
    (command,) = override["bucket"]["command"]
    assert command.endswith("lake/dicom-lake")


def test_ports_are_consistent() -> None:
    """Nothing is published beyond loopback unless on purpose."""
    receive, grafana = services()["receive"], services()["grafana"]
    for service in (receive, grafana):
        (published,) = service["ports"]
        assert published.startswith("127.0.0.1:")
        assert "published" in service["networks"]
    inside = receive["ports"][0].rpartition(":")[2]
    assert f"--port={inside}" in receive["command"]
    assert f"('127.0.0.1', {inside})" in receive["healthcheck"]["test"][-1]
    assert ":3000/" in grafana["healthcheck"]["test"][-1]
    assert ":9464/metrics" in services()["stream"]["healthcheck"]["test"][-1]


def test_prometheus_scrapes_the_services_and_grafana_reads_it() -> None:
    scraped = {
        target
        for job in loaded(FOLDER / "prometheus.yml")["scrape_configs"]
        for one in job["static_configs"]
        for target in one["targets"]
    }
    served = {
        f"{name}:{word.partition('=')[2]}"
        for name, service in services().items()
        for word in service.get("command", ())
        if word.startswith("--metrics_port=")
    }
    assert scraped == served
    prometheus, grafana = services()["prometheus"], services()["grafana"]
    targets = {v.split(":")[1] for v in prometheus["volumes"]}
    for rules in loaded(FOLDER / "prometheus.yml")["rule_files"]:
        assert f"/etc/prometheus/{rules}" in targets
    assert set(grafana["networks"]) & set(prometheus["networks"])
    provisioning = TEMPLATES / "observability" / "grafana" / "provisioning"
    (source,) = loaded(provisioning / "datasources" / "prometheus.yml")["datasources"]
    assert source["url"] == "http://prometheus:9090"
    (provider,) = loaded(provisioning / "dashboards" / "dicom-router.yml")["providers"]
    dashboards = {v.split(":")[1] for v in grafana["volumes"] if v.endswith(".json:ro")}
    assert {str(Path(path).parent) for path in dashboards} == {provider["options"]["path"]}


@needs_promtool
def test_prometheus_accepts_its_configuration(tmp_path: Path) -> None:
    """Rules about a service that is gone name its job."""
    for path in (FOLDER / "prometheus.yml", TEMPLATES / "observability" / "alerts.yml"):
        shutil.copy(path, tmp_path)
    assert "SUCCESS" in promtool("check", "config", tmp_path / "prometheus.yml")
    jobs = {job["job_name"] for job in loaded(FOLDER / "prometheus.yml")["scrape_configs"]}
    rules = (TEMPLATES / "observability" / "alerts.yml").read_text()
    assert set(re.findall(r'\{job="([^"]+)"', rules)) == jobs


def test_every_variable_is_in_the_example_with_its_default() -> None:
    found = {m[1]: m for path in FILES for m in VARIABLE.finditer(path.read_text())}
    assert found.keys() == ENVIRONMENT.keys()
    assert {name: m[3] if m[2] == "-" else "" for name, m in found.items()} == ENVIRONMENT


def test_the_page_names_services_that_exist() -> None:
    text = PAGE.read_text()
    run = set(re.findall(r"docker compose run --rm (\w+)", text))
    assert run == {"nightly", "compact", "verify"}
    assert all(services()[name]["profiles"] == ["tools"] for name in run)
    assert (
        set(re.findall(r"docker compose (?:stop|start|logs -f) (\w+)", text)) <= services().keys()
    )
