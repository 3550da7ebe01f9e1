"""Routing malicious objects: each gets a row with an acceptable reason, and none stops the others."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.cli import main
from tests.conftest import Lake, Route, write
from tests.malicious_files import malicious_files
from tests.synthetic import dicom_bytes, image


@pytest.mark.slow
def test_malicious_files_do_not_stop_the_run(route: Route, lake: Lake, source: Path) -> None:
    expected = {}
    for number, (name, malicious) in enumerate(malicious_files()):
        expected[str(write(source, f"{number}.dcm", malicious.data))] = (name, malicious)
    images = [
        write(source, f"image{n}.dcm", dicom_bytes(image(n, (96, 64)), name=f"9{n}"))
        for n in range(5)
    ]
    summary = route("--max_object_seconds", "20")
    assert summary["counts"]["discovered"] == len(expected) + len(images)
    assert all(lake.row(path)["status"] in ("routed", "review") for path in images)
    unexpected = {}
    for row in lake.rows():
        if row["source_uri"] in expected:
            name, malicious = expected[row["source_uri"]]
            reason = row["reason"] if row["status"] == "quarantined" else None
            if reason not in malicious.reasons:
                unexpected[name] = reason
            assert lake.path(row).read_bytes() == malicious.data, name
    assert not unexpected
    assert main(["verify", str(lake.root), "--deep"]) == 0
