"""The router beside its floor and what one would write instead: python -m benchmarks.bench.

Builds films of real size in every kind of transfer syntax, and lets each of `CONTENDERS` sort them in a
process of its own, interleaved in one run. What an object costs is told by runs over many films and
over a single one, so that imports and start-up do not count; how soon the first object is placed is
measured beside the bare imports of torch and apache_beam.
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
"""One step after the other: what it takes of the processors is of interest, not how long it waits."""
CONTENDERS: Final = {
    ROUTER: 24,
    WITHOUT_BEAM: 24,
    "floor": 24,
    "loader": 6,
    "naive": 2,
    "paper": 1,
}
"""Names, and how many times `--films` each gets: what is fast needs more to be told from noise."""
DISTINCT: Final = 24
"""Films of a syntax whose pixels differ; the others are the same again under other UIDs."""
STARTS: Final = 2
"""Runs over a single film, of each contender in each round."""
IMPORTS: Final = "import torch, apache_beam"
SAMPLE_EVERY_S: Final = 1.0
MB: Final = 1e6


def build(folder: Path, films: int) -> None:
    """Write a folder of films for each syntax; what stands there is kept."""
    bases: list[np.ndarray] = []
    for name, syntax in SYNTAXES.items():
        below = folder / slug(name)
        below.mkdir(parents=True, exist_ok=True)
        for number in range(films):
            path = below / f"{number:04d}.dcm"
            if path.exists():
                continue
            own = f"{list(SYNTAXES).index(name) + 1}{number:04d}"
            scratch = path.with_suffix(".tmp")
            if number < DISTINCT:
                bases = bases or [image(seed, SHAPE) for seed in range(BASES)]
                pixels = np.roll(bases[number % BASES], number, axis=1)
                if syntax == JPEGBaseline8Bit:
                    pixels = (pixels >> 4).astype(np.uint8)
                scratch.write_bytes(dicom_bytes(pixels, name=own, syntax=syntax))
            else:
                again = dcmread(below / f"{number % DISTINCT:04d}.dcm")
                again.SOPInstanceUID = f"{again.SOPInstanceUID}.{number}"
                again.file_meta.MediaStorageSOPInstanceUID = again.SOPInstanceUID
                again.save_as(scratch)
            scratch.rename(path)


def link(corpus: Path, name: str, films: int) -> Path:
    """Return a folder of the first films of a syntax: hard links."""
    folder = corpus / f"{slug(name)}-{films}"
    if not folder.exists():
        folder.mkdir()
        for path in sorted((corpus / slug(name)).iterdir())[:films]:
            (folder / path.name).hardlink_to(path)
    return folder


def measure(contender: str, source: Path, work: Path) -> dict[str, Any]:
    """Let one sort a folder into a fresh place."""
    output, began = work / "output", time.time()
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
        "first_placed": min(placed) - began if placed else None,
    }


def imports() -> float:
    """Return the seconds from a process's start to the end of the bare imports."""
    began = time.time()
    command = [sys.executable, "-c", f"{IMPORTS}; import time; print(time.time())"]
    return float(subprocess.check_output(command, stderr=subprocess.DEVNULL)) - began


def take(args: argparse.Namespace) -> dict[str, Any]:
    """Take all figures; they are written after every run."""
    processes.adopt_orphans()
    build(args.work, args.films * max(CONTENDERS.values()))
    figures: dict[str, Any] = {
        "date": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "machine": machine(),
        "shape": SHAPE,
        "films": {name: args.films * factor for name, factor in CONTENDERS.items()},
        "bytes": {
            name: int(statistics.mean(p.stat().st_size for p in (args.work / slug(name)).iterdir()))
            for name in args.syntaxes
        },
        "imports": [],
        "runs": [],
    }
    for number in range(args.rounds):
        for contender, factor in CONTENDERS.items():
            figures["imports"].append(imports())
            starts = [(args.syntaxes[0], 1)] * STARTS
            for name, films in [*starts, *((name, args.films * factor) for name in args.syntaxes)]:
                used = measure(contender, link(args.work, name, films), args.work)
                run = {"round": number, "contender": contender, "syntax": name, "films": films}
                figures["runs"].append({**run, **used})
                args.out.parent.mkdir(parents=True, exist_ok=True)
                args.out.write_text(json.dumps(figures, indent=1) + "\n")
                print(f"round {number + 1}: {contender}, {name}", file=sys.stderr, flush=True)
    return figures


def costs(figures: dict[str, Any], contender: str, name: str, what: str) -> list[float]:
    """Return what an object costs in every round, in the unit of `what`, less the start-up."""
    runs = [r for r in figures["runs"] if r["contender"] == contender]
    long = [r for r in runs if r["films"] > 1]
    of_one = statistics.median(r[what] for r in runs if r["films"] == 1)
    first_syntax = next(iter(figures["bytes"]))  # which that one film is of
    its_cost = statistics.median(
        (r[what] - of_one) / (r["films"] - 1) for r in long if r["syntax"] == first_syntax
    )
    return [(r[what] - (of_one - its_cost)) / r["films"] for r in long if r["syntax"] == name]


def tables(figures: dict[str, Any]) -> str:
    """Return the figures as Markdown."""
    return "\n\n".join(_tables(figures))


def _tables(figures: dict[str, Any]) -> Iterator[str]:
    syntaxes = list(figures["bytes"])
    for what, title, unit in (
        ("wall", "Wall time of an object, ms: median (least to most)", 1e-3),
        ("cpu", "Processor time of an object, ms: median (least to most)", 1e-3),
        ("read", "Read by system calls for an object, MB: median (least to most)", MB),
        ("written", "Written by system calls for an object, MB: median (least to most)", MB),
    ):
        yield title
        yield markdown_table(
            ["", *syntaxes],
            [
                [name, *(_spread(costs(figures, name, syntax, what), unit) for syntax in syntaxes)]
                for name in CONTENDERS
                if (name, what) != (WITHOUT_BEAM, "wall")
            ],
        )
    yield "How many times as much"
    ratios = [
        ("naive / router, wall", "naive", "wall", ROUTER, "wall"),
        ("loader / router, wall", "loader", "wall", ROUTER, "wall"),
        ("paper / router, wall", "paper", "wall", ROUTER, "wall"),
        ("router / without Beam, processor", ROUTER, "cpu", WITHOUT_BEAM, "cpu"),
        ("router / floor, wall", ROUTER, "wall", "floor", "wall"),
    ]
    yield markdown_table(
        ["", *syntaxes],
        [
            [
                title,
                *(
                    f"{_median(figures, one, s, what) / _median(figures, other, s, of):.2f}"
                    for s in syntaxes
                ),
            ]
            for title, one, what, other, of in ratios
        ],
    )
    yield "Start-up and memory"
    yield markdown_table(
        ["", "run over one film, s", "peak memory of all its runs, MB (PSS)"],
        [[name, *_start_and_peak(figures, name)] for name in CONTENDERS],
    )
    placed = [
        r["first_placed"]
        for r in figures["runs"]
        if r["contender"] == ROUTER and r["films"] == 1 and r["first_placed"]
    ]
    first, bare = statistics.median(placed), statistics.median(figures["imports"])
    yield (
        f"First object placed {first:.2f} s after the router's start; `{IMPORTS}` alone is done "
        f"{bare:.2f} s after a process's start: {first / bare:.2f} times."
    )


def _start_and_peak(figures: dict[str, Any], contender: str) -> list[str]:
    runs = [r for r in figures["runs"] if r["contender"] == contender]
    start = statistics.median(r["wall"] for r in runs if r["films"] == 1)
    return [f"{start:.1f}", f"{max(r['peak'] for r in runs) / MB:,.0f}"]


def _median(figures: dict[str, Any], contender: str, syntax: str, what: str) -> float:
    return statistics.median(costs(figures, contender, syntax, what))


def _spread(values: Sequence[float], unit: float) -> str:
    low, middle, high = (f(values) / unit for f in (min, statistics.median, max))
    return f"{middle:.1f}" if len(values) == 1 else f"{middle:.1f} ({low:.1f} to {high:.1f})"


def draw(figures: dict[str, Any], path: Path) -> None:
    """Draw wall time per object as bars, on a logarithmic scale."""
    syntaxes = list(figures["bytes"])
    chart = Figure(figsize=(1.6 * len(syntaxes), 4), layout="constrained")
    axes = chart.add_subplot()
    shown = [name for name in CONTENDERS if name != WITHOUT_BEAM]
    width = 0.8 / len(shown)
    for number, name in enumerate(shown):
        heights = [1000 * _median(figures, name, syntax, "wall") for syntax in syntaxes]
        axes.bar(
            np.arange(len(syntaxes)) + number * width, np.maximum(heights, 0.1), width, label=name
        )
    axes.set_xticks(np.arange(len(syntaxes)) + 0.4 - width / 2, syntaxes)
    axes.set(yscale="log", ylabel="ms an object, wall")
    axes.legend()
    chart.savefig(path, metadata={"Date": None})


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--films", type=int, default=8, help="films that the slowest ones get")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--syntaxes", nargs="+", default=list(SYNTAXES), choices=list(SYNTAXES))
    parser.add_argument("--work", type=Path, default=Path("build/bench"))
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/bench.json"))
    parser.add_argument("--plot-only", action="store_true", help="draw anew from the JSON file")
    args = parser.parse_args()
    figures = json.loads(args.out.read_text()) if args.plot_only else take(args)
    draw(figures, args.out.with_suffix(".svg"))
    print(tables(figures))
    return 0


if __name__ == "__main__":
    sys.exit(main())
