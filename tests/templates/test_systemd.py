"""systemd units and cron table: valid, hardened, closed to the network, with commands that exist."""

from __future__ import annotations

import grp
import os
import pwd
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.templates.commands import TEMPLATES, check_command

FOLDER = TEMPLATES / "systemd"
UNITS = sorted(FOLDER.glob("*.service"))
TIMERS = sorted(FOLDER.glob("*.timer"))
MAX_EXPOSURE = 3.0
PROGRAM = "/opt/dicom-router/bin/dicom-router"
CREDENTIALS = "${CREDENTIALS_DIRECTORY}"
FORBIDDEN_IN_CRON = "%"  # a newline, unless escaped
CRON_LINE = re.compile(r"(?P<time>(?:[\d*,/-]+ ){5})(?P<user>\S+) (?P<command>.+)")

needs_systemd = pytest.mark.skipif(
    shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed"
)
each_unit = pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.stem)


def analyze(*arguments: str) -> str:
    done = subprocess.run(["systemd-analyze", *arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def settings(unit: Path, key: str) -> list[str]:
    """Return the values of a key; a backslash continues a line."""
    text = re.sub(r"\\\n\s*", "", unit.read_text())
    return re.findall(rf"^{key}=(.*)$", text, re.MULTILINE)


def commands(unit: Path) -> list[list[str]]:
    """Return the command lines of the router in a unit."""
    lines = [
        shlex.split(line) for key in ("ExecStart", "ExecStartPost") for line in settings(unit, key)
    ]
    return [words[1:] for words in lines if words[0] == PROGRAM]


@needs_systemd
@each_unit
def test_a_unit_is_hardened(unit: Path) -> None:
    report = analyze(
        "security", "--offline=true", f"--threshold={MAX_EXPOSURE * 10:.0f}", str(unit)
    )
    (exposure,) = re.findall(r"Overall exposure level for \S+: ([0-9.]+)", report)
    assert float(exposure) < MAX_EXPOSURE


@needs_systemd
@pytest.mark.parametrize("unit", [*UNITS, *TIMERS], ids=lambda unit: unit.name)
def test_a_unit_is_valid(unit: Path, tmp_path: Path) -> None:
    """Its programs, and the service of a timer, must exist in the root that is verified."""
    (folder := tmp_path / "etc" / "systemd" / "system").mkdir(parents=True)
    for one in (unit, unit.with_suffix(".service")):
        shutil.copy(one, folder)
        for program in re.findall(r"^Exec\w+=(\S+)", one.read_text(), re.MULTILINE):
            path = tmp_path / program.lstrip("/")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch(0o755)
    for name in (
        "sysinit.target",
        "basic.target",
        "shutdown.target",
        "network-online.target",
        "timers.target",
    ):
        (folder / name).write_text("[Unit]\nDefaultDependencies=no\n")
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", "--recursive-errors=no",
         f"--root={tmp_path}", f"/etc/systemd/system/{unit.name}"],
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert unit.name not in done.stderr, "an unknown key is only a warning"


@each_unit
def test_a_unit_denies_the_network_and_keeps_files_private(unit: Path) -> None:
    lines = unit.read_text().splitlines()
    assert "IPAddressDeny=any" in lines
    assert [line for line in lines if line.startswith("IPAddressAllow=")] == [
        "IPAddressAllow=localhost"
    ]
    assert "UMask=0027" in lines


@each_unit
def test_the_commands_of_a_unit_are_those_of_the_router(unit: Path, tmp_path: Path) -> None:
    """They may write below its writable folders only, and read credentials that it loads."""
    found = commands(unit)
    assert found or "report" in unit.stem  # whose shell runs it
    loaded = [one.partition(":")[0] for one in settings(unit, "LoadCredential")]
    writable = " ".join(settings(unit, "ReadWritePaths")).split()
    for words in found:
        names = [w.partition("/")[2] for w in words if CREDENTIALS in w]
        assert set(names) <= set(loaded)
        args = check_command([w.replace(CREDENTIALS, "/run/credentials") for w in words], tmp_path)
        lake = getattr(args, "lake", None) or getattr(args, "folder", None)
        if args.command in ("route", "compact", "receive"):
            assert str(lake).removeprefix(str(tmp_path)) in writable


def test_the_report_is_the_one_of_the_last_run(tmp_path: Path) -> None:
    (line,) = settings(FOLDER / "dicom-router-report.service", "ExecStart")
    (command,) = re.findall(rf"\$\({PROGRAM} ([^)]*?) 2>&1\)", line)
    args = check_command(command.split(), tmp_path)
    assert (args.command, args.run, args.text) == ("report", "latest", True)


@pytest.mark.skipif(
    shutil.which("systemd-sysusers") is None or os.geteuid() != 0,
    reason="systemd-sysusers is not installed, or this is not root",
)
def test_users_and_folders_are_those_of_the_units(tmp_path: Path) -> None:
    """systemd creates both in a folder."""
    users = re.findall(
        r"^u\s+(\S+)", (FOLDER / "dicom-router.sysusers.conf").read_text(), re.MULTILINE
    )
    named = {user for unit in UNITS for key in ("User", "Group") for user in settings(unit, key)}
    assert named == set(users)
    (tmp_path / "etc").mkdir()
    subprocess.run(
        ["systemd-sysusers", f"--root={tmp_path}", str(FOLDER / "dicom-router.sysusers.conf")],
        check=True, capture_output=True,
    )  # fmt: skip
    entries = (tmp_path / "etc" / "passwd").read_text()
    assert [line.split(":")[0] for line in entries.splitlines()] == users
    assert all(line.endswith("/usr/sbin/nologin") for line in entries.splitlines())
    rules = [
        line.split() for line in (FOLDER / "dicom-router.tmpfiles.conf").read_text().splitlines()
        if line and not line.startswith("#")
    ]  # fmt: skip
    created = {path for _, path, *_ in rules}
    assert {owner for *_, owner, group in rules} | {group for *_, group in rules} <= {
        *users,
        "root",
    }
    for unit in UNITS:
        for key in ("ReadOnlyPaths", "ReadWritePaths"):
            assert set(" ".join(settings(unit, key)).split()) <= created
    here = "\n".join(
        f"{kind} {path} {mode} {pwd.getpwuid(0).pw_name} {grp.getgrgid(0).gr_name}"
        for kind, path, mode, _, _ in rules
    )
    (tmp_path / "rules.conf").write_text(here + "\n")
    subprocess.run(
        ["systemd-tmpfiles", "--create", f"--root={tmp_path}", str(tmp_path / "rules.conf")],
        check=True, capture_output=True,
    )  # fmt: skip
    modes = {
        path: f"{(tmp_path / path.lstrip('/')).stat().st_mode & 0o7777:04o}" for path in created
    }
    assert modes == {path: mode for _, path, mode, _, _ in rules}


def test_the_cron_table_runs_commands_of_the_router(tmp_path: Path) -> None:
    lines = [
        line for line in (TEMPLATES / "cron" / "dicom-router").read_text().splitlines()
        if line and not line.startswith("#") and "=" not in line.split(" ")[0]
    ]  # fmt: skip
    seen = []
    for line in lines:
        found = CRON_LINE.fullmatch(line)
        assert found and found["user"] == "dicom-router", line
        assert FORBIDDEN_IN_CRON not in found["command"]
        words = shlex.split(found["command"])
        assert PROGRAM in words
        args = check_command(words[words.index(PROGRAM) + 1 :], tmp_path)
        seen.append(args.command)
    assert seen == ["route", "report", "compact"]
