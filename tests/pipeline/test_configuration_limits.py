"""Configuration that is hostile or damaged ends a command with one clear error and exit code 2."""

from __future__ import annotations

import json
import os
import shutil
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import pytest

from models.default_bundle import DEFAULT_BUNDLE
from pipeline.cli import main
from pipeline.exit_codes import USAGE
from pipeline.sources.pubsub import parse_notification

Fails = Callable[..., str]
GIGABYTE = 1 << 30


@pytest.fixture
def error_of(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Fails:
    """Return a function that runs a command that must fail with 2; it returns the error message."""
    (tmp_path / "images").mkdir(exist_ok=True)

    def run(*options: str, lake: str = "lake") -> str:
        lake_uri, images = str(tmp_path / lake), str(tmp_path / "images")
        command = ["route", "--allow_empty", "--input", images, "--lake", lake_uri, *options]
        assert main(command) == USAGE
        error = capsys.readouterr().err
        assert error.startswith("error: ") and "Traceback" not in error
        assert len(error) < 20_000
        return error

    return run


def sparse(path: Path, size: int = GIGABYTE) -> Path:
    with path.open("wb") as file:
        file.truncate(size)
    return path


def billion_laughs() -> str:
    levels = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    levels += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 12)]
    return "\n".join([*levels, "sinks: *a11"])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (billion_laughs(), "after aliases"),
        ("a: &a [*a]", "contains itself"),
        ("[" * 100_000, "nested too deep"),
        ("a: " + "{b: " * 50_000, "nested too deep"),
        ("- " * 100_000, "nested too deep"),
        ("x" * 300_000, "larger than"),
        ("min_long_side: " + "9" * 10_000, "not valid YAML"),
        ("min_long_side: 2026-99-99", "not valid YAML"),
        ("? [a, b]\n: 1", "not valid YAML"),
        ("\n".join(f"key{n}: 1" for n in range(9000)), "9000 errors"),
        ("k" * 1_000 + ": 1", "unknown"),
        ("!!python/object/apply:os.system [true]", "not valid YAML"),
        ("a: 1\x00", "not valid YAML"),
    ],
    ids=lambda text: repr(text[:16]),
)
def test_a_hostile_policy_is_one_error(
    error_of: Fails, tmp_path: Path, text: str, message: str
) -> None:
    policy = tmp_path / "policy.yaml"
    policy.write_text(text)
    assert message in error_of("--policy", str(policy))


def test_large_policies_are_not_read(error_of: Fails, tmp_path: Path) -> None:
    assert "larger than" in error_of("--policy", str(sparse(tmp_path / "policy.yaml")))
    assert "larger than" in error_of("--policy", "/dev/zero")


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return Path(shutil.copytree(DEFAULT_BUNDLE, tmp_path / "bundle"))


def change(bundle: Path, **values: Any) -> None:
    path = bundle / "bundle.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


@pytest.mark.parametrize(
    "architecture",
    [
        "hf-hub:timm/resnet18.a1_in1k",
        "hf_hub:timm/resnet18.a1_in1k",
        "HF-HUB:timm/resnet18",
        "local-dir:/srv/model",
        "local-dir:FOLDER",
        "timm/resnet18",
        "../resnet18",
        "/srv/model/resnet18",
        "https://example.org/model",
        "file:///srv/model",
        "gs://bucket/model",
        "resnet18@main",
        "resnet18\n",
        "",
        "r" * 1000,
    ],
)
def test_an_architecture_is_a_name_and_nothing_else(
    error_of: Fails,
    bundle: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    architecture: str,
) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    os.mkfifo(folder / "config.json")  # reading it would hang

    def refuse(*_: Any) -> NoReturn:
        raise AssertionError("a bundle needs no network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    change(bundle, architecture=architecture.replace("FOLDER", str(folder)))
    error = error_of("--model", str(bundle))
    assert "architecture: " in error and "hubs, folders and URLs are refused" in error


def test_an_unknown_architecture_is_named(
    bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    change(bundle, architecture="resnet19")
    (tmp_path / "a.dcm").write_bytes(b"")
    assert main(["inspect", str(tmp_path / "a.dcm"), "--model", str(bundle)]) == USAGE
    error = capsys.readouterr().err
    assert str(bundle) in error and "no 'resnet19'; did you mean resnet18?" in error


def test_training_refuses_hubs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for label in ("abdominal", "adult_chest", "pediatric_chest", "spine", "others"):
        (tmp_path / "data" / label).mkdir(parents=True)
    options = ["--data", str(tmp_path / "data"), "--output", str(tmp_path / "out")]
    assert main(["train", *options, "--architecture", "hf-hub:timm/resnet18"]) == USAGE
    assert "hubs, folders and URLs are refused" in capsys.readouterr().err


@pytest.mark.parametrize(
    "content",
    [
        b"[" * 100_000,
        b'{"a":' * 100_000,
        b"",
        b"[]",
        b"null",
        b"1e999",
        b"\xff",
        b'{"labels": 1e999}',
    ],
    ids=lambda content: repr(content[:8]),
)
def test_a_hostile_bundle_is_one_error(error_of: Fails, bundle: Path, content: bytes) -> None:
    (bundle / "bundle.json").write_bytes(content)
    assert "bundle.json" in error_of("--model", str(bundle))


def test_nested_metadata_of_a_bundle_is_limited(error_of: Fails, bundle: Path) -> None:
    text = (bundle / "bundle.json").read_text()
    nested = '"training": ' + "[" * 50_000 + "]" * 50_000 + ', "old": '
    (bundle / "bundle.json").write_text(text.replace('"training": ', nested, 1))
    assert "bundle.json" in error_of("--model", str(bundle))


def test_large_bundles_are_not_read(error_of: Fails, bundle: Path) -> None:
    sparse(bundle / "bundle.json")
    assert "larger than" in error_of("--model", str(bundle))


@pytest.mark.parametrize(
    "content",
    [
        b"[" * 100_000,
        b'{"format": 2, "lake_id": ' + b"[" * 100_000,
        b'{"format": 1e999, "lake_id": "a"}',
        b'{"format": ' + b"9" * 10_000 + b"}",
        b'{"format": []}',
        b'"text"',
        b"[1]",
        b"\xff",
        b"",
    ],
    ids=lambda content: repr(content[:12]),
)
def test_a_hostile_marker_is_one_error(error_of: Fails, tmp_path: Path, content: bytes) -> None:
    (tmp_path / "lake").mkdir()
    (tmp_path / "lake" / "lake.json").write_bytes(content)
    assert "lake.json is damaged" in error_of()


def test_large_markers_are_not_read(error_of: Fails, tmp_path: Path) -> None:
    (tmp_path / "lake").mkdir()
    sparse(tmp_path / "lake" / "lake.json")
    assert "lake.json is damaged" in error_of()


@pytest.mark.parametrize(
    "payload",
    [
        b"[" * 100_000,
        b'{"size": "' + b"9" * 5_000 + b'"}',
        b'{"size": 1e999}',
        b'{"size": -1}',
        b'{"size": 99999999999999999999999999}',
        b'{"size": [1]}',
        b'{"size": null}',
        b"\xff",
    ],
    ids=lambda payload: repr(payload[:24]),
)
def test_a_notification_states_a_possible_size_or_none(payload: bytes) -> None:
    attributes = {
        "eventType": "OBJECT_FINALIZE",
        "objectGeneration": "1",
        "bucketId": "b",
        "objectId": "o",
        "eventTime": "0001-01-01T00:00:00+14:00",
    }
    notification = parse_notification(attributes, payload)
    assert notification is not None and notification.size is None
