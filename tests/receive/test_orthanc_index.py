"""The steps of docs/howto/index-a-sink-with-orthanc.md give Orthanc all objects of a sink."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import duckdb
import pytest
import requests

from tests.lake.rows import append_rows, new_lake, place
from tests.receive.orthanc import CREDENTIALS, needs_orthanc, orthanc
from tests.synthetic import dicom_bytes, image

PAGE = Path(__file__).parents[2] / "docs" / "howto" / "index-a-sink-with-orthanc.md"
needs_curl = pytest.mark.skipif(shutil.which("curl") is None, reason="no curl")


def block_of(language: str) -> str:
    (found,) = re.findall(rf"```{language}\n(.+?)```", PAGE.read_text(), re.S)
    return str(found)


@needs_orthanc
@needs_curl
@pytest.mark.slow
def test_orthanc_has_all_objects_of_the_sink_with_their_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    layout = new_lake(tmp_path / "LAKE")
    objects = {}
    for number in range(3):
        data = dicom_bytes(image(number, (32, 24)), name=str(number))
        sink = "spine" if number == 2 else "adult_chest"
        uid = f"1.2.826.0.1.3680043.10.1473.3.{number}"
        row = place(layout, f"/in/{number}", data, destination=sink, sop_instance_uid=uid)
        append_rows(layout, row)
        if sink == "adult_chest":
            objects[uid] = data
    monkeypatch.chdir(tmp_path)
    with orthanc(tmp_path / "orthanc") as server:
        variables = {"ORTHANC": server.url, "CREDENTIALS": ":".join(CREDENTIALS)}
        for _ in range(2):
            script = f"set -eo pipefail\n{block_of('bash')}"
            done = subprocess.run(
                ["bash", "-c", script],
                env={**os.environ, **variables},
                capture_output=True,
                text=True,
            )
            assert done.returncode == 0, done.stderr
            assert server.get("statistics")["CountInstances"] == len(objects)
        assert duckdb.sql(block_of("sql")).fetchall() == [(len(objects),)]
        for name in server.get("instances"):
            tags = server.get(f"instances/{name}/simplified-tags")
            stored = requests.get(
                f"{server.url}/instances/{name}/file", auth=CREDENTIALS, timeout=60
            )
            assert stored.content == objects[tags["SOPInstanceUID"]]
