"""Check an image: route a generated radiograph with the default bundle, and audit the lake.

Needs no network, no root, and no writable folder but that for temporary files. The last step of the
Dockerfile runs it; it can also be run in a container:

    docker run --rm --read-only --tmpfs /tmp --entrypoint python IMAGE \
      /usr/local/share/dicom-router/check_image.py
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from pathlib import Path

ROUTED = ("routed", "review")


def write_radiograph(path: Path) -> None:
    """Write a DX image that shows a gradient, 256 x 256 pixels of 12 bits."""
    import numpy as np
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.uid import (
        DigitalXRayImageStorageForPresentation,
        ExplicitVRLittleEndian,
        generate_uid,
    )

    image = Dataset()
    image.SOPClassUID = DigitalXRayImageStorageForPresentation
    image.SOPInstanceUID, image.StudyInstanceUID, image.SeriesInstanceUID = (
        generate_uid() for _ in range(3)
    )
    image.Modality, image.PatientID, image.PatientName = "DX", "IMAGE^CHECK", "IMAGE^CHECK"
    image.Rows = image.Columns = 256
    image.SamplesPerPixel, image.PhotometricInterpretation = 1, "MONOCHROME2"
    image.BitsAllocated, image.BitsStored, image.HighBit, image.PixelRepresentation = 16, 12, 11, 0
    image.PixelData = (np.add.outer(np.arange(256), np.arange(256)) * 8).astype("<u2").tobytes()
    image.file_meta = FileMetaDataset()
    image.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    image.save_as(path, enforce_file_format=True)


def run(*arguments: str) -> None:
    """Run a command of `dicom-router` in this process; exit with its exit code if it fails."""
    from pipeline.cli import main as command

    if code := command(arguments):
        sys.exit(code)


def statuses(lake: Path) -> list[str]:
    """Return the statuses of a lake's rows."""
    import pyarrow.dataset

    found: list[str] = (
        pyarrow.dataset.dataset(lake / "index", format="parquet").to_table()["status"].to_pylist()
    )
    return found


def main() -> None:
    """Run the checks; exit with 1 and the reason if one fails."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cuda", action="store_true", help="require PyTorch with CUDA libraries")
    parser.add_argument(
        "--any-torch", action="store_true", help="accept PyTorch with or without CUDA"
    )
    given = parser.parse_args()
    import torch

    if not given.any_torch and (torch.version.cuda is not None) != given.cuda:
        sys.exit(f"PyTorch {torch.__version__} is not the one of this image")
    if os.geteuid() == 0:
        sys.exit("run this as the user of the image, not as root")
    with tempfile.TemporaryDirectory() as folder:
        incoming, lake = Path(folder) / "incoming", Path(folder) / "lake"
        incoming.mkdir()
        write_radiograph(incoming / "radiograph.dcm")
        run("route", "--input", str(incoming), "--lake", str(lake), "--quiet")
        if len(found := statuses(lake)) != 1 or found[0] not in ROUTED:
            sys.exit(f"the radiograph was not classified: {found}")
        run("verify", str(lake), "--deep")
    print("the default bundle loads and classifies an image")


if __name__ == "__main__":
    main()
