"""The Terraform template: who may do what, what is launched, and names that exist. It is not applied."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.engines.dataflow_api import metadata, problems, validate
from tests.terraform.google_provider import TARGET, TERRAFORM, load, resources
from tests.terraform.google_provider import problems as unknown_arguments
from transforms.core.option import BATCH, EVERY_TEMPLATE, STREAMING

BLOCKS = load()
RESOURCES = resources(BLOCKS)
SCHEMA = json.loads(TARGET.read_text())
WORKER, LAUNCHER = "${local.worker}", "${local.launcher}"
OPTIONS = {
    "lake": "gs://lake/lake",
    "sdk_container_image": "europe-west4-docker.pkg.dev/p/r/dicom-router@sha256:0",
    "policy": "gs://temp/policy.yaml",
    "accelerator": "type:nvidia-l4;count:1;install-nvidia-driver",
    "patient_key_file": "projects/p/secrets/dicom-router-patient-key/versions/1",
}
SUBSCRIPTION = "projects/p/subscriptions/dicom-router"

Launch = Callable[..., dict[str, Any]]


@pytest.fixture(scope="module")
def launch(tmp_path_factory: pytest.TempPathFactory) -> Launch:
    """Evaluate the module `launch`, which needs no provider; returns its outputs."""
    if shutil.which("terraform") is None:
        pytest.skip("terraform is not installed")
    folder = tmp_path_factory.mktemp("launch") / "launch"
    shutil.copytree(TERRAFORM / "launch", folder)
    environment = {**os.environ, "TF_CLI_CONFIG_FILE": os.devnull, "CHECKPOINT_DISABLE": "1"}

    def run(*arguments: str) -> str:
        command = ["terraform", f"-chdir={folder}", *arguments]
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    run("init", "-backend=false", "-input=false")
    run("validate")

    def outputs(**changed: Any) -> dict[str, Any]:
        given = {
            "location": {
                "project": "p",
                "region": "europe-west4",
                "subnetwork": "regions/r/subnetworks/s",
            },
            "template_folder": "gs://temp/templates",
            "temp": "gs://temp/dataflow",
            "worker": "dicom-router-worker@p.iam.gserviceaccount.com",
            "machine_type": "n2-standard-4",
            "max_workers": 10,
            "input": "gs://hospital/incoming",
            "subscription": "",
            "options": OPTIONS,
            **changed,
        }
        (folder / "given.tfvars.json").write_text(json.dumps(given))
        run("apply", "-auto-approve", "-input=false", "-var-file=given.tfvars.json")
        return {name: one["value"] for name, one in json.loads(run("output", "-json")).items()}

    return outputs


def test_every_account_has_only_what_it_needs() -> None:
    """Literally: a role that is added or widened must be added here, too."""
    granted = {
        (
            address.split(".")[0].removeprefix("google_"),
            next((body[k] for k in ("bucket", "subscription", "topic", "secret_id", "repository",
                                    "service_account_id") if k in body), "${var.project}"),
            body["role"],
            body["member"],
        )
        for address, body in RESOURCES.items()
        if "_iam_" in address
    }  # fmt: skip
    storage = "serviceAccount:${data.google_storage_project_service_account.storage.email_address}"
    lake, temp = "${google_storage_bucket.lake.name}", "${google_storage_bucket.temp.name}"
    bucket = "storage_bucket_iam_member"
    assert granted == {
        ("project_iam_member", "${var.project}", "roles/dataflow.worker", WORKER),
        (bucket, "${var.input_bucket}", "roles/storage.objectViewer", WORKER),
        (bucket, lake, "roles/storage.objectUser", WORKER),
        (bucket, temp, "roles/storage.objectUser", WORKER),
        ("artifact_registry_repository_iam_member", "${var.repository}", "roles/artifactregistry.reader",
         WORKER),
        ("pubsub_subscription_iam_member", "${google_pubsub_subscription.objects[0].name}",
         "roles/pubsub.subscriber", WORKER),
        ("secret_manager_secret_iam_member", "${google_secret_manager_secret.patient_key[0].id}",
         "roles/secretmanager.secretAccessor", WORKER),
        ("project_iam_member", "${var.project}", "roles/dataflow.developer", LAUNCHER),
        ("project_iam_member", "${var.project}", "roles/workflows.invoker", LAUNCHER),
        ("service_account_iam_member", "${google_service_account.worker.name}",
         "roles/iam.serviceAccountUser", LAUNCHER),
        (bucket, temp, "roles/storage.objectViewer", LAUNCHER),
        ("pubsub_topic_iam_member", "${google_pubsub_topic.objects[0].name}", "roles/pubsub.publisher",
         storage),
    }  # fmt: skip
    (named,) = BLOCKS["locals"]
    assert named["worker"] == "serviceAccount:${google_service_account.worker.email}"
    assert named["launcher"] == "serviceAccount:${google_service_account.launcher.email}"


def test_no_role_is_authoritative() -> None:
    """`_iam_binding` and `_iam_policy` would remove the roles of others."""
    assert not [a for a in RESOURCES if re.search("_iam_(binding|policy)", a)]


@pytest.mark.parametrize("address", RESOURCES)
def test_the_provider_knows_the_arguments(address: str) -> None:
    assert unknown_arguments(address, RESOURCES[address], SCHEMA) == []


def test_a_wrong_argument_is_reported() -> None:
    lake = RESOURCES["google_storage_bucket.lake"]
    wrong = {**lake, "soft_delete_policy": [{"retention": 1}], "locations": ""}
    del wrong["location"]
    assert unknown_arguments("google_storage_bucket.lake", wrong, SCHEMA) == [
        "google_storage_bucket.lake: unknown locations",
        "google_storage_bucket.lake: missing location",
        "google_storage_bucket.lake.soft_delete_policy: unknown retention",
    ]


def test_every_reference_exists() -> None:
    text = "\n".join(path.read_text() for path in sorted(TERRAFORM.glob("*.tf")))
    text = re.sub(r"#.*", "", text)
    named = set(re.findall(r"\b(?:data\.)?google_\w+\.\w+", text)) - {"google_dataflow.v1b3"}
    assert named and named <= RESOURCES.keys()
    variables = {name for block in BLOCKS["variable"] for name in block}
    assert set(re.findall(r"\bvar\.(\w+)", text)) == variables
    assert set(re.findall(r"\blocal\.(\w+)", text)) <= BLOCKS["locals"][0].keys()
    inner = (TERRAFORM / "launch" / "main.tf").read_text()
    assert set(re.findall(r"module\.launch\.(\w+)", text)) == set(
        re.findall(r'^output "(\w+)"', inner, re.M)
    )
    (module,) = BLOCKS["module"]
    assert module["launch"].keys() - {"source"} == set(
        re.findall(r'^variable "(\w+)"', inner, re.M)
    )
    assert module["launch"]["options"].keys() == OPTIONS.keys()


def test_the_buckets_are_private_and_the_temporary_one_forgets() -> None:
    buckets = {a: body for a, body in RESOURCES.items() if a.startswith("google_storage_bucket.")}
    assert len(buckets) == 2
    for body in buckets.values():
        assert body["uniform_bucket_level_access"] is True
        assert body["public_access_prevention"] == "enforced"
    (deleted,) = buckets["google_storage_bucket.temp"]["soft_delete_policy"]
    assert deleted["retention_duration_seconds"] == 0


def test_the_format_is_that_of_terraform() -> None:
    if shutil.which("terraform") is None:
        pytest.skip("terraform is not installed")
    environment = {**os.environ, "TF_CLI_CONFIG_FILE": os.devnull}
    command = ["terraform", "fmt", "-check", "-diff", "-recursive", str(TERRAFORM)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "")


def test_the_workflow_launches_the_batch_template_with_the_data_interval(launch: Launch) -> None:
    interval, launched, _ = launch()["workflow"]["main"]["steps"]
    (assigned,) = interval["data_interval"]["assign"]
    assert assigned == {"ingest_date": "${text.substring(time.format(sys.now() - 86400), 0, 10)}"}
    body = launched["launch"]["args"]["body"]
    validate(body, "LaunchFlexTemplateRequest")
    request = body["launchParameter"]
    assert request["containerSpecGcsPath"] == "gs://temp/templates/batch.json"
    assert request["environment"]["ipConfiguration"] == "WORKER_IP_PRIVATE"
    given = request["parameters"]
    assert given.pop("ingest_date") == "${ingest_date}"
    assert given == {**OPTIONS, "input": "gs://hospital/incoming", "allow_empty": "true"}
    assert problems(BATCH, {**given, "ingest_date": "2026-11-29"}) == []


@pytest.mark.parametrize(
    ("subscription", "expected"),
    [
        ("", {"input": "gs://hospital/incoming", "source": "watch"}),
        (SUBSCRIPTION, {"input": SUBSCRIPTION, "source": "pubsub"}),
    ],
)
def test_the_stream_has_parameters_of_its_template(
    launch: Launch, subscription: str, expected: dict[str, str]
) -> None:
    options = {**OPTIONS, "policy": "", "accelerator": ""}
    given = launch(subscription=subscription, options=options)["streaming"]
    assert given == expected | {k: v for k, v in options.items() if v}
    assert problems(STREAMING, given) == []
    assert RESOURCES["google_dataflow_flex_template_job.stream"]["parameters"] == (
        "${module.launch.streaming}"
    )


@pytest.mark.parametrize("template", EVERY_TEMPLATE)
def test_the_specification_is_what_the_api_accepts(template: str) -> None:
    content = RESOURCES["google_storage_bucket_object.template"]["content"]
    names = re.findall(r"(\w+) = ", content)
    assert names == ["image", "sdkInfo", "language", "metadata"]
    built = {"image": "i", "sdkInfo": {"language": "PYTHON"}, "metadata": metadata(template)}
    validate(built, "ContainerSpec")
    assert (Path(TERRAFORM.parent) / "dataflow" / f"{template}.json").exists()
    assert RESOURCES["google_storage_bucket_object.template"]["for_each"] == (
        '${toset(["batch", "streaming"])}'
    )
