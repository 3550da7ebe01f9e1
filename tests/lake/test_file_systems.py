"""Lakes on file systems without hard links, such as exFAT, SMB and many in user space."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline.cli import main
from tests.conformance import violations
from tests.conftest import Lake, Route, counts
from transforms.lake.files import put_bytes
from transforms.storage import renames
from transforms.storage.renames import (
    NamesUnsupported,
    file_system_type,
    give_name,
    has_hard_links,
    require_names,
)


def refuse_links(monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    def link(*args: Any, **kwargs: Any) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "link", link)


@pytest.fixture
def no_links(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let link(2) fail as on file systems without hard links."""
    refuse_links(monkeypatch, errno.EPERM)


@pytest.fixture
def no_flags(no_links: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let renameat2(2) fail as it does on file systems without its flags."""

    def rename(source: Path, target: Path, flags: int) -> None:
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))

    monkeypatch.setattr(renames, "_renameat2", rename)


@pytest.fixture
def replacing(no_links: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let renameat2(2) ignore its flags, as a file system in user space may."""
    monkeypatch.setattr(renames, "_renameat2", lambda source, target, _: source.replace(target))


@pytest.mark.parametrize("code", [errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK])
def test_a_file_is_named_without_replacing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    refuse_links(monkeypatch, code)
    first, second, name = tmp_path / "first", tmp_path / "second", tmp_path / "name"
    first.write_bytes(b"1")
    second.write_bytes(b"2")
    give_name(first, name)
    with pytest.raises(FileExistsError):
        give_name(second, name)
    assert name.read_bytes() == b"1" and not first.exists()
    assert not has_hard_links(tmp_path)
    require_names(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"second", "name"}


@pytest.mark.parametrize("unsupported", ["no_flags", "replacing"])
def test_a_file_system_that_could_replace_is_refused(
    tmp_path: Path, unsupported: str, request: pytest.FixtureRequest
) -> None:
    request.getfixturevalue(unsupported)
    with pytest.raises(NamesUnsupported):
        require_names(tmp_path)
    assert not list(tmp_path.iterdir())


def test_an_object_is_not_replaced(tmp_path: Path, no_links: None) -> None:
    target, scratch = str(tmp_path / "t.dcm"), str(tmp_path / ".tmp")
    assert put_bytes(target, b"x", scratch=scratch) is True
    assert put_bytes(target, b"x", scratch=scratch) is False
    assert not list((tmp_path / ".tmp").iterdir())


@pytest.mark.slow
def test_a_lake_without_hard_links(
    routed: Path, lake: Lake, route: Route, no_links: None, capsys: pytest.CaptureFixture[str]
) -> None:
    lenient = ("--policy", str(routed / "lenient.yaml"))
    strict = ("--policy", str(routed / "strict.yaml"))
    day, inputs = ("--ingest_date", "2026-03-01"), (str(routed / "source"),)
    assert counts(route(*lenient, *day, inputs=(str(routed / "source" / "0.dcm"),))) == {
        "routed": 1
    }
    summary = route(*lenient, *day, inputs=inputs)
    assert counts(summary) == {
        "routed": 2,
        "duplicate": 1,
        "not_xray": 1,
        "quarantined": 1,
        "unchanged": 1,
    }
    route(*strict, "--reprocess", "policy", inputs=inputs)
    assert main(["compact", str(lake.root)]) == 0
    assert main(["verify", str(lake.root), "--deep"]) == 0
    assert not violations(lake.root)


@pytest.mark.slow
@pytest.mark.parametrize(
    "command",
    [
        lambda lake, source: ["route", "--input", source, "--lake", lake],
        lambda lake, source: ["compact", lake],
    ],
    ids=["route", "compact"],
)
def test_an_unsupported_file_system_is_named_before_anything_runs(
    routed: Path,
    copied: Lake,
    no_flags: None,
    capsys: pytest.CaptureFixture[str],
    command: Callable[[str, str], list[str]],
) -> None:
    before = copied.tree()
    assert main(command(str(copied.root), str(routed / "source"))) == 2
    err = capsys.readouterr().err
    assert f"{copied.root} is on a file system ({file_system_type(copied.root)})" in err
    assert "choose a folder on another one" in err
    assert copied.tree() == before
    assert not list((copied.root / ".tmp").iterdir())


@pytest.mark.slow
def test_links_are_refused_where_there_are_none(
    routed: Path, lake: Lake, no_links: None, capsys: pytest.CaptureFixture[str]
) -> None:
    source = str(routed / "source")
    command = ["route", "--input", source, "--lake", str(lake.root), "--placement", "link"]
    assert main(command) == 2
    assert "has no hard links; use --placement copy" in capsys.readouterr().err
    assert not list(lake.root.glob("index/**/*.parquet"))


def test_the_type_of_a_file_system() -> None:
    assert file_system_type(Path("/proc/self")) == "proc"
    assert file_system_type(Path("/")) != "unknown"
