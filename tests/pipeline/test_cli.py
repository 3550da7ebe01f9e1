"""What a person at a terminal meets: help, exit codes, messages that say what to do."""

from __future__ import annotations

import json
import os
import pty
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline import __version__
from pipeline.cli import COMMANDS, build_parser, command_parser, main
from tests.conftest import Lake, write
from tests.synthetic import dicom_bytes, image


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    capsys.readouterr()
    code = main(arguments)
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_version_and_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(capsys, "--version")[1].split() == ["dicom-router", __version__]
    for command in COMMANDS:
        code, out, _ = run(capsys, command, "--help")
        assert code == 0
        assert "usage: dicom-router" in out


def test_every_option_has_help() -> None:
    parser = build_parser(COMMANDS)
    for command in COMMANDS:
        assert [a.dest for a in command_parser(parser, command)._actions if not a.help] == []


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], "give a command: route, "),
        (["route"], "required: --input, --lake"),
        (["rout"], "unknown command 'rout': did you mean route?"),
        (["unheard"], "unknown command 'unheard'"),
        (["route", "--inp", "{here}"], "unknown option --inp: did you mean --input?"),
        (["route", "--prism-locatoin=x"], "--prism_locatoin: did you mean --prism_location?"),
        (["verify", "{here}", "--dep"], "unknown option --dep: did you mean --deep?"),
        (["verify", "{here}", "{here}"], "unexpected: {here}"),
        (["inspect", "{here}", "--thumbnail", "a.png"], "--thumbnail takes one FILE"),
        (["completion", "tcsh"], "invalid choice: 'tcsh'"),
        (
            ["route", "--input", "{missing}", "--lake", "{lake}"],
            "input 1 ({missing}) matches no object",
        ),
        (["route", "--input", "", "--lake", "{lake}"], "input 1 is empty"),
        (
            ["route", "--source", "manifest", "--input", "{missing}", "--lake", "{lake}"],
            "cannot be read (no such file, or not a regular one)",
        ),
        (["route", "--input", "ftp://b/x", "--lake", "{lake}"], "ftp:// is not supported"),
        (["route", "--input", "{here}", "--lake", "hdfs://b/x"], "hdfs:// is not supported"),
        (["route", "--input", "{here}", "--lake", "gs://"], "names no bucket"),
        (["route", "--input", "{here}", "--lake", "gs:/b/x"], "write gs://"),
        (["route", "--input", "gs://b*/x", "--lake", "{lake}"], "must be named in full"),
        (["route", "--input", "{here}", "--lake", "{lake}\udcff"], "not valid Unicode"),
        (
            ["route", "--input", "{here}", "--lake", "gs://b/x", "--placement", "link"],
            "an object store has no links",
        ),
        (["route", "--input", "{here}", "--lake", "{file}"], "give a folder"),
        (["route", "--input", "{here}", "--lake", "{lake}", "--batch_size", "0"], "--batch_size"),
        (["route", "--input", "{here}", "--lake", "{lake}", "--ingest_date", "x"], "YYYY-MM-DD"),
        (["route", "--input", "{here}", "--lake", "{lake}", "--model", "{missing}"], "bundle"),
        (["route", "--input", "{here}", "--lake", "{lake}", "--policy", "{missing}"], "--policy"),
        (
            ["route", "--input", "{here}", "--lake", "{lake}", "--policy", "{bad}"],
            "thresholds.hand",
        ),
        (
            ["route", "--input", "{here}", "--lake", "{lake}", "--runner", "SparkRunner"],
            "--runner: invalid choice: 'SparkRunner'",
        ),
        (
            ["route", "--input", "{here}", "--lake", "{lake}", "--max-frames", "many"],
            "--max_frames: 'many' is not a whole number",
        ),
        (
            ["route", "--input", "{here}", "--lake", "{lake}", "--max-object-seconds", "nan"],
            "--max_object_seconds: 'nan' is not a number",
        ),
        (
            ["route", "--input", "{here}", "--lake", "{lake}", "--patient_key_file", "{file}"],
            "fewer than 16",
        ),
        (["route", "--input", "{here}", "--lake", "{lake}", "--placment", "link"], "--placment"),
        (
            ["route", "--input", "{here}", "--lake", "{lake}", "--fetch_threads", "0"],
            "fetch_threads",
        ),
        (["route", "--input", "{here}", "--lake", "{lake}", "--ingest_date", "20260101"], "YYYY"),
        (["verify", "{missing}"], "no such folder"),
    ],
    ids=str,
)
def test_wrong_usage_is_exit_2_and_says_what_to_do(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, arguments: list[str], says: str
) -> None:
    here = tmp_path / "here"
    here.mkdir()
    (here / "a.dcm").write_bytes(dicom_bytes(image(shape=(64, 64))))
    (tmp_path / "file").write_bytes(b"short")
    (tmp_path / "bad.yaml").write_text("thresholds: {hand: 1}")
    places = {
        "here": here, "lake": tmp_path / "lake", "file": tmp_path / "file",
        "bad": tmp_path / "bad.yaml", "missing": tmp_path / "missing",
    }  # fmt: skip
    code, out, err = run(capsys, *(a.format(**places) for a in arguments))
    assert code == 2
    assert says.format(**places) in err
    assert "Traceback" not in out + err
    assert "usage:" not in out + err
    assert not (tmp_path / "lake").exists()


@pytest.mark.slow
def test_hyphens_and_underscores_are_alike(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "in").mkdir()
    arguments = ["route", "--input", str(tmp_path / "in"), "--lake", str(tmp_path / "lake")]
    code, out, _ = run(capsys, *arguments, "--allow-empty", "--ingest-date=2026-01-02", "--json")
    assert code == 0
    assert json.loads(out)["options"]["ingest_date"] == "2026-01-02"


def test_an_old_name_is_accepted_with_a_warning(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    arguments = ["route", "--input", str(tmp_path), "--lake", str(tmp_path / "lake")]
    code, _, err = run(capsys, *arguments, "--settle_for", "3")
    assert "warning: --settle_for is deprecated; use --stable_for" in err
    assert code == 2
    assert "--stable_for needs a streaming source" in err
    assert "settle_for" not in run(capsys, "route", "--help")[1]
    code, _, err = run(capsys, *arguments, "--passes", "3")
    assert (code, "unknown option --passes" in err) == (2, True), "of another command"


def test_help_shows_defaults(capsys: pytest.CaptureFixture[str]) -> None:
    text = " ".join(run(capsys, "train", "--help")[1].split())
    assert "as many images as the train split has [default: 6]" in text
    assert "makes epochs faster [default: 0]" in text
    text = " ".join(run(capsys, "route", "--help")[1].split())
    assert "[default: 536870912 (512 MiB)]" in text
    assert text.count("at most 8 on a CPU [default: 32]") == 1


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_knows_commands_and_options(
    capsys: pytest.CaptureFixture[str], shell: str
) -> None:
    code, out, _ = run(capsys, "completion", shell)
    assert code == 0
    for name in ("verify", "ingest_date", "index_only", "holdout_sources"):
        assert name in out
    if program := shutil.which(shell):
        checked = subprocess.run([program, "-n"], input=out, capture_output=True, text=True)
        assert (checked.returncode, checked.stderr) == (0, "")


def test_debug_shows_the_traceback_of_an_error(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    arguments = ("verify", str(tmp_path / "missing"))
    assert "Traceback" not in run(capsys, *arguments)[2]
    code, _, err = run(capsys, *arguments, "--debug")
    assert code == 2
    assert err.startswith("Traceback (most recent call last):")
    assert "existing_lake" in err
    assert err.splitlines()[-1].startswith("error: ")


def test_the_log_level_is_that_of_the_router_alone(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    import logging

    run(capsys, "verify", str(tmp_path), "--log_level", "INFO")
    assert logging.getLogger("transforms.lake.verify").isEnabledFor(logging.INFO)
    assert not logging.getLogger("pydicom").isEnabledFor(logging.INFO)
    assert not logging.getLogger("apache_beam").isEnabledFor(logging.ERROR)
    run(capsys, "verify", str(tmp_path), "--debug")
    assert logging.getLogger("dicom_router").isEnabledFor(logging.DEBUG)
    assert logging.getLogger("apache_beam").isEnabledFor(logging.ERROR)
    run(capsys, "verify", str(tmp_path))
    assert not logging.getLogger("dicom_router").isEnabledFor(logging.INFO)


@pytest.mark.skipif("os.path.exists('/dev/nvidia0')", reason="needs a machine without CUDA")
def test_cuda_that_is_not_there_is_an_error_before_any_work(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "a.dcm").write_bytes(dicom_bytes(image(shape=(64, 64))))
    lake = tmp_path / "lake"
    code, _, err = run(
        capsys, "route", "--input", str(tmp_path), "--lake", str(lake), "--device", "cuda"
    )
    assert code == 2
    assert "no usable CUDA device" in err
    assert not lake.exists()


@pytest.mark.slow
def test_an_empty_input_is_allowed_when_asked(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "in").mkdir()
    arguments = ["route", "--input", str(tmp_path / "in"), "--lake", str(tmp_path / "lake")]
    assert run(capsys, *arguments)[0] == 2
    code, out, _ = run(capsys, *arguments, "--allow_empty")
    assert code == 0
    assert "0 discovered = 0 routed" in out


@pytest.mark.slow
def test_the_table_shows_sinks_reasons_and_the_equation(
    capsys: pytest.CaptureFixture[str], source: Path, lake: Lake
) -> None:
    (source / "a.dcm").write_bytes(dicom_bytes(image(shape=(64, 64))))
    (source / "DOE^JOHN.txt").write_bytes(b"no DICOM")
    code, out, err = run(capsys, "route", "--input", str(source), "--lake", str(lake.root))
    assert code == 0
    assert "2 discovered = " in out
    assert "1 quarantined" in out
    assert "not_dicom: the object is not a DICOM file" in out
    assert "runner FnApiRunner" in err
    assert "DOE" not in out + err


@pytest.mark.slow
def test_quiet_says_nothing(capsys: pytest.CaptureFixture[str], source: Path, lake: Lake) -> None:
    (source / "a.dcm").write_bytes(dicom_bytes(image(shape=(64, 64))))
    arguments = ["route", "--input", str(source), "--lake", str(lake.root), "--quiet"]
    assert run(capsys, *arguments) == (0, "", "")


def test_inspect_explains(capsys: pytest.CaptureFixture[str], source: Path, tmp_path: Path) -> None:
    path = source / "JANE^DOE.dcm"
    path.write_bytes(dicom_bytes(image(shape=(64, 64)), BodyPartExamined="HAND"))
    picture = tmp_path / "thumbnail.png"
    code, out, err = run(capsys, "inspect", str(path), "--thumbnail", str(picture))
    assert code == 0
    for part in (
        "body_part_examined",
        "HAND",
        "adult_chest",
        "ood_score",
        "the header says others",
    ):
        assert part in out
    assert "DOE" not in out + err
    assert picture.read_bytes().startswith(b"\x89PNG")
    (source / "broken").write_bytes(b"x")
    code, out, err = run(capsys, "inspect", str(source / "broken"), str(source / "none"))
    assert code == 1
    assert "quarantined: the object is not a DICOM file" in out
    assert f"file 2 ({source / 'none'}) cannot be read: No such file" in err


@pytest.mark.slow
def test_inspect_leaves_no_files(source: Path, tmp_path: Path) -> None:
    (source / "a.dcm").write_bytes(dicom_bytes(image(shape=(64, 64))))
    folders = {name: tmp_path / name for name in ("HOME", "TMPDIR", "PWD", "XDG_CACHE_HOME")}
    for folder in folders.values():
        folder.mkdir()
    environment = {**os.environ, **{name: str(folder) for name, folder in folders.items()}}
    environment["PYTHONPATH"] = str(Path(__file__).parents[2])
    before = set(tmp_path.rglob("*"))
    command = [sys.executable, "-m", "pipeline", "inspect", str(source)]
    subprocess.run(command, cwd=folders["PWD"], env=environment, check=True, capture_output=True)
    assert set(tmp_path.rglob("*")) == before


@pytest.mark.slow
def test_inspect_explains_the_objects_of_folders_and_globs(
    capsys: pytest.CaptureFixture[str], source: Path, tmp_path: Path
) -> None:
    for number, name in enumerate(("JANE^DOE.dcm", "JOHN^DOE", ".DS_Store")):
        data = dicom_bytes(image(number, (64, 64)), name=str(number), Rows=64)
        write(source, f"folder/{name}", data)
    (tmp_path / "empty").mkdir()
    for pattern in (str(source), str(source / "*" / "*")):
        code, out, err = run(capsys, "inspect", pattern)
        assert (code, err) == (0, "")
        assert out.count("object ") == out.count("modality") == 2
        assert "DOE" not in out
    code, out, err = run(capsys, "inspect", str(source), "--log_uris")
    assert str(source / "folder" / "JOHN^DOE") in out.splitlines()
    code, out, err = run(capsys, "inspect", str(tmp_path / "empty"))
    assert (code, out) == (1, "")
    assert f"file 1 ({tmp_path / 'empty'}) cannot be read: No such file" in err


@pytest.mark.slow
def test_a_terminal_gets_a_live_line_and_a_pipe_does_not(source: Path, lake: Lake) -> None:
    for number in range(3):
        data = dicom_bytes(image(number, (64, 64)), name=str(number))
        (source / f"{number}.dcm").write_bytes(data)
    command = [sys.executable, "-m", "pipeline", "route", "--input", str(source), "--lake"]
    primary, secondary = pty.openpty()
    done = subprocess.run(
        [*command, str(lake.root)], stdout=subprocess.PIPE, stderr=secondary, check=True
    )
    os.close(secondary)
    shown = os.read(primary, 1 << 16).decode()
    os.close(primary)
    assert "\r3 discovered, 3 done" in shown
    assert b"3 discovered = " in done.stdout
    piped = subprocess.run([*command, str(lake.root)], capture_output=True, check=True)
    assert b"\r" not in piped.stderr


@pytest.mark.slow
def test_demo_shows_a_chest_and_a_leg(capsys: pytest.CaptureFixture[str], lake: Lake) -> None:
    code, out, _ = run(capsys, "demo", "--lake", str(lake.root))
    assert code == 0
    lines = {line.split()[0]: line for line in out.splitlines() if line.strip()}
    assert " adult_chest " in lines["RG1_UNCR.dcm"]
    assert " adult_chest " in lines["RG1_J2KR.dcm"]
    assert " others " in lines["RG3_UNCR.dcm"]
    assert "not_xray" in lines["CT_small.dcm"]
    assert "quarantine" in lines["README.txt"]
    assert "13 discovered = 4 routed + 0 review + 6 not_xray + 3 quarantined" in out
    code, out, _ = run(capsys, "verify", str(lake.root), "--deep", "--json")
    assert code == 0
    assert json.loads(out)["rows"] == 13
