"""Write docs/images/review.png: `python -m tests.review.screenshot [FILE]`; needs Chromium.

The image is the leg radiograph of pydicom-data, in review because of a strict policy. Copies of it and
of the chest radiograph are routed, some of them with a wrong header.
"""

from __future__ import annotations

import contextlib
import io
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Final

import pydicom
from PIL import Image
from playwright.sync_api import ViewportSize
from pydicom.data import get_testdata_file
from pydicom.uid import generate_uid

from pipeline.cli import main
from tests.review.browsers import enter, open_pages
from tests.review.reviews import Review

TARGET: Final = Path(__file__).parents[2] / "docs" / "images" / "review.png"
SAMPLES: Final = ("RG1_UNCR.dcm", "RG3_UNCR.dcm")
STRICT, LENIENT = "ood_threshold: -1000\n", "ood_threshold: 1000\n"
STATED: Final = ("ABDOMEN", "SPINE", "")
"""Body Part Examined of the routed copies of each sample."""
SIZE: Final[ViewportSize] = {"width": 1360, "height": 1150}
"""CSS pixels, so that every fact from the header is seen."""
COLORS: Final = 128


def make_lake(folder: Path) -> Path:
    """Route the samples by a policy that sends them to review, and copies by one that routes them."""
    source, copies, lake = folder / "source", folder / "copies", folder / "lake"
    source.mkdir()
    copies.mkdir()
    for name in SAMPLES:
        path = get_testdata_file(name, download=False)
        assert path is not None, "pydicom-data is not installed"
        shutil.copy(str(path), source / name)
        for stated in STATED:
            dataset = pydicom.dcmread(str(path))
            dataset.SOPInstanceUID = generate_uid(entropy_srcs=[name, stated])
            dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
            dataset.BodyPartExamined = stated
            dataset.save_as(copies / f"{stated}{name}")
    for incoming, text in ((source, STRICT), (copies, LENIENT)):
        policy = folder / f"{incoming.name}.yaml"
        policy.write_text(text)
        command = ["route", "--input", str(incoming), "--lake", str(lake), "--policy", str(policy)]
        with contextlib.redirect_stdout(io.StringIO()):
            assert main([*command, "--quiet"]) == 0
    return lake


def take(target: Path) -> None:
    """Open the review in a browser, and write what it shows."""
    with tempfile.TemporaryDirectory() as folder:
        lake = make_lake(Path(folder))
        with Review(lake, "--confidence_below=1") as review, open_pages() as (pages, problems):
            (page,) = pages
            page.set_viewport_size(SIZE)
            enter(page, review, "ann")
            page.keyboard.press("a")
            page.mouse.move(5, 400)
            taken = page.screenshot()
            assert not problems, problems
        image = Image.open(io.BytesIO(taken)).convert("RGB")
        image.quantize(COLORS).save(target, optimize=True)


if __name__ == "__main__":
    take(Path(sys.argv[1]) if len(sys.argv) > 1 else TARGET)
