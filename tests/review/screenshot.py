"""Write docs/images/review.png: `python -m tests.review.screenshot [FILE]`; needs Chromium.

The image is the hand radiograph of pydicom-data, in review because of a strict policy.
"""

from __future__ import annotations

import contextlib
import io
import re
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Final

from PIL import Image
from pydicom.data import get_testdata_file

from pipeline.cli import main
from tests.review.browsers import open_pages
from tests.review.reviews import Review

TARGET: Final = Path(__file__).parents[2] / "docs" / "images" / "review.png"
SAMPLES: Final = ("RG1_UNCR.dcm", "RG3_UNCR.dcm")
COLORS: Final = 128


def make_lake(folder: Path) -> Path:
    """Route the samples by a policy that sends all of them to review."""
    source, lake, policy = folder / "source", folder / "lake", folder / "policy.yaml"
    source.mkdir()
    for name in SAMPLES:
        path = get_testdata_file(name, download=False)
        assert path is not None, "pydicom-data is not installed"
        shutil.copy(str(path), source / name)
    policy.write_text("ood_threshold: -1000\n")
    command = ["route", "--input", str(source), "--lake", str(lake), "--policy", str(policy)]
    with contextlib.redirect_stdout(io.StringIO()):
        assert main([*command, "--quiet"]) == 0
    return lake


def take(target: Path) -> None:
    """Open the review in a browser, and write what it shows."""
    with tempfile.TemporaryDirectory() as folder:
        with Review(make_lake(Path(folder))) as review, open_pages() as (pages, problems):
            (page,) = pages
            page.goto(review.url)
            page.wait_for_url(re.compile(r"/$"))
            page.get_by_label("Nickname").fill("ann")
            page.get_by_role("button", name="Start").click()
            page.wait_for_selector(".answer:not([disabled])")
            page.keyboard.press("a")
            page.mouse.move(5, 400)
            taken = page.screenshot()
            assert not problems, problems
        image = Image.open(io.BytesIO(taken)).convert("RGB")
        image.quantize(COLORS).save(target, optimize=True)


if __name__ == "__main__":
    take(Path(sys.argv[1]) if len(sys.argv) > 1 else TARGET)
