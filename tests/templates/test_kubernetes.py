"""Flink on Kubernetes: kustomize builds both overlays, and their objects are checked against schemas."""

from __future__ import annotations

import ast
import functools
import importlib
import json
import os
import re
import shutil
import subprocess
import zipfile
from collections.abc import Callable, Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from apache_beam.version import __version__ as BEAM_VERSION
from jsonschema import Draft202012Validator, ValidationError
from referencing import Registry, Resource

from models.bundle import read_info
from models.default_bundle import DEFAULT_BUNDLE
from tests.templates.commands import TEMPLATES, check_command
from transforms.config.policy_file import parse_policy

ROOT = Path(__file__).parents[2]
FOLDER = TEMPLATES / "flink" / "kubernetes"
PAGE = ROOT / "docs" / "deploy" / "flink-kubernetes.md"
CRD = ROOT / "build" / "flink" / "crd" / "flink-kubernetes-operator-api-1.10.0.jar"
CRD_ENTRY = "META-INF/fabric8/flinkdeployments.flink.apache.org-v1.yml"
OWN_KUSTOMIZE = ROOT / "build" / "bin" / "kustomize"
SCHEMAS = Path(kubernetes_validate.__file__).parent / "kubernetes-json-schema"
VERSIONS = ("1.30", "1.37")
"""Of Kubernetes: sidecars among init containers are stable from 1.33, and on by default from 1.29."""
FLINK_ITSELF = "flink-main-container"
Document = dict[str, Any]


def kustomize() -> list[str] | None:
    if OWN_KUSTOMIZE.exists():
        return [str(OWN_KUSTOMIZE), "build"]
    if shutil.which("kubectl"):
        return ["kubectl", "kustomize"]
    return ["kustomize", "build"] if shutil.which("kustomize") else None


needs_kustomize = pytest.mark.skipif(
    kustomize() is None, reason="neither kubectl nor kustomize is installed: run 'make kustomize'"
)
needs_crd = pytest.mark.skipif(
    not CRD.exists(),
    reason="Flink's resource definitions are not downloaded: install Java, Maven and run 'make flink'",
)
pytestmark = needs_kustomize


def built(overlay: str, folder: Path = FOLDER) -> list[Document]:
    program = kustomize() or []
    done = subprocess.run(
        [*program, str(folder / "overlays" / overlay)], capture_output=True, text=True,
        env={**os.environ, "HOME": "/nonexistent"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return list(yaml.safe_load_all(done.stdout))


@pytest.fixture(scope="module", params=["cpu", "gpu"])
def documents(request: pytest.FixtureRequest) -> list[Document]:
    return built(request.param)


@pytest.fixture(scope="module")
def flink_schema() -> Draft202012Validator:
    """The schema of a FlinkDeployment, without unknown keys, which a cluster would drop silently."""
    with zipfile.ZipFile(CRD) as jar:
        definition = yaml.load(jar.read(CRD_ENTRY), yaml.CSafeLoader)["spec"]
    (version,) = definition["versions"]
    schema: Document = version["schema"]["openAPIV3Schema"]
    _close(schema)
    schema["properties"] |= {"apiVersion": {"const": f"{definition['group']}/{version['name']}"}}
    schema["properties"] |= {"kind": {"const": definition["names"]["kind"]}, "metadata": {}}
    return Draft202012Validator(schema)


def _close(node: Any) -> None:
    if isinstance(node, dict):
        if "properties" in node and not node.get("x-kubernetes-preserve-unknown-fields"):
            node.setdefault("additionalProperties", False)
        if node.get("x-kubernetes-int-or-string"):
            node["type"] = ["integer", "string"]
    for value in (
        node.values() if isinstance(node, dict) else node if isinstance(node, list) else ()
    ):
        _close(value)


@functools.cache
def schema_validator(version: str, api_version: str, kind: str) -> Draft202012Validator:
    """Return the validator of a kind without unknown keys.

    Raises:
        FileNotFoundError: this version of Kubernetes has no such kind.
    """
    group, _, number = api_version.rpartition("/")
    name = "-".join(filter(None, (kind.lower(), group.partition(".")[0], number)))
    schema = json.loads((SCHEMAS / f"v{version}.0-local-strict" / f"{name}.json").read_text())
    return Draft202012Validator(schema, registry=definitions(version))


@functools.cache
def definitions(version: str) -> Registry[Any]:
    text = (SCHEMAS / f"v{version}.0-local-strict" / "_definitions.json").read_text()
    return (Resource.from_contents(json.loads(text)) @ Registry()).crawl()


def validate(document: Document, flink_schema: Draft202012Validator) -> None:
    """Raise `ValidationError`, or `FileNotFoundError` for an unknown kind."""
    if document["kind"] != "FlinkDeployment":
        _validate(document)
        return
    flink_schema.validate(document)
    for _, pod in pods([document]):
        pod = deepcopy(pod)
        for one in pod["spec"]["containers"]:
            one.setdefault("image", "flink")
        _validate({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a"}, **pod})


def _validate(document: Document) -> None:
    for version in VERSIONS:
        schema_validator(version, document["apiVersion"], document["kind"]).validate(document)


def pods(documents: list[Document]) -> Iterator[tuple[str, Document]]:
    """Yield the pod templates, with the kind and name of what they belong to.

    Flink merges its common template with those of JobManager and TaskManager.
    """
    for document in documents:
        name, spec = f"{document['kind']}/{document['metadata']['name']}", document.get("spec", {})
        if document["kind"] == "CronJob":
            yield name, spec["jobTemplate"]["spec"]["template"]
        elif document["kind"] == "Job":
            yield name, spec["template"]
        elif document["kind"] == "FlinkDeployment":
            common = spec["podTemplate"]["spec"]
            yield f"{name}/jobManager", {"spec": common}
            yield (
                f"{name}/taskManager",
                {"spec": common | spec["taskManager"]["podTemplate"]["spec"]},
            )


def containers(documents: list[Document]) -> Iterator[tuple[Document, Document]]:
    """Yield the spec of the pod, and the container."""
    for _, pod in pods(documents):
        spec = pod["spec"]
        for one in (*spec.get("initContainers", ()), *spec["containers"]):
            yield spec, one


def find(documents: list[Document], kind: str, name: str) -> Document:
    (found,) = (d for d in documents if (d["kind"], d["metadata"]["name"]) == (kind, name))
    return found


def routes(documents: list[Document]) -> Iterator[tuple[Document, dict[str, str]]]:
    """Yield pods that run `route`, and its options with a value."""
    for spec, one in containers(documents):
        if "route" in one.get("args", ()):
            yield spec, dict(a[2:].split("=", 1) for a in one["args"] if "=" in a)


@needs_crd
def test_every_object_matches_its_schema(
    documents: list[Document], flink_schema: Draft202012Validator
) -> None:
    for document in documents:
        validate(document, flink_schema)
    assert {d["kind"] for d in documents} == {
        "Namespace", "ServiceAccount", "Role", "RoleBinding", "NetworkPolicy", "ConfigMap",
        "FlinkDeployment", "CronJob", "Job",
    }  # fmt: skip
    assert {d["metadata"].get("namespace", "") for d in documents if d["kind"] != "Namespace"} == {
        "dicom-router"
    }


def misspell_slots(documents: list[Document]) -> Document:
    flink = find(documents, "FlinkDeployment", "flink")
    flink["spec"]["taskManager"]["resources"] = flink["spec"]["taskManager"].pop("resource")
    return flink


def change_flink_version(documents: list[Document]) -> Document:
    flink = find(documents, "FlinkDeployment", "flink")
    flink["spec"]["flinkVersion"] = "v9_9"
    return flink


def misspell_probe(documents: list[Document]) -> Document:
    flink = find(documents, "FlinkDeployment", "flink")
    pool = flink["spec"]["taskManager"]["podTemplate"]["spec"]["initContainers"][0]
    pool["startProbe"] = pool.pop("startupProbe")
    return flink


def change_type(documents: list[Document]) -> Document:
    job = find(documents, "CronJob", "dicom-router-nightly")
    job["spec"]["startingDeadlineSeconds"] = "an hour"
    return job


def change_kind(documents: list[Document]) -> Document:
    return find(documents, "Job", "dicom-router-stream") | {"kind": "Jobs"}


@needs_crd
@pytest.mark.parametrize(
    "change", [misspell_slots, change_flink_version, misspell_probe, change_type, change_kind]
)
def test_the_schemas_find_mistakes(
    documents: list[Document],
    flink_schema: Draft202012Validator,
    change: Callable[[list[Document]], Document],
) -> None:
    with pytest.raises((ValidationError, FileNotFoundError)):
        validate(change(deepcopy(documents)), flink_schema)


def test_containers_are_confined_and_sized(documents: list[Document]) -> None:
    for spec, one in containers(documents):
        of_pod, own = spec["securityContext"], one["securityContext"]
        assert of_pod["runAsNonRoot"] is True
        assert of_pod["seccompProfile"] == {"type": "RuntimeDefault"}
        assert own["allowPrivilegeEscalation"] is False
        assert own["capabilities"] == {"drop": ["ALL"]}
        if one["name"] == FLINK_ITSELF:  # sized by spec.jobManager and spec.taskManager
            continue
        assert own["readOnlyRootFilesystem"] is True
        assert any(m["mountPath"] == "/tmp" for m in one["volumeMounts"])
        assert {"cpu", "memory"} <= one["resources"]["requests"].keys()
        assert "memory" in one["resources"]["limits"]
        assert ("dicom-router" in one["image"]) != one["image"].startswith("apache/beam_")


def test_what_is_referred_to_exists(documents: list[Document]) -> None:
    """Secrets are not in the repository; the page says how to create them."""
    maps = {d["metadata"]["name"] for d in documents if d["kind"] == "ConfigMap"}
    accounts = {d["metadata"]["name"] for d in documents if d["kind"] == "ServiceAccount"}
    secrets = set(re.findall(r"create secret generic (\S+)", PAGE.read_text()))
    for spec, one in containers(documents):
        for source in one.get("envFrom", ()):
            assert source.get("configMapRef", {}).get("name", "dicom-router-run") in maps
            assert source.get("secretRef", {}).get("name", "dicom-router-store") in secrets
        for mount in one.get("volumeMounts", ()):
            (volume,) = (v for v in spec["volumes"] if v["name"] == mount["name"])
            assert volume.get("configMap", {}).get("name", "dicom-router-policy") in maps
            assert volume.get("secret", {}).get("secretName", "dicom-router-keys") in secrets
        assert spec.get("serviceAccountName", "flink") in accounts


def test_commands_are_those_of_the_router(documents: list[Document], tmp_path: Path) -> None:
    values = find(documents, "ConfigMap", "dicom-router-run")["data"]
    seen = []
    for _, one in containers(documents):
        words = [*one.get("command", ()), *one.get("args", ())]
        words = [re.sub(r"\$\((\w+)\)", lambda m: values[m[1]], word) for word in words]
        if words[:1] == ["dicom-router"]:
            seen.append(check_command(words[1:], tmp_path).command)
        elif words[:2] == ["python", "-c"]:
            imports = [n for n in ast.walk(ast.parse(words[2])) if isinstance(n, ast.ImportFrom)]
            for found in imports:
                module = importlib.import_module(str(found.module))
                assert all(hasattr(module, name.name) for name in found.names)
    assert sorted(seen) == ["compact", "route", "route", "worker-pool"]


def test_the_policy_is_one(documents: list[Document]) -> None:
    text = find(documents, "ConfigMap", "dicom-router-policy")["data"]["policy.yaml"]
    parse_policy(text, read_info(DEFAULT_BUNDLE).label_set)


def test_the_parts_find_each_other(documents: list[Document]) -> None:
    flink = find(documents, "FlinkDeployment", "flink")
    (pool,) = (one for _, one in containers(documents) if one["name"] == "worker-pool")
    pool_port = dict(a[2:].split("=") for a in pool["command"][2:])["port"]
    keys = {m["mountPath"] for m in pool["volumeMounts"]}
    for spec, options in routes(documents):
        (server,) = (c for c in spec["initContainers"] if c["name"] == "job-server")
        served = dict(a[2:].split("=", 1) for a in server["args"])
        rest = f"{flink['metadata']['name']}-rest:8081"
        assert served["flink-master"] == options["flink_master"] == rest
        assert options["job_endpoint"] == f"localhost:{served['job-port']}"
        assert options["environment_config"] == f"localhost:{pool_port}"
        assert str(Path(options["patient_key_file"]).parent) in keys
        assert server["restartPolicy"] == pool["restartPolicy"] == "Always"
    leftover = [c["command"][2] for _, c in containers(documents) if c["name"] == "cancel-leftover"]
    (name,) = {options["job_name"] for _, options in routes(documents) if "job_name" in options}
    assert leftover == [f"from pipeline.flink_rest import cancel; cancel('{rest}', '{name}')"]


def test_only_what_a_policy_names_can_be_reached(documents: list[Document]) -> None:
    policies = [d["spec"] for d in documents if d["kind"] == "NetworkPolicy"]
    assert {"podSelector": {}, "policyTypes": ["Ingress"]} in policies
    (scraped,) = (
        p for p in policies if "app.kubernetes.io/name" in p["podSelector"].get("matchLabels", {})
    )
    stream = find(documents, "Job", "dicom-router-stream")["spec"]["template"]
    labels = scraped["podSelector"]["matchLabels"]
    assert labels.items() <= stream["metadata"]["labels"].items()
    (options,) = (o for spec, o in routes(documents) if spec is stream["spec"])
    assert options["metrics_port"] == str(scraped["ingress"][0]["ports"][0]["port"])


def test_versions_are_those_of_the_sdk(documents: list[Document]) -> None:
    spec = find(documents, "FlinkDeployment", "flink")["spec"]
    minor = spec["flinkVersion"].removeprefix("v").replace("_", ".")
    assert spec["image"].startswith(f"flink:{minor}.")
    servers = {one["image"] for _, one in containers(documents) if one["name"] == "job-server"}
    assert servers == {f"apache/beam_flink{minor}_job_server:{BEAM_VERSION}"}
    (patch,) = re.findall(r"flink:([\d.]+)", spec["image"])
    (plugin,) = spec["podTemplate"]["spec"]["containers"][0]["env"]
    assert plugin["value"].endswith(f"-{patch}.jar")


def test_either_the_stream_or_nightly_runs_write_to_the_lake(
    documents: list[Document], tmp_path: Path
) -> None:
    def suspended(found: list[Document]) -> tuple[bool, bool]:
        nightly, stream = (
            find(found, kind, name)["spec"].get("suspend", False)
            for kind, name in (("CronJob", "dicom-router-nightly"), ("Job", "dicom-router-stream"))
        )
        return nightly, stream

    assert suspended(documents) == (False, True)
    shutil.copytree(FOLDER, tmp_path / "flink")
    overlay = tmp_path / "flink" / "overlays" / "cpu" / "kustomization.yaml"
    overlay.write_text(overlay.read_text() + "components: [../../components/stream]\n")
    assert suspended(built("cpu", tmp_path / "flink")) == (True, False)


def test_only_the_gpu_overlay_asks_for_gpus() -> None:
    for overlay, expected in (("cpu", set()), ("gpu", {"1"})):
        found = built(overlay)
        gpus = {
            c["resources"]["limits"].get("nvidia.com/gpu")
            for _, c in containers(found)
            if "resources" in c
        }
        assert gpus - {None} == expected
        devices = {options.get("device") for _, options in routes(found)}
        assert devices == ({"cuda"} if expected else {None})
