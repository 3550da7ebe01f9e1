"""What is installed elsewhere carries everything: the wheel, and the sdist that Beam ships."""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

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


def test_the_wheel_carries_code_and_model_and_nothing_else(
    clean_tree: Path, tmp_path: Path
) -> None:
    subprocess.run(
        [sys.executable, "setup.py", "-q", "bdist_wheel", "-d", str(tmp_path)],
        cwd=clean_tree, check=True, capture_output=True,
    )  # fmt: skip
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        (entry,) = [n for n in names if n.endswith("entry_points.txt")]
        assert b"dicom-router = pipeline.__main__:main" in archive.read(entry)
    assert names >= NEEDED
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
    assert names >= NEEDED | {"setup.py", "README.md", "pyproject.toml"}


@pytest.mark.skipif("PYTEST_XDIST_WORKER" not in os.environ, reason="tests run in one process")
def test_one_process_runs_all_tests_of_a_module(request: pytest.FixtureRequest) -> None:
    """Otherwise each process would route the lakes and start the engines of the module."""
    assert request.node.nodeid.endswith("@tests/test_packaging.py")
