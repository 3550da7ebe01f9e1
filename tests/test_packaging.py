"""What is installed elsewhere carries everything: the wheel, and the sdist that Beam ships."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from pathlib import Path

import duckdb
import pytest
from pydicom.data import get_testdata_file

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]
NEEDED = {
    "pipeline/cli/route.py",
    "transforms/imaging/codecs/native.py",
    "transforms/lake/schema.py",
    "models/handler.py",
    "models/training/fit.py",
    "models/default/bundle.json",
    "models/default/weights.safetensors",
}
TEMPLATES = {
    f"{path.relative_to(ROOT)}"
    for path in (ROOT / "templates").rglob("*")
    if path.is_file() and path.suffix != ".pyc"
}


@pytest.fixture(scope="module")
def clean_tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files that git tracks, so that nothing comes along by chance."""
    tree = tmp_path_factory.mktemp("tree")
    names = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT, capture_output=True, check=True,
    ).stdout.decode().split("\0")  # fmt: skip
    for name in filter(None, names):
        if (ROOT / name).is_file():
            (tree / name).parent.mkdir(parents=True, exist_ok=True)
            (tree / name).write_bytes((ROOT / name).read_bytes())
    return tree


@pytest.fixture(scope="module")
def wheel(clean_tree: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    subprocess.run(
        [sys.executable, "setup.py", "-q", "bdist_wheel", "-d", str(folder)],
        cwd=clean_tree, check=True, capture_output=True,
    )  # fmt: skip
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The programs of an environment with the wheel, and the packages of this environment beside it."""
    folder = tmp_path_factory.mktemp("environment")
    uv = str(Path(sys.executable).parent / "uv")
    for command in (
        [uv, "venv", "--quiet", "--offline", "--clear", "--python", sys.executable, str(folder)],
        [
            uv,
            "pip",
            "install",
            "--quiet",
            "--offline",
            "--no-deps",
            "--python",
            str(folder),
            str(wheel),
        ],
    ):
        subprocess.run(command, check=True, capture_output=True)
    (site,) = folder.glob("lib/python3*/site-packages")
    (site / "others.pth").write_text(f"{sysconfig.get_path('purelib')}\n")  # not its own .pth files
    return folder / "bin"


def outside(installed: Path, folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the installed program, which knows nothing of the checkout, in a folder."""
    environment = {n: v for n, v in os.environ.items() if n not in ("PYTHONPATH", "VIRTUAL_ENV")}
    return subprocess.run(
        [installed / "dicom-router", *arguments],
        cwd=folder, env=environment, capture_output=True, text=True,
    )  # fmt: skip


def test_the_installed_program_is_that_of_the_wheel(installed: Path, tmp_path: Path) -> None:
    code = (
        "import models as m, pipeline.api as p, transforms as t; "
        "print(*(x.__file__ for x in (m, p, t)))"
    )
    found = subprocess.run(
        [installed / "python", "-I", "-c", code],
        cwd=tmp_path, capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    assert all(Path(path).is_relative_to(installed.parent) for path in found.split())


def test_the_installed_demo_runs_anywhere(installed: Path, tmp_path: Path) -> None:
    done = outside(installed, tmp_path, "demo")
    assert done.returncode == 0, done.stderr
    assert "13 discovered = 4 routed" in done.stdout
    assert f"{installed / 'dicom-router'} verify demo-lake --deep" in done.stdout


def test_the_installed_program_routes_by_the_policy_it_wrote(
    installed: Path, tmp_path: Path
) -> None:
    assert outside(installed, tmp_path, "init", "deployment").returncode == 0
    lake, policy = tmp_path / "lake", tmp_path / "deployment" / "policy.yaml"
    source = str(get_testdata_file("CT_small.dcm"))
    route = ("route", "--input", source, "--lake", "lake", "--policy", str(policy), "--json")
    done = outside(installed, tmp_path, *route)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["counts"]["not_xray"] == 1
    rows = duckdb.sql(f"select status from '{lake}/index/**/*.parquet'").fetchall()
    assert rows == [("not_xray",)]
    program = str(installed / "dicom-router")
    assert program in (tmp_path / "deployment/systemd/dicom-router.service").read_text()


def test_the_wheel_carries_code_and_model_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        (entry,) = [n for n in names if n.endswith("entry_points.txt")]
        assert b"dicom-router = pipeline.__main__:main" in archive.read(entry)
    assert names >= NEEDED | {f"pipeline/{name}" for name in TEMPLATES}
    assert {n.split("/")[0] for n in names if ".dist-info" not in n} == {
        "pipeline", "transforms", "models",
    }  # fmt: skip


def test_the_sdist_that_beam_ships_carries_code_and_model(clean_tree: Path, tmp_path: Path) -> None:
    subprocess.run(
        [sys.executable, "setup.py", "-q", "sdist", "-d", str(tmp_path)],
        cwd=clean_tree, check=True, capture_output=True,
    )  # fmt: skip
    (sdist,) = tmp_path.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert names >= NEEDED | TEMPLATES | {"setup.py", "README.md", "pyproject.toml"}


@pytest.mark.skipif("PYTEST_XDIST_WORKER" not in os.environ, reason="tests run in one process")
def test_one_process_runs_all_tests_of_a_module(request: pytest.FixtureRequest) -> None:
    """Otherwise each process would route the lakes and start the engines of the module."""
    assert request.node.nodeid.endswith("@tests/test_packaging.py")
