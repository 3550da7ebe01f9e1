"""A small lake that the tests of this folder copy and change."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Final

import pytest

from models.default_bundle import DEFAULT_BUNDLE
from pipeline.cli import main
from tests.conftest import Lake, counts, route_into
from tests.synthetic import dicom_bytes, image

LENIENT: Final = """\
thresholds: {abdominal: 0, adult_chest: 0, pediatric_chest: 0, spine: 0, others: 0}
ood_threshold: 1000
min_long_side: 10
"""
STRICT: Final = LENIENT.replace("min_long_side: 10", "min_long_side: 4000")
"""Sends every image to review."""
CT: Final = "1.2.840.10008.5.1.4.1.1.2"


@pytest.fixture(scope="session")
def routed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `source`, `lenient.yaml`, `strict.yaml`, and the lake of a run by the first.

    The sources are 3 images, of which two share their UIDs, the copy of one, a CT, and a file that
    is not DICOM.
    """
    folder = tmp_path_factory.mktemp("routed")
    source = folder / "source"
    source.mkdir()
    for number in range(2):
        data = dicom_bytes(image(number, (96, 64)), name=str(number))
        (source / f"{number}.dcm").write_bytes(data)
    (source / "copy of 0.dcm").write_bytes((source / "0.dcm").read_bytes())
    (source / "conflict with 1.dcm").write_bytes(dicom_bytes(image(7, (96, 64)), name="1"))
    (source / "ct.dcm").write_bytes(dicom_bytes(image(8, (96, 64)), name="8", SOPClassUID=CT))
    (source / "broken").write_bytes(b"not DICOM")
    (folder / "lenient.yaml").write_text(LENIENT)
    (folder / "strict.yaml").write_text(STRICT)
    lenient = ("--policy", str(folder / "lenient.yaml"))
    summary = route_into(Lake(folder / "lake"), *lenient, inputs=(str(source),))
    assert counts(summary) == {"routed": 3, "duplicate": 1, "not_xray": 1, "quarantined": 1}
    return folder


@pytest.fixture
def copied(routed: Path, lake: Lake) -> Lake:
    """A copy of the lake of `routed`, where the fixture `route` finds it."""
    shutil.copytree(routed / "lake", lake.root)
    return lake


@pytest.fixture
def other_model(tmp_path: Path) -> tuple[str, str]:
    """The option for a bundle of another model id."""
    bundle = tmp_path / "bundle"
    shutil.copytree(DEFAULT_BUNDLE, bundle)
    info = json.loads((bundle / "bundle.json").read_text())
    (bundle / "bundle.json").write_text(json.dumps({**info, "temperature": 2.0}))
    return "--model", str(bundle)


@pytest.fixture
def interrupt(lake: Lake, capsys: pytest.CaptureFixture[str]) -> Callable[..., None]:
    """Route into `lake` a run that ends after it has placed its objects, before it indexes them."""

    def run(source: Path, *options: str) -> None:
        def end(*args: object, **kwargs: object) -> None:
            raise RuntimeError("the run ends here")

        with pytest.MonkeyPatch.context() as ending:
            ending.setattr("transforms.append_index_batch.append_after", end)
            command = ["route", "--input", str(source), "--lake", str(lake.root), *options]
            assert main([*command, "--quiet"]) == 1
        assert "the run ends here" in capsys.readouterr().err

    return run
