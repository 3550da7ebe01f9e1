"""Profile a run by stage, per object: python -m benchmarks.profile_route [--images 200]."""

from __future__ import annotations

import argparse
import functools
import hashlib
import importlib
import json
import os
import platform
import shutil
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from pydicom.uid import (
    JPEG2000,
    UID,
    ExplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGExtended12Bit,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
)

from tests.synthetic import dicom_bytes, image
from transforms.imaging.header import read_header
from transforms.imaging.limits import Limits
from transforms.imaging.part10 import parse
from transforms.imaging.read_image import decode_inputs

SHAPE = (2800, 2300)
ROUNDS = 7
SYNTAXES = (
    ExplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEG2000,
    JPEGLSLossless,
    JPEGLosslessSV1,
    JPEGExtended12Bit,
    RLELossless,
)
KEYWORDS = {syntax.keyword: syntax for syntax in SYNTAXES}
STAGES = {
    "examine, total": ("transforms.fetch", "examine_fetched"),
    "forward": ("models.inference", "forward"),
    "decide": ("models.decide", "decide_image"),
    "place": ("transforms.place", "place"),
    "resolve duplicates": ("transforms.append_index_batch", "resolve_all"),
    "write index": ("transforms.append_index_batch", "append_after"),
}


class Stopwatch:
    """Total duration and number of calls by name, over all threads."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self.calls: dict[str, int] = defaultdict(int)
        self._lock = threading.Lock()

    def wrap(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def timed(*args: Any, **kwargs: Any) -> Any:
            started = time.perf_counter()
            try:
                return function(*args, **kwargs)
            finally:
                with self._lock:
                    self.seconds[name] += time.perf_counter() - started
                    self.calls[name] += 1

        return timed


def build(folder: Path, images: int, syntaxes: Sequence[UID] = SYNTAXES) -> None:
    """Write distinct images of realistic size, cycling through the syntaxes; existing ones are kept."""
    bases = [image(seed, SHAPE) for seed in range(4)]
    for number in range(images):
        syntax = syntaxes[number % len(syntaxes)]
        path = folder / f"{number:04d}-{UID(syntax).keyword}.dcm"
        if not path.exists():
            pixels = np.roll(bases[number % len(bases)], number, axis=1)
            path.write_bytes(dicom_bytes(pixels, name=path.stem, syntax=syntax))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=200, help="number of images")
    parser.add_argument("--folder", type=Path, default=Path("build/profile"), help="working folder")
    parser.add_argument(
        "--syntaxes", nargs="+", default=list(KEYWORDS), choices=list(KEYWORDS),
        help="transfer syntaxes of the images",
    )  # fmt: skip
    args = parser.parse_args()
    chosen = "all" if set(args.syntaxes) == set(KEYWORDS) else "-".join(args.syntaxes)
    source = args.folder / "images" / chosen
    lake = args.folder / "lake"
    source.mkdir(parents=True, exist_ok=True)
    build(source, args.images, [KEYWORDS[keyword] for keyword in args.syntaxes])
    shutil.rmtree(lake, ignore_errors=True)

    from pipeline.cli import main as router

    stopwatch = Stopwatch()
    for name, (module, function) in STAGES.items():
        loaded = importlib.import_module(module)
        setattr(loaded, function, stopwatch.wrap(name, getattr(loaded, function)))
    wall, cpu = time.perf_counter(), time.process_time()
    code = router(["route", "--input", str(source), "--lake", str(lake), "--quiet"])
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    sizes = [path.stat().st_size for path in source.iterdir()]  # including those of earlier calls
    images = len(sizes)
    print(json.dumps(machine()))
    print(f"exit {code}, {images} images, {sum(sizes) / 1e6:.0f} MB")
    print(f"wall {wall:.1f} s, {1000 * wall / images:.1f} ms per object")
    print(f"CPU {cpu:.1f} s, without decoders, which are processes of their own")
    print(f"\n{'stage':<26}{'calls':>7}{'ms per object, over all threads':>32}")
    for name in STAGES:
        per_object = 1000 * stopwatch.seconds[name] / images
        print(f"{name:<26}{stopwatch.calls[name]:>7}{per_object:>32.2f}")
    print(f"\nin the child, one image at a time, median of {ROUNDS}; ms")
    print(f"{'syntax':<28}{'hash':>8}{'parse':>8}{'header':>8}{'decode and thumbnail':>22}")
    for path in sorted(source.iterdir())[: len(args.syntaxes)]:
        hashing, parsing, header, decoding = examine_ms(path)
        name = path.stem.partition("-")[2]
        print(f"{name:<28}{hashing:>8.1f}{parsing:>8.1f}{header:>8.1f}{decoding:>22.1f}")


def examine_ms(path: Path) -> list[float]:
    """Return median milliseconds of hashing, parsing, reading the header and decoding an image."""
    data, limits = path.read_bytes(), Limits()
    parsed = parse(data, limits)
    steps: tuple[Callable[[], object], ...] = (
        lambda: hashlib.sha256(data).digest(),
        lambda: parse(data, limits),
        lambda: read_header(parsed),
        lambda: decode_inputs(parsed, 224, limits=limits),
    )
    medians = []
    for step in steps:
        times = []
        for _ in range(ROUNDS):
            started = time.perf_counter()
            step()
            times.append(1000 * (time.perf_counter() - started))
        medians.append(float(np.median(times)))
    return medians


def machine() -> dict[str, Any]:
    """Return the hardware and versions of this machine."""
    import apache_beam
    import torch

    cpu = next(
        (line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines()
         if line.startswith("model name")),
        platform.processor(),
    )  # fmt: skip
    return {
        "cpu": cpu,
        "cores": len(os.sched_getaffinity(0)),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "beam": apache_beam.__version__,
    }


if __name__ == "__main__":
    main()
