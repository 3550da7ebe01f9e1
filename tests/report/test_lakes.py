"""Reports on lakes of every kind, and at the end of a run."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.cli import main
from tests.format1 import unpack_format1_lakes
from tests.lake.rows import append_rows, place
from tests.report.lakes import ROWS, write_pictures
from tests.report.pages import read_page
from tests.stores import Store
from tests.synthetic import dicom_bytes, image
from transforms.lake.layout import Layout
from transforms.lake.marker import write_marker


def test_a_lake_in_a_store_has_the_same_page(store: Store, tmp_path: Path) -> None:
    layout = Layout(f"{store.root}/lake")
    write_marker(layout)
    placed = place(layout, "/in/decoded", dicom_bytes(image(1, (96, 64))), confidence=0.8)
    append_rows(layout, *ROWS, placed)
    write_pictures(layout, 8, "2026-01-01")
    report = tmp_path / "report.html"
    assert main(["report", layout.root, "--out", str(report)]) == 0
    page = read_page(report)
    assert "11 rows = 8 routed + 2 review" in page.text and layout.root in page.text
    tiles = [picture for picture in page.named("img") if picture["alt"]]
    assert len(tiles) == 3 + 2 + 7, "disagreements, images in review, and those routed to spine"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "rows"), [("batch", 13), ("sinks", 12), ("interrupted", 6), ("stream", 12)]
)
def test_a_lake_of_format_1_has_a_page_and_stays_as_it_is(
    name: str, rows: int, tmp_path: Path
) -> None:
    lake = unpack_format1_lakes(tmp_path).lake(name)
    before = sorted(path.relative_to(lake) for path in lake.rglob("*"))
    report = tmp_path / "report.html"
    assert main(["report", str(lake), "--out", str(report)]) == 0
    page = read_page(report)
    assert f"{rows} rows =" in page.text
    assert page.named("img") and "could not be decoded" not in page.text
    assert sorted(path.relative_to(lake) for path in lake.rglob("*")) == before


@pytest.mark.slow
def test_a_run_writes_its_report_and_says_what_waits(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, lake, report = tmp_path / "in", tmp_path / "lake", tmp_path / "report.html"
    source.mkdir()
    for number in range(3):
        data = dicom_bytes(image(number, (96, 64)), name=str(number), BodyPartExamined="CHEST")
        (source / f"{number}.dcm").write_bytes(data)
    policy = tmp_path / "policy.yaml"
    zero = "thresholds: {abdominal: 0, adult_chest: 1, pediatric_chest: 1, spine: 0, others: 0}\n"
    policy.write_text(f"{zero}ood_threshold: 1000\n")
    command = ["route", "--input", str(source), "--lake", str(lake), "--policy", str(policy)]
    assert main([*command, "--report", str(report)]) == 0
    out = capsys.readouterr().out
    page = read_page(report)
    (run,) = (lake / "runs").glob("*.json")
    assert f"run {run.stem}" in page.text and "3 discovered = " in page.text
    wrong, waiting = len(page.named("img")), page.text.count("in review")
    assert wrong and waiting
    assert f"see them: dicom-router report {lake} --run {run.stem}" in out
    assert f"report: {report}" in out
    assert "Time of each step" in page.text

    assert main([*command, "--report", str(tmp_path / "missing" / "report.html")]) == 2
    assert "no such folder" in capsys.readouterr().err
    assert main([*command, "--report", str(report)]) == 0
    out = capsys.readouterr().out
    assert "see them" not in out, "a run that wrote no rows leaves nothing"
    assert "+ 3 unchanged" in read_page(report).text
