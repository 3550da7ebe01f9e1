"""`make install` starts from any Python, and everything agrees on the versions that are supported."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest
import yaml
from packaging.specifiers import SpecifierSet

from docs.image_locks import requirements, version_of
from transforms.storage import extras

ROOT = Path(__file__).parents[1]
BOOTSTRAP = ROOT / "requirements" / "bootstrap.sh"
(NAMED,) = re.findall(r'^supported="(.*)"', BOOTSTRAP.read_text(), re.M)
SUPPORTED = NAMED.split()
TOOLS = "sh dirname rm ln"
UV = f"""#!/bin/sh
[ "$1" = pip ] && {{ ln -s {Path(sys.executable).parent}/uv "${{5%/*}}/uv"; exit; }}
exec {Path(sys.executable).parent}/uv "$@"
"""
"""The locked uv, whose installation needs no network."""


@pytest.fixture
def programs(tmp_path: Path) -> Path:
    """A folder for `PATH` with the shell's tools, and no Python."""
    folder = tmp_path / "programs"
    folder.mkdir()
    for name in TOOLS.split():
        (folder / name).symlink_to(str(shutil.which(name)))
    return folder


def add(programs: Path, name: str, script: str) -> None:
    (programs / name).write_text(script)
    (programs / name).chmod(0o755)


def bootstrap(programs: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {"PATH": str(programs), "HOME": str(programs), "UV_PYTHON_DOWNLOADS": "never"}
    return subprocess.run(
        ["sh", str(BOOTSTRAP), str(programs.parent / "venv"), *arguments],
        env=environment, capture_output=True, text=True,
    )  # fmt: skip


def test_all_agree_on_the_supported_versions() -> None:
    setup = (ROOT / "setup.py").read_text()
    (required,) = map(SpecifierSet, re.findall(r'python_requires="(.*)"', setup))
    assert [minor for minor in range(30) if f"3.{minor}" in required] == [
        int(version.removeprefix("3.")) for version in SUPPORTED
    ]
    assert re.findall(r"Python :: (3\.\d+)", setup) == SUPPORTED
    workflow = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text())
    assert workflow["jobs"]["check-and-test"]["strategy"]["matrix"]["python"] == SUPPORTED
    assert f'python_version = "{SUPPORTED[0]}"' in (ROOT / "pyproject.toml").read_text()


def test_a_machine_without_python_gets_one_line(programs: Path) -> None:
    done = bootstrap(programs)
    assert done.returncode == 1
    assert done.stderr.startswith("error: no Python 3.8 or later and no uv on PATH: install one")
    assert done.stderr.count("\n") == 1


def test_a_python_that_is_too_old_does_not_count(programs: Path) -> None:
    add(programs, "python3", "#!/bin/sh\nexit 1\n")
    assert "no Python 3.8 or later" in bootstrap(programs).stderr


def test_a_python_without_venv_and_pip_gets_one_line(programs: Path) -> None:
    add(programs, "python3", '#!/bin/sh\n[ "$1" = -c ]\n')
    done = bootstrap(programs)
    assert done.returncode == 1
    assert "python3 has neither venv nor pip" in done.stderr
    assert done.stderr.count("\n") == 1


def test_without_a_supported_python_and_without_network_there_is_one_line(programs: Path) -> None:
    add(programs, "uv", '#!/bin/sh\n[ "$1" = --version ]\n')
    done = bootstrap(programs)
    assert done.returncode == 1
    assert "no Python 3.11 on this machine, and uv could not download it: install" in done.stderr
    assert done.stderr.count("\n") == 1


def test_an_installed_python_is_used_and_a_complete_environment_kept(programs: Path) -> None:
    add(programs, "uv", UV)
    assert bootstrap(programs, sys.executable).stderr == ""
    python = programs.parent / "venv" / "bin" / "python"
    version = subprocess.run([python, "-V"], capture_output=True, text=True, check=True).stdout
    assert version.split()[1].rpartition(".")[0] in SUPPORTED
    created = python.lstat().st_mtime_ns
    (programs / "uv").unlink()
    assert bootstrap(programs).returncode == 0
    assert python.lstat().st_mtime_ns == created


def test_a_missing_extra_is_installed_by_the_names_of_its_packages() -> None:
    command = extras.how_to_install("receive")
    assert command.endswith(" 'pynetdicom<4,>=3.0.4' 'python-multipart>=0.0.30' 'uvicorn>=0.40'")
    assert sys.executable in command
    assert extras.DISTRIBUTION not in command
    assert extras.requirements_of("no-such-extra") == []


def test_requirements_of_every_extra_are_found() -> None:
    declared = metadata.metadata(extras.DISTRIBUTION).get_all("Provides-Extra")
    assert declared
    assert [extra for extra in declared if not extras.requirements_of(extra)] == []


def test_nothing_names_the_package_as_if_an_index_had_it() -> None:
    """Pip would look for it in the public index, where anyone can register the name."""
    texts = [p for top in ("pipeline", "transforms", "models") for p in (ROOT / top).rglob("*.py")]
    texts += [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]
    assert [p for p in texts if f"{extras.DISTRIBUTION}[" in p.read_text()] == []


def test_the_packages_of_a_checkout_without_cuda() -> None:
    """The lock without CUDA is made by any Python, before anything is installed."""
    lock = ROOT / "requirements" / "dev.lock"
    command = [sys.executable, "-I", "-S", str(ROOT / "docs" / "image_locks.py"), str(lock)]
    made = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    pinned, remaining = requirements(lock.read_text()), requirements(made)
    missing = pinned.keys() - remaining.keys()
    assert {"torch", "torchvision", "triton"} <= missing
    assert all(re.match("torch|triton|nvidia-|cuda-", name) for name in missing)
    assert remaining == {name: pinned[name] for name in remaining}
    assert all("--hash=sha256:" in entry for entry in remaining.values())
    for line in (ROOT / "requirements" / "torch-cpu.txt").read_text().splitlines()[1:]:
        name, _, version = line.removesuffix("+cpu").partition("==")
        assert version_of(pinned[name]) == version
    planned = subprocess.run(
        ["make", "-n", "-B", "install", "TORCH=cpu"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert "--require-hashes .venv/cpu.lock requirements/uv.lock" in planned
    assert "--require-hashes requirements/dev.lock" not in planned
