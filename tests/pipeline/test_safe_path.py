"""Modules in the working directory never run, in no process that a command starts."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import write
from tests.synthetic import dicom_bytes, image

pytestmark = [
    pytest.mark.slow,
    # Looking for distutils runs a hook of setuptools.
    pytest.mark.filterwarnings("ignore:Setuptools is replacing distutils:UserWarning"),
]
ROOT = Path(__file__).parents[2]
OWN = {"pipeline", "transforms", "models", "tests"}
SCRIPT = str(Path(sys.executable).parent / "dicom-router")
WORKERS = ("--direct_running_mode=multi_processing", "--direct_num_workers=2")
ROUTE = ("route", "--input", ".", "--lake", "lake")


def planted_names() -> set[str]:
    """Return the modules of the standard library, of all installed packages, and some optional ones."""
    packages = importlib.metadata.packages_distributions()
    names = {name for name in {*sys.stdlib_module_names, *packages} if name.isidentifier()}
    return {name for name in names if importlib.util.find_spec(name)} | {"cv2", "gdcm"}


@pytest.fixture(scope="module")
def loaded_by_the_interpreter() -> set[str]:
    """Return the modules that `python -m` loads before it runs any code of the program."""
    code = "import runpy, sys; print(*{name.partition('.')[0] for name in sys.modules})"
    done = subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, text=True)
    return set(done.stdout.split())


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a folder with an image and a file for each module, which leaves a mark when it runs."""
    folder = tmp_path / "images"
    write(folder, "a.dcm", dicom_bytes(image()))
    (tmp_path / "ran").mkdir()
    for name in planted_names():
        mark = tmp_path / "ran" / name
        write(folder, f"{name}.py", f"open({str(mark)!r}, 'w')\nraise ImportError".encode())
    return folder


def run_in(folder: Path, *command: str, python_path: str = str(ROOT)) -> set[str]:
    """Run a command in a folder; return the planted modules that ran."""
    environment = {**os.environ, "PYTHONPATH": python_path}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    ran = {path.name for path in (folder.parent / "ran").iterdir()}
    assert done.returncode == 0 or ran, done.stderr
    return ran


@pytest.mark.parametrize(
    "command",
    [
        (SCRIPT, *ROUTE, *WORKERS),
        (SCRIPT, "inspect", "a.dcm"),
        (sys.executable, "-P", "-m", "pipeline", *ROUTE),
    ],
    ids=["route with worker processes", "inspect", "route by python -P -m"],
)
def test_no_module_of_the_working_directory_runs(folder: Path, command: tuple[str, ...]) -> None:
    assert run_in(folder, *command) == set()


@pytest.mark.parametrize("program", [(SCRIPT,), (sys.executable, "-m", "pipeline")])
def test_none_runs_once_the_router_is_imported(
    folder: Path, loaded_by_the_interpreter: set[str], program: tuple[str, ...]
) -> None:
    """Python looks for what it loads before the router in the working directory, without `-P`.

    PYTHONPATH=$PYTHONPATH:/folder has an empty entry where the variable was not set.
    """
    for name in {*loaded_by_the_interpreter, *OWN, "sitecustomize", "usercustomize"}:
        (folder / f"{name}.py").unlink(missing_ok=True)
    assert run_in(folder, *program, *ROUTE, python_path=f":{ROOT}") == set()
