"""Only the temporary files of dead processes of this host and PID namespace are removed."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from tests.leftovers import name_of_dead_process
from transforms.storage.processes import boottime, is_running, start_ticks
from transforms.storage.temporary import (
    is_abandoned,
    remove_abandoned,
    temporary_folder,
    temporary_name,
)

FOREIGN = (
    "half",
    "part-00000.parquet",
    "dicom-router-notes.txt",
    "dicom-router-000000000000-1-1-1-x",
    "other-program-1-abc",
    ".nfs000000000001",
)


def test_foreign_and_live_files_stay(tmp_path: Path) -> None:
    kept = {*FOREIGN, temporary_name()}
    for name in (*kept, name_of_dead_process()):
        (tmp_path / name).write_bytes(b"x")
    (tmp_path / "folder").mkdir()
    assert remove_abandoned(tmp_path) == 1
    assert {path.name for path in tmp_path.iterdir()} == {*kept, "folder"}
    assert remove_abandoned(tmp_path) == 0


def test_a_folder_of_a_dead_process_is_removed_whole(tmp_path: Path) -> None:
    folder = tmp_path / name_of_dead_process()
    (folder / "below").mkdir(parents=True)
    (folder / "below" / "index.duckdb").write_bytes(b"x")
    assert remove_abandoned(tmp_path) == 1
    assert not list(tmp_path.iterdir())


def test_a_link_is_removed_but_not_followed(tmp_path: Path) -> None:
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / "file").touch()
    (tmp_path / name_of_dead_process()).symlink_to("kept")
    assert remove_abandoned(tmp_path) == 1
    assert (tmp_path / "kept" / "file").exists()


def test_a_missing_folder_has_nothing_to_remove(tmp_path: Path) -> None:
    assert remove_abandoned(tmp_path / "missing") == 0


@pytest.mark.parametrize("part", ["host", "namespace"])
def test_files_of_other_hosts_and_namespaces_stay(part: str) -> None:
    name = name_of_dead_process()
    assert is_abandoned(name)
    found = re.fullmatch(r"(dicom-router-)([0-9a-f]{12})-([0-9]+)(-.*)", name)
    assert found is not None
    prefix, host, namespace, rest = found.groups()
    if part == "host":
        host = "0" * 12
    else:
        namespace += "0"
    assert not is_abandoned(f"{prefix}{host}-{namespace}{rest}")


@pytest.mark.skipif(shutil.which("unshare") is None, reason="needs unshare(1)")
def test_a_process_in_another_pid_namespace_is_not_taken_for_dead() -> None:
    """Its id means nothing here, where no process may have it."""
    code = "from transforms.storage.temporary import temporary_name; print(temporary_name())"
    command = ["unshare", "--pid", "--fork", "--mount-proc", sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        pytest.skip("this user cannot make PID namespaces")
    assert not is_abandoned(done.stdout.strip())


def test_a_reused_process_id_does_not_keep_a_file() -> None:
    ticks = start_ticks(os.getpid())
    assert ticks is not None
    assert is_running(os.getpid(), ticks)
    assert is_running(os.getpid())
    assert not is_running(os.getpid(), ticks + 1)
    name = temporary_name()
    assert not is_abandoned(name)
    assert is_abandoned(name.replace(f"-{ticks}-", f"-{ticks + 1}-"))


def test_a_zombie_has_ended() -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as child:
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
        assert not is_running(child.pid)


def test_names_differ_and_change_with_the_process() -> None:
    assert temporary_name() != temporary_name()
    reader, writer = os.pipe()
    if (child := os.fork()) == 0:
        os.write(writer, temporary_name().encode())
        os._exit(0)
    os.waitpid(child, 0)
    assert f"-{child}-" in os.read(reader, 200).decode()
    os.close(reader)
    os.close(writer)


def test_a_temporary_folder_is_for_this_user_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    folder = temporary_folder()
    assert folder.parent == tmp_path
    assert folder.stat().st_mode & 0o777 == 0o700


def test_time_since_boot_does_not_fall() -> None:
    assert 0 < boottime() <= boottime()
