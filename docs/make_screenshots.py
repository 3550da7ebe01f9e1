"""Write docs/images/report-*.png: the report on a lake of generated images, in a headless browser.

The images are two radiographs of the pydicom packages, cropped, mirrored and changed in contrast, some of
them with another Body Part Examined than the original, and test patterns. Run it again when the report or
the default model changes (`make screenshots`); it needs Chromium (`make browser`).
"""

from __future__ import annotations

import io
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import data_store
import numpy as np
import numpy.typing as npt
import pydicom
from PIL import Image
from playwright.sync_api import Browser, Page
from pydicom.uid import ComputedRadiographyImageStorage, ExplicitVRLittleEndian, generate_uid

from docs.browser import open_browser

IMAGES: Final = Path(__file__).parent / "images"
DATA: Final = Path(data_store.__file__).parent / "data"
SECTIONS: Final = (
    ("overview", "light", None),
    ("headers", "light", "#headers"),
    ("headers", "dark", "#headers"),
    ("confidence", "light", "#confidence"),
)
"""Name and colour scheme of each screenshot, and the section that it shows; None for the top."""
NAME_LAKE: Final = """(() => {
    const facts = document.querySelector('header .facts'), lake = facts.textContent;
    for (const one of [facts, ...document.querySelectorAll('code, pre')])
        one.textContent = one.textContent.replaceAll(lake, '/data/lake');
})()"""
"""Replaces the path of the temporary lake."""
WIDTH, HEIGHT = 1240, 900  # CSS pixels
NARROW: Final = 390
COLOURS: Final = 255
NIGHTS: Final = ("2026-11-27", "2026-11-28")
PER_NIGHT: Final = 42
SIDE: Final = 640  # pixels
SEED: Final = 5
BASES: Final = (("RG1_UNCR.dcm", "CHEST"), ("RG3_UNCR.dcm", "EXTREMITY"))
WRONG: Final = ("ABDOMEN", "SPINE", "EXTREMITY", "CHEST")
DEVICES: Final = (
    ("Example Imaging", "DR 1"),
    ("Example Imaging", "DR 2"),
    ("Sample Medical", "X 5"),
)

Pixels = npt.NDArray[np.uint16]


def main() -> None:
    """Write the lake, its report and the screenshots."""
    with tempfile.TemporaryDirectory() as scratch:
        page = write_report(Path(scratch))
        with open_browser() as browser:
            take_screenshots(browser, page, IMAGES)


def write_report(folder: Path) -> Path:
    """Route generated images of two nights into a lake, and return the path of its report."""
    rng = np.random.default_rng(SEED)
    for night in NIGHTS:
        incoming = folder / night
        incoming.mkdir()
        for number, dataset in enumerate(_objects(night, rng)):
            dataset.save_as(incoming / f"{number}.dcm", enforce_file_format=True)
        (incoming / "notes.txt").write_text("not a DICOM file")
        _run(folder, "route", "--input", str(incoming), "--lake", "lake", "--ingest_date", night)
    _run(folder, "report", "lake", "--out", "report.html")
    return folder / "report.html"


def _run(folder: Path, *arguments: str) -> None:
    command = [sys.executable, "-m", "pipeline", *arguments]
    root = str(Path(__file__).parents[1])
    subprocess.run(command, cwd=folder, env={"PYTHONPATH": root, "PATH": "/usr/bin"}, check=True)


def take_screenshots(browser: Browser, report: Path, target: Path) -> list[Path]:
    """Take the screenshots of `SECTIONS`, and one of a narrow window; return their paths."""
    taken = []
    for name, scheme, selector in SECTIONS:
        page = _open(browser, report, scheme, WIDTH)
        taken.append(_save(_capture(page, selector), target / f"report-{name}-{scheme}.png"))
        page.context.close()
    page = _open(browser, report, "light", NARROW)
    taken.append(_save(page.screenshot(), target / "report-narrow.png"))
    page.context.close()
    return taken


def _open(browser: Browser, report: Path, scheme: Any, width: int) -> Page:
    context = browser.new_context(
        color_scheme=scheme, viewport={"width": width, "height": HEIGHT}, reduced_motion="reduce"
    )
    page = context.new_page()
    page.goto(report.as_uri())
    page.evaluate(NAME_LAKE)
    return page


def _capture(page: Page, selector: str | None) -> bytes:
    if selector is None:
        return page.screenshot()
    box = page.locator(selector).bounding_box()
    assert box is not None
    clip: Any = {**box, "height": min(box["height"], HEIGHT)}
    return page.screenshot(full_page=True, clip=clip)


def _save(png: bytes, target: Path) -> Path:
    """Write a screenshot in few colours, so that the file stays small."""
    with Image.open(io.BytesIO(png)) as image:
        few = image.convert("RGB").quantize(
            COLOURS, method=Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE
        )
    few.save(target, optimize=True)
    return target


def _objects(night: str, rng: np.random.Generator) -> Iterator[pydicom.FileDataset]:
    """Yield the objects of a night: variants of the radiographs, and test patterns."""
    bases = [(pydicom.dcmread(DATA / name), part) for name, part in BASES]
    originals = [(dataset, _reduced(dataset.pixel_array), part) for dataset, part in bases]
    for number in range(PER_NIGHT):
        template, pixels, part = originals[number % 5 // 3]
        is_pattern = number % 14 == 13
        changed = _pattern(rng) if is_pattern else _variant(pixels, rng)
        fate = rng.random()
        stated = None if fate < 0.2 else rng.choice(WRONG) if fate < 0.4 else part
        yield _dataset(template, changed, f"{night} {number}", stated, DEVICES[rng.integers(3)])


def _reduced(pixels: Pixels) -> Pixels:
    step = max(pixels.shape) // SIDE
    return pixels[::step, ::step]


def _variant(pixels: Pixels, rng: np.random.Generator) -> Pixels:
    """Return a part of at least half the size of an image, maybe mirrored, with another contrast."""
    height, width = pixels.shape
    rows, columns = (int(side * rng.uniform(0.5, 1)) for side in (height, width))
    top, left = rng.integers(height - rows + 1), rng.integers(width - columns + 1)
    part = pixels[top : top + rows, left : left + columns]
    part = part[:, ::-1] if rng.random() < 0.5 else part
    low, high = np.percentile(part, (0.1, 99.9))
    scaled = np.clip((part - low) / max(high - low, 1), 0, 1) ** rng.uniform(0.6, 1.6)
    variant: Pixels = (scaled * 4095).astype(np.uint16)
    return variant


def _pattern(rng: np.random.Generator) -> Pixels:
    y, x = np.mgrid[0:SIDE, 0:SIDE] / SIDE
    waves = np.sin(x * rng.uniform(9, 60)) * np.sin(y * rng.uniform(9, 60))
    pattern: Pixels = ((waves + 1) * 2047).astype(np.uint16)
    return pattern


def _dataset(
    template: pydicom.FileDataset,
    pixels: Pixels,
    name: str,
    body_part: str | None,
    device: tuple[str, str],
) -> pydicom.FileDataset:
    dataset = pydicom.FileDataset("", {}, file_meta=template.file_meta, preamble=b"\0" * 128)
    dataset.SOPClassUID = ComputedRadiographyImageStorage
    dataset.Modality = "CR"
    for level in ("Study", "Series", "SOP"):
        uid = generate_uid(entropy_srcs=[level, name])
        setattr(dataset, f"{level}InstanceUID", uid)
    if body_part is not None:
        dataset.BodyPartExamined = body_part
    dataset.Manufacturer, dataset.ManufacturerModelName = device
    dataset.PhotometricInterpretation = template.PhotometricInterpretation
    dataset.Rows, dataset.Columns = pixels.shape
    dataset.SamplesPerPixel = 1
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 16, 12, 11
    dataset.PixelRepresentation = 0
    dataset.PixelData = pixels.tobytes()
    dataset["PixelData"].VR = "OW"
    meta = pydicom.dataset.FileMetaDataset()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.MediaStorageSOPClassUID = dataset.SOPClassUID
    meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    dataset.file_meta = meta
    return dataset


if __name__ == "__main__":
    main()
