"""Nobody but owner and group can read a lake or temporary files, whatever the umask."""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.cli import main
from tests.conformance import violations
from tests.conftest import Lake, route_into
from tests.format1 import unpack_format1_lakes
from tests.lake.rows import FINGERPRINT, index_row
from tests.leftovers import name_of_dead_process
from transforms.lake.files import put_bytes, remove_partial_files
from transforms.lake.journal import write_journal
from transforms.lake.layout import Layout
from transforms.storage.permissions import (
    folder_mode,
    narrow_umask,
    parse_file_mode,
    private_folder_mode,
)

UMASKS = (0o000, 0o022)


@contextlib.contextmanager
def umask_of(mask: int) -> Iterator[None]:
    """Change the umask of this process, which reads it once."""
    before = os.umask(mask)
    narrow_umask(0)  # forgets what was read
    try:
        yield
    finally:
        os.umask(before)
        narrow_umask(0)


@pytest.fixture(params=UMASKS, ids=["000", "022"])
def umask(request: pytest.FixtureRequest) -> Iterator[int]:
    with umask_of(request.param):
        yield request.param


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder for temporary files of this process and of its children."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))
    monkeypatch.setattr("tempfile.tempdir", str(folder))
    return folder


def modes(root: Path) -> dict[str, int]:
    """Permissions of what is in a folder, and of the folder."""
    paths = [root, *root.rglob("*")]
    return {str(p.relative_to(root)): stat.S_IMODE(p.lstat().st_mode) for p in paths}


def readable_by_others(root: Path) -> list[str]:
    return [f"{name} {mode:o}" for name, mode in modes(root).items() if mode & 0o027]


@pytest.mark.slow
def test_no_mode_makes_files_that_others_can_read(
    routed: Path, lake: Lake, tmp_path: Path, temporary: Path, umask: int
) -> None:
    lenient = ("--policy", str(routed / "lenient.yaml"))
    strict = ("--policy", str(routed / "strict.yaml"))
    source, root = routed / "source", str(lake.root)
    route_into(lake, *lenient, "--ingest_date", "2026-03-01", inputs=(str(source / "0.dcm"),))
    assert not readable_by_others(lake.root), "a first run"
    route_into(lake, *lenient, "--ingest_date", "2026-03-01", inputs=(str(source),))
    assert not readable_by_others(lake.root), "a second run"
    route_into(lake, *strict, "--reprocess", "policy", inputs=(str(source),))
    assert list(lake.root.glob("history/**/*.parquet"))
    assert not readable_by_others(lake.root), "reprocessing"
    assert main(["compact", root]) == 0
    assert list(lake.root.glob("index/*/part-*"))
    assert not readable_by_others(lake.root), "compaction"
    write_journal(Layout(root), [index_row("/in/interrupted")], FINGERPRINT)
    assert not readable_by_others(lake.root), "an interrupted run"
    route_into(lake, *lenient, inputs=(str(source),))
    assert main(["verify", root, "--deep"]) == 0
    assert main(["stop", root]) == 0
    assert not readable_by_others(lake.root), "recovery and a request to stop"
    assert not readable_by_others(lake.root / ".tmp")
    assert main(["inspect", str(source / "0.dcm")]) == 0
    assert {mode for name, mode in modes(lake.root).items() if name.endswith(".dcm")} == {0o640}
    assert modes(lake.root)["objects"] == 0o750 and modes(lake.root)[".tmp"] == 0o700
    assert not [p for p in temporary.rglob("*") if stat.S_IMODE(p.stat().st_mode) & 0o077]
    assert not violations(lake.root)


@pytest.mark.slow
def test_migration_makes_no_files_that_others_can_read(
    tmp_path: Path, temporary: Path, umask: int
) -> None:
    lake = unpack_format1_lakes(tmp_path).lake("two_models")
    before = set(lake.rglob("*"))
    assert main(["compact", str(lake)]) == 0
    assert list(lake.glob("history/**/*.parquet"))
    new = [path for path in lake.rglob("*") if path not in before]
    assert new and not [p for p in new if stat.S_IMODE(p.stat().st_mode) & 0o027]


@pytest.mark.slow
def test_the_demo_makes_no_files_that_others_can_read(lake: Lake, umask: int) -> None:
    assert main(["demo", "--lake", str(lake.root)]) == 0
    assert not readable_by_others(lake.root)


@pytest.mark.slow
def test_the_file_mode_is_an_option_that_the_lake_remembers(
    routed: Path, lake: Lake, capsys: pytest.CaptureFixture[str]
) -> None:
    source = routed / "source"
    day = ("--ingest_date", "2026-03-01")
    with umask_of(0):
        route_into(lake, *day, "--file_mode", "0664", inputs=(str(source / "0.dcm"),))
        route_into(lake, *day, inputs=(str(source),))
        assert main(["compact", str(lake.root)]) == 0
    found = modes(lake.root)
    files = {mode for name, mode in found.items() if (lake.root / name).is_file()}
    assert files == {0o664}
    assert {found["."], found["objects"], found["index"], found["runs"]} == {0o775}
    assert found[".tmp"] == 0o770, "all who may write, and nobody else"


@pytest.mark.parametrize("mode", ["0755", "0440", "0o640", "640x", "rw-r-----", "7", "0"])
def test_a_file_mode_that_cannot_be_is_refused(
    source: Path, lake: Lake, capsys: pytest.CaptureFixture[str], mode: str
) -> None:
    (source / "a").write_bytes(b"x")
    command = ["route", "--input", str(source), "--lake", str(lake.root), "--file_mode", mode]
    assert main(command) == 2
    assert "--file_mode" in capsys.readouterr().err
    assert not lake.root.exists()


@pytest.mark.parametrize(
    ("file_mode", "folder", "private"),
    [("600", 0o700, 0o700), ("0640", 0o750, 0o700), ("0644", 0o755, 0o700), ("660", 0o770, 0o770)],
)
def test_folders_follow_from_files(file_mode: str, folder: int, private: int) -> None:
    assert folder_mode(parse_file_mode(file_mode)) == folder
    assert private_folder_mode(parse_file_mode(file_mode)) == private


@pytest.mark.slow
def test_links_keep_the_permissions_of_their_sources(routed: Path, tmp_path: Path) -> None:
    source = tmp_path / "source"
    shutil.copytree(routed / "source", source)
    expected = {}
    for number, path in enumerate(sorted(source.iterdir())):
        path.chmod((0o600, 0o644, 0o664)[number % 3])
        expected[path.stat().st_ino] = stat.S_IMODE(path.stat().st_mode)
    lake = Lake(tmp_path / "lake")
    route_into(lake, "--placement", "link", inputs=(str(source),))
    linked = [path for path in lake.root.rglob("*.dcm") if path.stat().st_ino in expected]
    assert linked and all(
        stat.S_IMODE(path.stat().st_mode) == expected[path.stat().st_ino] for path in linked
    )
    assert not [
        n for n in readable_by_others(lake.root) if not n.partition(" ")[0].endswith(".dcm")
    ]


@pytest.mark.slow
def test_a_lake_that_others_can_read_keeps_working(copied: Lake, routed: Path, umask: int) -> None:
    for path in [copied.root, *copied.root.rglob("*")]:
        path.chmod(0o777 if path.is_dir() else 0o644)
    before = set(copied.root.rglob("*"))
    strict = ("--policy", str(routed / "strict.yaml"))
    route_into(copied, *strict, "--reprocess", "policy", inputs=(str(routed / "source"),))
    new = [p for p in copied.root.rglob("*") if p not in before]
    assert new and not [p for p in new if stat.S_IMODE(p.stat().st_mode) & 0o027]
    assert main(["verify", str(copied.root), "--deep"]) == 0


READ_DATABASE = """
import os, sys
from transforms.lake import verify, verify_queries
from transforms.lake.layout import Layout
from transforms.storage.temporary import temporary_folder

def die(*args):
    os._exit(9)
os.umask(0)
verify._run_queries = die
verify.verify_lake(Layout(sys.argv[1]))
"""


@pytest.mark.slow
def test_the_database_of_a_killed_verification_is_private_and_removed(
    copied: Lake, temporary: Path
) -> None:
    done = subprocess.run([sys.executable, "-c", READ_DATABASE, str(copied.root)], check=False)
    assert done.returncode == 9
    (folder,) = temporary.iterdir()
    found = modes(folder)
    assert found.pop(".") == 0o700
    assert found == {"verify.duckdb": 0o600}
    assert main(["verify", str(copied.root)]) == 0
    assert not list(temporary.iterdir())


def test_a_run_removes_what_dead_processes_left(tmp_path: Path, temporary: Path) -> None:
    (temporary / name_of_dead_process()).mkdir()
    (temporary / "of another program").touch()
    remove_partial_files(Layout(str(tmp_path / "lake")))
    assert [path.name for path in temporary.iterdir()] == ["of another program"]


COUNT_READS = """
import sys
reads = []
sys.addaudithook(lambda event, args: event == "open" and reads.append(str(args[0])))
from transforms.lake.files import put_bytes
for n in range(5):
    put_bytes(f"{sys.argv[1]}/lake/{n}", b"%d" % n, scratch=f"{sys.argv[1]}/lake/.tmp")
print(reads.count("/proc/self/status"))
"""


def test_the_umask_is_read_once(tmp_path: Path) -> None:
    command = [sys.executable, "-c", COUNT_READS, str(tmp_path)]
    found = subprocess.run(command, capture_output=True, text=True, check=True)
    assert found.stdout == "1\n"
    assert {path.stat().st_mode & 0o027 for path in (tmp_path / "lake").glob("[0-9]")} == {0}


def test_a_umask_that_is_narrowed_later_counts(tmp_path: Path) -> None:
    with umask_of(0o022):
        assert put_bytes(str(tmp_path / "a"), b"a", scratch=str(tmp_path), file_mode=0o664)
        narrow_umask(0o007)
        assert put_bytes(str(tmp_path / "b"), b"b", scratch=str(tmp_path), file_mode=0o664)
    assert [stat.S_IMODE((tmp_path / n).stat().st_mode) for n in "ab"] == [0o644, 0o640]
