"""The text of a report fits into a mail, and its JSON into a program."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pipeline.cli import main
from pipeline.exit_codes import DONE, USAGE
from pipeline.report.digest import MAX_LINE
from pipeline.review.queues import TITLES, Queue
from tests.lake.rows import append_rows, lake_of, new_lake
from tests.report.lakes import ROWS, WRONG, row, summary
from transforms.core.reasons import Reason, Stage, Status
from transforms.lake.dead_letters import write_dead_letter
from transforms.lake.layout import Layout

RUN = "20260101T000000Z-0"


@pytest.fixture(scope="module")
def layout(tmp_path_factory: pytest.TempPathFactory) -> Layout:
    """A lake with everything that the text can show, more than once."""
    quarantined = [
        row(
            20 + number,
            status=Status.QUARANTINED,
            stage=Stage.HEADER,
            reason=reason,
            destination="quarantine",
            manufacturer="ACME\nBcc: x@example.org",
        )
        for number, reason in enumerate(
            [Reason.NOT_DICOM, Reason.NOT_DICOM, Reason.TRUNCATED, Reason.EMPTY, Reason.MISSING_UID]
        )
    ]
    made = lake_of(tmp_path_factory.mktemp("digest") / "lake", ROWS)
    append_rows(made, *quarantined, *(row(n, **WRONG, run_id=RUN) for n in range(40, 46)))
    write_dead_letter(made, "1", Reason.DISAPPEARED, "gs://b/DOE.dcm")
    failure = {"object_key": "0a1b2c3d4e5f", "stage": "place", "reason": "no_space", "detail": ""}
    unmet = {
        "key": "expect.max_review_share",
        "met": False,
        "text": "expected at most 1.0%, found 9.0%",
    }
    content = summary(
        RUN,
        complete=False,
        failures=[failure] * 9,
        expectations=[unmet] * 9,
        started_at="2026-01-01T00:00:00Z",
        host="h",
        duration_s=90,
        inputs=1,
        objects_per_s=2.0,
        bytes_per_s=3e6,
    )
    folder = Path(made.incomplete_runs)
    folder.mkdir(parents=True)
    (folder / f"{RUN}.json").write_text(json.dumps(content))
    return made


def output(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert main(["report", *arguments]) == DONE
    return capsys.readouterr().out


def test_a_mail_says_what_arrived_what_waits_and_what_is_wrong(
    layout: Layout, capsys: pytest.CaptureFixture[str]
) -> None:
    text = output(capsys, layout.root, "--text")
    lines = text.splitlines()
    assert lines[0] == f"Lake {layout.root}, all current rows: something is wrong"
    assert "2026-01-01T00:00:00Z on h, 1 min 30 s, 1 input, 2.0 objects/s, 3.0 MB/s" in lines[1]
    for part in (
        "21 objects, ",
        "13 spine",
        "by modality: ",
        "2 images in review: 2 low_confidence",
        f"run {RUN} is incomplete",
        "0a1b2c3d4e5f at place: no_space",
        "expected at most 1.0%, found 9.0%",
        "2 quarantined, not_dicom: the object is not a DICOM file (PS3.10); remove it",
        "9 of 13 headers name another region than the pixels, most certainly:",
        f"{ROWS[3].object_key}: header abdominal, pixels spine",
        "check them with: dicom-router review ",
        f"(queue '{TITLES[Queue.DISAGREEMENTS]}')",
        "1 SOP Instance UID with different contents (2 objects): all are kept; ask the sender",
        "1 dead letter in dead_letters/",
    ):
        assert part in text, part
    assert lines.index("HEADERS") < lines.index("WRONG")
    assert len(lines) <= 37
    assert max(map(len, lines)) <= MAX_LINE
    assert "\nBcc" not in text, "a header's value adds no line"
    assert "DOE" not in text and "/in/" not in text


def test_the_latest_run_alone(layout: Layout, capsys: pytest.CaptureFixture[str]) -> None:
    text = output(capsys, layout.root, "--run", "latest", "--text")
    assert f"run {RUN}: something is wrong" in text
    assert "6 of 6 headers name another region" in text
    found: dict[str, Any] = json.loads(output(capsys, layout.root, f"--run={RUN}", "--json"))
    assert (found["run_id"], found["totals"]["images"]) == (RUN, 6)
    assert found["run"]["complete"] is False
    assert {one["destination"] for one in found["disagreements"]} == {"spine"}
    assert found["drift"]["baseline"].startswith("all rows of this lake that were ingested before")


def test_wrong_headers_alone_are_no_fault_of_the_lake(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    modalities = [row(n, modality=name) for n, name in enumerate("ABCDE", 2)]
    layout = lake_of(tmp_path / "lake", [row(1, **WRONG), *modalities])
    text = output(capsys, layout.root, "--text")
    assert text.splitlines()[0].endswith(": all is well")
    assert "1 of 6 headers name another region than the pixels" in text
    assert "WRONG\n  nothing" in text
    assert "by modality: 1 A, 1 B, 1 C, 1 D, 2 more" in text


def test_a_lake_without_rows(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lake = new_lake(tmp_path / "lake").root
    text = output(capsys, lake, "--text")
    assert "all is well" in text
    assert "0 objects, 0 bytes: nothing" in text
    assert json.loads(output(capsys, lake, "--json"))["totals"]["rows"] == 0
    assert [path.name for path in tmp_path.iterdir()] == ["lake"], "no page was written"
    assert main(["report", lake, "--run", "latest", "--text"]) == USAGE
    assert "no run of" in capsys.readouterr().err
    assert main(["report", lake, "--text", "--json"]) == USAGE
    page = tmp_path / "page.html"
    assert "all is well" in output(capsys, lake, "--text", "--out", str(page))
    assert page.stat().st_size > 1000


def test_the_page_names_what_the_policy_does_not_expect(
    layout: Layout, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "page.html"
    output(capsys, layout.root, "--out", str(page), "--images", "0")
    assert f"Run {RUN}: expected at most 1.0%, found 9.0%" in page.read_text()
