"""`dicom-router init` writes what a deployment begins with, and never replaces a file silently."""

from __future__ import annotations

import configparser
import re
from pathlib import Path

import pytest
import yaml

from pipeline import deployment_files
from pipeline.cli import main


def written(folder: Path) -> dict[str, str]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_text() for path in files}


def test_every_pattern_has_templates() -> None:
    folder = deployment_files.templates_folder()
    assert [p for p in deployment_files.WRITTEN if not [*folder.glob(p)]] == []


@pytest.mark.parametrize("name", ["PROGRAM", "INPUT", "LAKE"])
def test_the_templates_have_the_paths_that_are_replaced(name: str) -> None:
    path = getattr(deployment_files, name)
    folder = deployment_files.templates_folder()
    units = [(folder / n).read_text() for n in deployment_files.template_names() if "systemd" in n]
    assert any(path in unit for unit in units)


def test_it_writes_the_templates_with_the_given_paths(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "deployment"
    arguments = [
        "--input",
        "/data/in",
        "--lake",
        "/data/lake",
        "--program",
        "/opt/other/dicom-router",
    ]
    assert main(["init", str(folder), *arguments]) == 0
    files = written(folder)
    assert set(files) == set(deployment_files.template_names())
    unit = files["systemd/dicom-router.service"]
    parser = configparser.ConfigParser(strict=False, interpolation=None, allow_no_value=True)
    parser.read_string(unit.replace("\\\n", " "))
    command = parser["Service"]["ExecStart"].split()
    assert command[:2] == ["/opt/other/dicom-router", "route"]
    options = dict(zip(command[2::2], command[3::2], strict=False))
    assert options["--input"] == "/data/in"
    assert options["--lake"] == "/data/lake"
    assert options["--policy"] == f"{folder}/policy.yaml"
    hosted = [t for n, t in files.items() if n.startswith(deployment_files.ON_THE_HOST)]
    assert all(deployment_files.LAKE not in text for text in hosted)
    compose = yaml.safe_load(files["compose/compose.yaml"])
    mounts = [
        str(m) for service in compose["services"].values() for m in service.get("volumes", ())
    ]
    below = re.findall(r"\.\./([\w./-]+)", " ".join(mounts))
    assert below
    assert [name for name in below if not (folder / name).exists()] == []
    source = deployment_files.templates_folder() / "policy.yaml"
    assert yaml.safe_load(files["policy.yaml"]) == yaml.safe_load(source.read_text())


def test_files_that_exist_are_kept_and_said_to_be(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "policy.yaml").write_text("thresholds: {spine: 0.9}\n")
    assert main(["init", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert f"kept        {tmp_path}/policy.yaml: it exists and differs" in out
    assert (tmp_path / "policy.yaml").read_text() == "thresholds: {spine: 0.9}\n"
    before = written(tmp_path)
    assert main(["init", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert out.count("unchanged") == len(before) - 1
    assert "wrote" not in out
    assert written(tmp_path) == before
    assert main(["init", str(tmp_path), "--overwrite"]) == 0
    assert f"overwrote   {tmp_path}/policy.yaml" in capsys.readouterr().out
    assert "spine: 0.9}" not in (tmp_path / "policy.yaml").read_text()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["{file}"], "{file} is not a folder"),
        (["{new}", "--lake", "lake"], "'lake': write an absolute path"),
        (["{new}", "--input", "/data/a b"], "'/data/a b': write an absolute path"),
        (["{new}", "--input", "/data/%h"], "write an absolute path"),
    ],
)
def test_wrong_usage(
    arguments: list[str], says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = {"file": str(tmp_path / "file"), "new": str(tmp_path / "new")}
    (tmp_path / "file").touch()
    assert main(["init", *(one.format(**names) for one in arguments)]) == 2
    assert says.format(**names) in capsys.readouterr().err
    assert not (tmp_path / "new").exists()
