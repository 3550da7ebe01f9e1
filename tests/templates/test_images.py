"""The image: what can be checked without a container engine."""

from __future__ import annotations

import fnmatch
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from apache_beam.version import __version__ as BEAM_VERSION
from packaging.requirements import Requirement

from docs.image_locks import LOCK, requirements, version_of
from tests.templates.commands import TEMPLATES

ROOT = TEMPLATES.parent
DOCKERFILE = TEMPLATES / "images" / "Dockerfile"
CHECK = TEMPLATES / "images" / "check_image.py"
HADOLINT = Path(sys.executable).with_name("hadolint")
VERSION = re.compile(r"prism@v(?P<prism>\S+)|_sdk:(?P<sdk>\S+)")
ISOLATED = """
set -e
mount --make-rprivate /
mount -t tmpfs -o mode=1777 tmpfs /mnt
mount -o remount,ro,bind /
cd /mnt
if touch /test 2>/dev/null; then exit 9; fi
exec setpriv --reuid 10001 --regid 10001 --clear-groups --no-new-privs $CAPABILITIES "$@"
"""
"""Runs a program as a user of its own on a read-only root file system, with an empty folder for
temporary files."""
NO_CAPABILITIES = "--bounding-set=-all --inh-caps=-all"
ONLY_TO_READ = (
    "--bounding-set=-all,+dac_read_search --inh-caps=-all,+dac_read_search "
    "--ambient-caps=-all,+dac_read_search"
)
"""Where interpreter or checkout are in a folder that only root can enter."""


def instructions() -> list[tuple[str, str, str]]:
    """Return stage, instruction and arguments of each line of the Dockerfile."""
    text = re.sub(r"\\\n\s*", "", re.sub(r"^#.*\n", "", DOCKERFILE.read_text(), flags=re.MULTILINE))
    stage, found = "", []
    for line in filter(None, text.splitlines()):
        name, _, rest = line.partition(" ")
        if name == "FROM":
            stage = rest.split()[-1]
        found.append((stage, name, rest))
    return found


def lint(path: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([HADOLINT, str(path)], capture_output=True, text=True)


def test_hadolint_finds_nothing(tmp_path: Path) -> None:
    done = lint(DOCKERFILE)
    assert done.returncode == 0, done.stdout
    (tmp_path / "Dockerfile").write_text(
        DOCKERFILE.read_text().replace("USER 10001:10001", "USER root\nRUN sudo cd /")
    )
    assert lint(tmp_path / "Dockerfile").returncode == 1


def test_both_targets_run_as_a_user_and_start_boot() -> None:
    lines = instructions()
    for target in ("cpu", "cuda"):
        own = [(name, rest) for stage, name, rest in lines if stage == target]
        assert own[0] == ("FROM", f"runtime AS {target}")
        assert own[1] == ("COPY", f"--from=build-{target} /opt/dicom-router /opt/dicom-router")
        assert own[2][1].startswith("--network=none") and CHECK.name in own[2][1]
    assert lines[-1][0] == "cpu", "the last target is the default one"
    runtime = [(name, rest) for stage, name, rest in lines if stage == "runtime"]
    assert [rest for name, rest in runtime if name == "USER"] == ["10001:10001"]
    assert ("ENTRYPOINT", '["/opt/apache/beam/boot"]') in runtime
    assert ("WORKDIR", "/tmp") in runtime, "boot writes into the working directory"


def test_every_package_is_locked_with_its_hash() -> None:
    installs = [
        one.strip() for _, name, rest in instructions() if name == "RUN"
        for one in rest.split("&&") if "pip install" in one
    ]  # fmt: skip
    own_index = [one for one in installs if "--index-url" in one]
    assert [one.split()[-1] for one in own_index] == ["requirements/torch-cpu.txt"]
    for one in installs:
        assert "--no-deps" in one
        assert one in own_index or "--require-hashes" in one or "--no-index" in one
    entries = requirements(LOCK.read_text())
    assert all("--hash=sha256:" in entry for entry in entries.values())
    tested = requirements((ROOT / "requirements" / "dev.lock").read_text())
    different = [
        name for name in entries.keys() & tested.keys()
        if version_of(entries[name]) != version_of(tested[name])
    ]  # fmt: skip
    assert different == [], "run 'make lock'"


def ignored(name: str) -> bool:
    """Return whether Docker leaves a file out of the context; the last pattern that matches decides."""
    result = False
    for line in (DOCKERFILE.parent / "Dockerfile.dockerignore").read_text().splitlines():
        if not line or line.startswith("#"):
            continue
        pattern = line.removeprefix("!")
        parents = [name, *(str(p) for p in Path(name).parents if str(p) != ".")]
        plain = pattern.removeprefix("**/")
        matched = any(
            fnmatch.fnmatchcase(Path(p).name if plain != pattern else p, plain) for p in parents
        )
        if matched:
            result = not line.startswith("!")
    return result


@pytest.fixture(scope="module")
def context(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files that Docker sends, of those that git knows."""
    folder = tmp_path_factory.mktemp("context")
    names = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT, capture_output=True, check=True, text=True,
    ).stdout.split("\0")  # fmt: skip
    for name in filter(None, names):
        if not ignored(name) and (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / name)
    return folder


def test_the_context_has_what_is_copied_and_nothing_else(context: Path) -> None:
    for _, name, rest in instructions():
        if name == "COPY" and "--from" not in rest:
            for source in rest.split()[:-1]:
                assert (context / source).exists(), source
    assert not (context / "tests").exists()
    assert not (context / "requirements" / "dev.lock").exists()
    assert (context / "models" / "default" / "weights.safetensors").exists()


def test_the_locks_satisfy_what_the_router_needs(context: Path) -> None:
    """setup.py runs in the context as the Dockerfile has it."""
    subprocess.run(
        [sys.executable, "setup.py", "-q", "egg_info"], cwd=context, check=True, capture_output=True
    )
    (metadata,) = context.glob("*.egg-info/requires.txt")
    locked = {name: version_of(entry) for name, entry in requirements(LOCK.read_text()).items()}
    extras = re.findall(r"--extra (\S+)", lock_command())
    assert {"aws", "gcp", "receive"} <= set(extras)
    for section in re.split(r"^\[", "]\n" + metadata.read_text(), flags=re.MULTILINE):
        title, _, lines = section.partition("]\n")
        if title and title not in extras:
            continue
        for text in filter(None, lines.splitlines()):
            needed = Requirement(text)
            name = needed.name.lower().replace("_", "-")
            assert needed.specifier.contains(locked.get(name, "0")), f"{text}: run 'make lock'"


def lock_command() -> str:
    """Return the command of `make lock` that resolves the packages of the image."""
    text = (ROOT / "Makefile").read_text().replace("\\\n", " ")
    lines: list[str] = re.findall(r"^.*-o requirements/image\.lock$", text, re.MULTILINE)
    (line,) = lines
    return line


def test_the_image_has_the_beam_and_python_of_the_tests() -> None:
    text = DOCKERFILE.read_text()
    assert {v for found in VERSION.finditer(text) for v in found.groups() if v} == {BEAM_VERSION}
    (python,) = re.findall(r"^ARG PYTHON_IMAGE=python:([\d.]+)-slim", text, re.MULTILINE)
    assert f"apache/beam_python{python}_sdk:" in text
    assert f"python{python.replace('.', '')}-template-launcher-base" in text
    assert f"--python-version {python} " in lock_command()


@pytest.mark.slow
@pytest.mark.skipif(
    os.geteuid() != 0 or subprocess.run(["unshare", "--mount", "true"]).returncode != 0,
    reason="needs root with CAP_SYS_ADMIN, to make the file system read-only",
)
def test_the_last_step_of_the_build_passes_without_privileges() -> None:
    folders = (ROOT, Path(sys.base_prefix), Path(sys.prefix))
    is_open = all(p.stat().st_mode & 1 for path in folders for p in (path, *path.parents))
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", ISOLATED, "sh", sys.executable, str(CHECK), "--any-torch"],
        capture_output=True, text=True,
        env={
            "CAPABILITIES": NO_CAPABILITIES if is_open else ONLY_TO_READ, "HOME": "/mnt",
            "TMPDIR": "/mnt", "PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT),
            "PYTHONDONTWRITEBYTECODE": "1",
        },
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines()[-1] == "the default bundle loads and classifies an image"
