"""Where the time of a run goes, per object: python -m benchmarks.profile_route [--films 200]."""

from __future__ import annotations

import argparse
import functools
import importlib
import json
import os
import platform
import shutil
import threading
import time
from collections import defaultdict
from collections.abc import Callable
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

from tests.synthetic import dicom_bytes, film

SHAPE = (2800, 2300)
SYNTAXES = (
    ExplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEG2000,
    JPEGLSLossless,
    JPEGLosslessSV1,
    JPEGExtended12Bit,
    RLELossless,
)
STAGES = {
    "read": ("transforms.examine", "read_ref"),
    "parse": ("transforms.examine", "parse"),
    "header": ("transforms.examine", "read_header"),
    "decode and thumbnail": ("transforms.examine", "thumbnail_of"),
    "examine, whole": ("transforms.fetch", "examine"),
    "forward": ("models.handler", "_forward"),
    "decide": ("transforms.classify", "decide_row"),
    "place": ("transforms.place", "place"),
    "settle": ("transforms.index", "settle"),
    "write index": ("transforms.index", "write_index"),
}


class Clock:
    """Adds up seconds by name, over all threads."""

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


def build(folder: Path, films: int) -> None:
    """Write films of real size, no two alike, the syntaxes in turn; kept for the next call."""
    bases = [film(seed, SHAPE) for seed in range(4)]
    for number in range(films):
        syntax = SYNTAXES[number % len(SYNTAXES)]
        path = folder / f"{number:04d}-{UID(syntax).keyword}.dcm"
        if not path.exists():
            pixels = np.roll(bases[number % len(bases)], number, axis=1)
            path.write_bytes(dicom_bytes(pixels, name=str(number), syntax=syntax))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--films", type=int, default=200)
    parser.add_argument("--folder", type=Path, default=Path("build/profile"))
    args = parser.parse_args()
    source, lake = args.folder / "films", args.folder / "lake"
    source.mkdir(parents=True, exist_ok=True)
    build(source, args.films)
    shutil.rmtree(lake, ignore_errors=True)

    from pipeline.cli import main as router

    clock = Clock()
    for name, (module, function) in STAGES.items():
        loaded = importlib.import_module(module)
        setattr(loaded, function, clock.wrap(name, getattr(loaded, function)))
    by_syntax = Clock()
    examine = importlib.import_module("transforms.examine")
    thumbnail = examine.thumbnail_of

    def by_its_syntax(parsed: Any, *rest: Any, **options: Any) -> Any:
        name = UID(parsed.transfer_syntax_uid).keyword
        return by_syntax.wrap(name, thumbnail)(parsed, *rest, **options)

    examine.thumbnail_of = by_its_syntax
    wall, cpu = time.perf_counter(), time.process_time()
    code = router(["route", "--input", str(source), "--lake", str(lake), "--quiet"])
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    size = sum(p.stat().st_size for p in source.iterdir())
    print(json.dumps(machine()))
    print(f"exit {code}, {args.films} films, {size / 1e6:.0f} MB")
    print(f"wall {wall:.1f} s, {1000 * wall / args.films:.1f} ms an object; CPU {cpu:.1f} s")
    print(f"\n{'stage':<26}{'calls':>7}{'ms an object, over all threads':>32}")
    for name in STAGES:
        per_object = 1000 * clock.seconds[name] / args.films
        print(f"{name:<26}{clock.calls[name]:>7}{per_object:>32.2f}")
    print(f"\n{'decode and thumbnail of':<36}{'films':>7}{'ms a film':>12}")
    for name, seconds in sorted(by_syntax.seconds.items(), key=lambda item: item[1]):
        calls = by_syntax.calls[name]
        print(f"{name:<36}{calls:>7}{1000 * seconds / calls:>12.1f}")


def machine() -> dict[str, Any]:
    """Return what the figures were taken on."""
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
