"""Write docs/images/decisions.png: a contact sheet of decisions of the default model.

Routes files of the pydicom packages, and copies of them with an edited header, through the pipeline
and draws what the index says of each. Run it again when the default model changes (`make picture`).
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import data_store
import numpy as np
import pyarrow.dataset as ds
import pydicom
from PIL import Image, ImageDraw, ImageFont, ImageOps
from PIL.PngImagePlugin import PngInfo
from pydicom.data import get_testdata_file
from pydicom.pixels.processing import apply_voi_lut
from pydicom.uid import ComputedRadiographyImageStorage, generate_uid

TARGET: Final = Path(__file__).parent / "images" / "decisions.png"
MODEL_KEY: Final = "model_id"  # PNG text chunk
DATA: Final = Path(data_store.__file__).parent / "data"

TILE, CAPTION, GAP, PER_ROW = 200, 74, 12, 4  # pixels, pixels, pixels, tiles
PALETTE: Final = 160  # colours of the sheet
BACKGROUND, INK, FAINT = "#ffffff", "#1f2328", "#59636e"
COLOURS: Final = {
    "routed": "#1a7f37",
    "review": "#bc4c00",
    "not_xray": "#57606a",
    "quarantined": "#cf222e",
}
DISAGREES: Final = "#cf222e"


@dataclass(frozen=True, slots=True)
class Source:
    """A file of the pydicom packages and the header values that its copy gets instead."""

    name: str
    edits: tuple[tuple[str, str | None], ...] = ()


SOURCES: Final = (
    Source("RG1_UNCR.dcm"),
    Source("RG1_UNCR.dcm", (("BodyPartExamined", "ABDOMEN"),)),
    Source("RG1_UNCR.dcm", (("BodyPartExamined", None),)),
    Source("RG3_UNCR.dcm"),
    Source("RG3_UNCR.dcm", (("BodyPartExamined", "CHEST"),)),
    Source(
        "vlut_04.dcm", (("Modality", "CR"), ("SOPClassUID", str(ComputedRadiographyImageStorage)))
    ),
    Source("693_UNCR.dcm"),
    Source("MR_truncated.dcm"),
)


def main() -> None:
    """Route the files and write the picture."""
    with tempfile.TemporaryDirectory() as scratch:
        incoming, lake = Path(scratch, "incoming"), Path(scratch, "lake")
        incoming.mkdir()
        files = [_prepare(s, incoming / f"{number}.dcm") for number, s in enumerate(SOURCES)]
        command = [sys.executable, "-m", "pipeline", "route", "--input", str(incoming)]
        subprocess.run([*command, "--lake", str(lake)], check=True)
        rows = _rows(lake)
        sheet = _sheet([_tile(f, rows[f.name], s) for f, s in zip(files, SOURCES, strict=True)])
    info = PngInfo()
    info.add_text(MODEL_KEY, next(r["model_id"] for r in rows.values() if r["model_id"]))
    TARGET.parent.mkdir(exist_ok=True)
    sheet.save(TARGET, optimize=True, pnginfo=info)


def _prepare(source: Source, target: Path) -> Path:
    """Copy the file to `target`, with the edits and, if there are any, a new SOP Instance UID."""
    path = DATA / source.name
    if not path.exists():
        path = Path(str(get_testdata_file(source.name, download=False)))
    if not source.edits:
        target.write_bytes(path.read_bytes())
        return target
    dataset = pydicom.dcmread(path)
    for keyword, value in source.edits:
        if value is None:
            delattr(dataset, keyword)
        else:
            setattr(dataset, keyword, value)
    dataset.SOPInstanceUID = generate_uid(entropy_srcs=[source.name, repr(source.edits)])
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID
    dataset.save_as(target)
    return target


def _rows(lake: Path) -> dict[str, dict[str, Any]]:
    """Return the lake's index rows by file name of the source."""
    table = ds.dataset(lake / "index", format="parquet", partitioning="hive").to_table()
    return {row["source_uri"].rpartition("/")[2]: row for row in table.to_pylist()}


def _tile(path: Path, row: dict[str, Any], source: Source) -> Image.Image:
    """Return one thumbnail with its caption: what the header says, what was decided, and why."""
    tile = Image.new("RGB", (TILE, TILE + CAPTION), BACKGROUND)
    tile.paste(_thumbnail(path), (0, 0))
    draw = ImageDraw.Draw(tile)
    colour = COLOURS[row["status"]]
    draw.rectangle((0, TILE, TILE, TILE + 3), fill=colour)
    decision = row["predicted_label"] if row["status"] == "routed" else row["status"]
    if row["status"] == "routed":
        decision += f"  {row['confidence']:.0%}"
    values = filter(None, (row["modality"], row["body_part_examined"] or "no body part"))
    header = "not readable" if row["status"] == "quarantined" else ", ".join(values)
    wrong = row["header_agrees"] is False
    _text(draw, 0, decision, 16, colour)
    _text(draw, 1, "reason: " + row["reason"].replace("_", " "), 12, INK)
    edited = " (edited)" if source.edits else ""
    _text(draw, 2, f"header: {header}{edited}", 12, DISAGREES if wrong else FAINT)
    return tile


def _text(draw: ImageDraw.ImageDraw, line: int, text: str, size: int, fill: str) -> None:
    y = TILE + 8 + (0, 23, 43)[line]
    draw.text((2, y), text, fill=fill, font=ImageFont.load_default(size))


def _thumbnail(path: Path) -> Image.Image:
    """Return the image in a square, or an empty square where it cannot be read."""
    square = Image.new("L", (TILE, TILE), 235)
    try:
        dataset = pydicom.dcmread(path)
        values = dataset.pixel_array
    except (ValueError, AttributeError, pydicom.errors.InvalidDicomError):
        return square
    is_colour = values.ndim == 3
    values = values.mean(axis=-1) if is_colour else apply_voi_lut(values, dataset)
    low, high = np.percentile(values, (0.5, 99.5))
    gray = np.clip((values - low) / (high - low) * 255, 0, 255).astype(np.uint8)
    image = Image.fromarray(gray)
    if dataset.PhotometricInterpretation == "MONOCHROME1":  # PS3.3 section C.7.6.3.1.2
        image = ImageOps.invert(image)
    return ImageOps.pad(image, (TILE, TILE), Image.Resampling.LANCZOS)


def _sheet(tiles: list[Image.Image]) -> Image.Image:
    """Return the tiles in rows, in few colours so that the file stays small."""
    rows = -(-len(tiles) // PER_ROW)
    size = (PER_ROW * (TILE + GAP) + GAP, rows * (TILE + CAPTION + GAP) + GAP)
    sheet = Image.new("RGB", size, BACKGROUND)
    for number, tile in enumerate(tiles):
        row, column = divmod(number, PER_ROW)
        sheet.paste(tile, (GAP + column * (TILE + GAP), GAP + row * (TILE + CAPTION + GAP)))
    return sheet.quantize(PALETTE, dither=Image.Dither.NONE)


if __name__ == "__main__":
    main()
