"""Compare the router with a lower bound and with simpler scripts: python -m benchmarks.bench.

Generates images of realistic size in every transfer syntax. Each of `CONTENDERS` sorts them in a process
of its own; the contenders are interleaved. The cost per object is derived from runs over many images and
over one, so that imports and start-up do not count. The time to the first placed object is compared with
the imports of torch and apache_beam alone.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from matplotlib.figure import Figure
from pydicom import dcmread
from pydicom.uid import (
    JPEG2000,
    ExplicitVRLittleEndian,
    HTJ2KLossless,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
)

from benchmarks import processes
from benchmarks.ablation import slug
from benchmarks.profile_route import machine
from models.training.evaluation.markdown import markdown_table
from tests.synthetic import dicom_bytes, image

SHAPE: Final = (2800, 2300)
BASES: Final = 4
SYNTAXES: Final = {
    "raw": ExplicitVRLittleEndian,
    "JPEG 2000": JPEG2000Lossless,
    "JPEG 2000, lossy": JPEG2000,
    "HTJ2K": HTJ2KLossless,
    "JPEG-LS": JPEGLSLossless,
    "JPEG lossless": JPEGLosslessSV1,
    "JPEG, 8 bits": JPEGBaseline8Bit,
    "RLE": RLELossless,
}
ROUTER: Final = "router"
WITHOUT_BEAM: Final = "without_beam"
"""It runs its steps sequentially: its CPU time is of interest, not its wall time."""
CONTENDERS: Final = {
    ROUTER: 24,
    WITHOUT_BEAM: 24,
    "floor": 24,
    "copy": 24,
    "loader": 6,
    "naive": 2,
    "paper": 1,
}
"""Multiples of `--images` by contender: fast ones need more images for a precise result."""
DISTINCT: Final = 24
"""Images of a syntax with distinct pixels; the others are copies with other UIDs."""
STARTS: Final = 2
"""Runs over a single image, per contender and round."""
IMPORTS: Final = "import torch, apache_beam"
SAMPLE_EVERY_S: Final = 1.0
NOISE_S: Final = 1e-3
"""Cost per object below which the variation of the start-up hides it, in seconds."""
MB: Final = 1e6


def build(folder: Path, images: int) -> None:
    """Write a folder of images for each syntax; existing images are kept."""
    bases: list[np.ndarray] = []
    for name, syntax in SYNTAXES.items():
        subfolder = folder / slug(name)
        subfolder.mkdir(parents=True, exist_ok=True)
        for number in range(images):
            path = subfolder / f"{number:04d}.dcm"
            if path.exists():
                continue
            uid_suffix = f"{list(SYNTAXES).index(name) + 1}{number:04d}"
            scratch = path.with_suffix(".tmp")
            if number < DISTINCT:
                bases = bases or [image(seed, SHAPE) for seed in range(BASES)]
                pixels = np.roll(bases[number % BASES], number, axis=1)
                if syntax == JPEGBaseline8Bit:
                    pixels = (pixels >> 4).astype(np.uint8)
                scratch.write_bytes(dicom_bytes(pixels, name=uid_suffix, syntax=syntax))
            else:
                copy = dcmread(subfolder / f"{number % DISTINCT:04d}.dcm")
                copy.SOPInstanceUID = f"{copy.SOPInstanceUID}.{number}"
                copy.file_meta.MediaStorageSOPInstanceUID = copy.SOPInstanceUID
                copy.save_as(scratch)
            scratch.rename(path)


def link(corpus: Path, name: str, images: int) -> Path:
    """Return a folder with hard links to the first images of a syntax."""
    folder = corpus / f"{slug(name)}-{images}"
    if not folder.exists():
        folder.mkdir()
        for path in sorted((corpus / slug(name)).iterdir())[:images]:
            (folder / path.name).hardlink_to(path)
    return folder


def measure(contender: str, source: Path, work: Path) -> dict[str, Any]:
    """Run one contender over a folder; return its resource usage."""
    output, started = work / "output", time.time()
    if contender == ROUTER:
        command = [sys.executable, "-m", "pipeline", "route", "--json"]
        command += ["--input", str(source), "--lake", str(output)]
    else:
        command = [sys.executable, "-m", "benchmarks.contenders", contender]
        command += [str(source), str(output)]
    usage = processes.watch(
        command, every_s=SAMPLE_EVERY_S, stdout=work / "out", stderr=work / "err",
        kept=processes.children(),
    )  # fmt: skip
    placed = [p.stat().st_ctime for p in output.rglob("*.dcm")]
    shutil.rmtree(output, ignore_errors=True)
    if usage.code:
        raise RuntimeError(f"{contender} failed: {(work / 'err').read_text()[-2000:]}")
    return {
        "wall": usage.wall_s,
        "cpu": usage.cpu_s,
        "read": usage.read,
        "written": usage.written,
        "peak": usage.pss[processes.TOTAL],
        "first_placed": min(placed) - started if placed else None,
    }


def measure_imports() -> float:
    """Return the duration of starting a process and importing torch and Beam, in seconds."""
    started = time.time()
    command = [sys.executable, "-c", f"{IMPORTS}; import time; print(time.time())"]
    return float(subprocess.check_output(command, stderr=subprocess.DEVNULL)) - started


def measure_all(args: argparse.Namespace) -> dict[str, Any]:
    """Measure everything; the results are written after every run."""
    processes.adopt_orphans()
    build(args.work, args.images * max(CONTENDERS[name] for name in args.contenders))
    results: dict[str, Any] = {
        "date": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "machine": machine(),
        "shape": SHAPE,
        "images": {name: args.images * CONTENDERS[name] for name in args.contenders},
        "bytes": {
            name: int(statistics.mean(p.stat().st_size for p in (args.work / slug(name)).iterdir()))
            for name in args.syntaxes
        },
        "imports": [],
        "runs": [],
    }
    starts = [(args.syntaxes[0], contender, 1) for contender in args.contenders] * STARTS
    runs = [
        (name, contender, args.images * CONTENDERS[contender])
        for name in args.syntaxes
        for contender in args.contenders
    ]
    for number in range(args.rounds):
        results["imports"].append(measure_imports())
        for name, contender, images in [*starts, *runs]:
            usage = measure(contender, link(args.work, name, images), args.work)
            run = {"round": number, "contender": contender, "syntax": name, "images": images}
            results["runs"].append({**run, **usage})
            args.out.parent.mkdir(parents=True, exist_ok=True)
            args.out.write_text(json.dumps(results, indent=1) + "\n")
            print(f"round {number + 1}: {contender}, {name}", file=sys.stderr, flush=True)
    return results


def costs(results: dict[str, Any], contender: str, syntax: str, metric: str) -> list[float]:
    """Return the cost per object of every round, without start-up, in the unit of the metric."""
    runs = [r for r in results["runs"] if r["contender"] == contender]
    long = [r for r in runs if r["images"] > 1]
    single = statistics.median(r[metric] for r in runs if r["images"] == 1)
    first_syntax = next(iter(results["bytes"]))  # the syntax of the single image
    cost = statistics.median(
        (r[metric] - single) / (r["images"] - 1) for r in long if r["syntax"] == first_syntax
    )
    start_up = single - cost
    return [(r[metric] - start_up) / r["images"] for r in long if r["syntax"] == syntax]


def tables(results: dict[str, Any]) -> str:
    """Return the results as Markdown."""
    return "\n\n".join(_tables(results))


def _tables(results: dict[str, Any]) -> Iterator[str]:
    syntaxes = list(results["bytes"])
    for metric, title, unit in (
        ("wall", "Wall time per object, ms: median (min to max)", 1e-3),
        ("cpu", "CPU time per object, ms: median (min to max)", 1e-3),
        ("read", "Read by system calls per object, MB: median (min to max)", MB),
        ("written", "Written by system calls per object, MB: median (min to max)", MB),
    ):
        yield title
        yield markdown_table(
            ["", *syntaxes],
            [
                [
                    name,
                    *(_spread(costs(results, name, syntax, metric), unit) for syntax in syntaxes),
                ]
                for name in results["images"]
                if (name, metric) != (WITHOUT_BEAM, "wall")
            ],
        )
    yield "Ratios"
    ratios = [
        ("naive / router, wall", "naive", "wall", ROUTER, "wall"),
        ("loader / router, wall", "loader", "wall", ROUTER, "wall"),
        ("paper / router, wall", "paper", "wall", ROUTER, "wall"),
        ("router / without Beam, CPU", ROUTER, "cpu", WITHOUT_BEAM, "cpu"),
        ("router / floor, wall", ROUTER, "wall", "floor", "wall"),
        ("router / copy, wall", ROUTER, "wall", "copy", "wall"),
    ]
    yield markdown_table(
        ["", *syntaxes],
        [
            [
                title,
                *(
                    _ratio(_median(results, a, s, metric_a), _median(results, b, s, metric_b))
                    for s in syntaxes
                ),
            ]
            for title, a, metric_a, b, metric_b in ratios
            if {a, b} <= results["images"].keys()
        ],
    )
    yield "Start-up and memory"
    yield markdown_table(
        ["", "run over one image, s", "peak memory of all runs, MB (PSS)"],
        [[name, *_start_and_peak(results, name)] for name in results["images"]],
    )
    placed = [
        r["first_placed"]
        for r in results["runs"]
        if r["contender"] == ROUTER and r["images"] == 1 and r["first_placed"]
    ]
    first, imports = statistics.median(placed), statistics.median(results["imports"])
    yield (
        f"The first object is placed {first:.2f} s after the router's start; `{IMPORTS}` alone takes "
        f"{imports:.2f} s: {first / imports:.2f} times."
    )


def _start_and_peak(results: dict[str, Any], contender: str) -> list[str]:
    runs = [r for r in results["runs"] if r["contender"] == contender]
    start = statistics.median(r["wall"] for r in runs if r["images"] == 1)
    return [f"{start:.1f}", f"{max(r['peak'] for r in runs) / MB:,.0f}"]


def _median(results: dict[str, Any], contender: str, syntax: str, metric: str) -> float:
    return statistics.median(costs(results, contender, syntax, metric))


def _ratio(cost: float, other: float) -> str:
    """Return a ratio; nothing if the other cost is within the noise of the start-up."""
    return f"{cost / other:.2f}" if other > NOISE_S else ""


def _spread(values: Sequence[float], unit: float) -> str:
    low, median, high = (f(values) / unit for f in (min, statistics.median, max))
    return f"{median:.1f}" if len(values) == 1 else f"{median:.1f} ({low:.1f} to {high:.1f})"


def draw(results: dict[str, Any], path: Path) -> None:
    """Draw the wall time per object as a bar chart with a logarithmic scale."""
    syntaxes = list(results["bytes"])
    chart = Figure(figsize=(1.6 * len(syntaxes), 4), layout="constrained")
    axes = chart.add_subplot()
    contenders = [name for name in results["images"] if name != WITHOUT_BEAM]
    width = 0.8 / len(contenders)
    for number, name in enumerate(contenders):
        heights = [1000 * _median(results, name, syntax, "wall") for syntax in syntaxes]
        axes.bar(
            np.arange(len(syntaxes)) + number * width, np.maximum(heights, 0.1), width, label=name
        )
    axes.set_xticks(np.arange(len(syntaxes)) + 0.4 - width / 2, syntaxes)
    axes.set(yscale="log", ylabel="wall time per object, ms")
    axes.legend()
    chart.savefig(path, metadata={"Date": None})


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument(
        "--images", type=int, default=8, help="number of images for the slowest contender"
    )
    parser.add_argument("--rounds", type=int, default=3, help="number of repetitions")
    parser.add_argument("--syntaxes", nargs="+", default=list(SYNTAXES), choices=list(SYNTAXES))
    parser.add_argument(
        "--contenders", nargs="+", default=list(CONTENDERS), choices=list(CONTENDERS),
        help="what to compare; the tables need the router",
    )  # fmt: skip
    parser.add_argument("--work", type=Path, default=Path("build/bench"), help="working folder")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/bench.json"))
    parser.add_argument(
        "--plot-only", action="store_true", help="draw the chart from an existing JSON file"
    )
    args = parser.parse_args()
    results = json.loads(args.out.read_text()) if args.plot_only else measure_all(args)
    draw(results, args.out.with_suffix(".svg"))
    print(tables(results))
    return 0


if __name__ == "__main__":
    sys.exit(main())
