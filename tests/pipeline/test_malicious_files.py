"""Every crafted killer goes through a whole run: it has a row with a reason, and so have the others."""

from __future__ import annotations

from pathlib import Path

from pipeline.cli import main
from tests.conftest import Lake, write
from tests.malicious_files import malicious_files
from tests.synthetic import dicom_bytes, image


def test_no_killer_stops_the_rest(route, lake: Lake, source: Path) -> None:
    expected = {}
    for number, (name, killer) in enumerate(malicious_files()):
        expected[str(write(source, f"{number}.dcm", killer.data))] = (name, killer)
    images = [
        write(source, f"film{n}.dcm", dicom_bytes(image(n, (96, 64)), name=f"9{n}"))
        for n in range(5)
    ]
    summary = route("--max_object_seconds", "20")
    assert summary["counts"]["discovered"] == len(expected) + len(images)
    assert all(lake.row(path)["status"] in ("routed", "review") for path in images)
    wrong = {}
    for row in lake.rows():
        if row["source_uri"] in expected:
            name, killer = expected[row["source_uri"]]
            reason = row["reason"] if row["status"] == "quarantined" else None
            if reason not in killer.reasons:
                wrong[name] = reason
            assert Path(row["object_uri"]).read_bytes() == killer.data, name
    assert not wrong
    assert main(["verify", str(lake.root), "--deep"]) == 0
