"""Cost per object in one process, without start-up: python -m benchmarks.steady.

`bench` starts a process for each run, whose imports take longer than hundreds of images do, and vary by
more than the router's steps differ from the floor's. Here the contenders run in this process, first over
few images, then over many; the difference is the cost of the images. To compare two versions, run it in
both checkouts, one after the other.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import shutil
import statistics
import sys
import time
from pathlib import Path
from typing import Any, Final, NamedTuple

import torch

from benchmarks import processes
from benchmarks.bench import ROUTER, SYNTAXES, WITHOUT_BEAM, build, link
from benchmarks.contenders import CONTENDERS
from benchmarks.profile_route import machine
from models.training.evaluation.markdown import markdown_table
from pipeline.cli import main as router

FEW: Final = 8
FEW_RUNS: Final = 3
FLOOR: Final = "floor"
COMPARED: Final = (ROUTER, WITHOUT_BEAM, FLOOR, "copy")


class Usage(NamedTuple):
    """What a run took, with all its processes.

    Attributes:
        wall_s: Wall time in seconds.
        cpu_s: User and system time in seconds.
        faults: Page faults without reads (minor faults).
    """

    wall_s: float
    cpu_s: float
    faults: int


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--images", type=int, default=192, help="number of images of a syntax")
    parser.add_argument("--rounds", type=int, default=1, help="number of repetitions")
    parser.add_argument("--syntaxes", nargs="+", default=list(SYNTAXES), choices=list(SYNTAXES))
    parser.add_argument("--contenders", nargs="+", default=list(COMPARED), choices=COMPARED)
    parser.add_argument("--work", type=Path, default=Path("build/bench"), help="working folder")
    parser.add_argument("--out", type=Path, help="JSON file of the results")
    args = parser.parse_args()
    if args.images <= FEW:
        parser.error(f"--images: more than {FEW}, which are run for comparison")
    processes.adopt_orphans()
    build(args.work, args.images)
    threads = torch.get_num_threads()
    found: list[dict[str, Any]] = []
    for _ in range(args.rounds):
        for syntax in args.syntaxes:
            few, many = (link(args.work, syntax, n) for n in (FEW, args.images))
            for path in many.iterdir():
                path.read_bytes()  # into the page cache
            for name in args.contenders:
                usages = []
                for source in (few, *[few] * FEW_RUNS, many):  # the first one imports and loads
                    torch.set_num_threads(threads)
                    usages.append(measure(name, source, args.work / "output"))
                per_object = [
                    (many_images - statistics.median(few_images)) / (args.images - FEW)
                    for *few_images, many_images in zip(*usages[1:], strict=True)
                ]
                found.append({"syntax": syntax, "contender": name, **Usage(*per_object)._asdict()})
    if args.out is not None:
        results = {"machine": machine(), "images": args.images, "runs": found}
        args.out.write_text(json.dumps(results, indent=1) + "\n")
    print(table(found, args.syntaxes))
    return 0


def measure(contender: str, source: Path, output: Path) -> Usage:
    """Run a contender over a folder in this process.

    Raises:
        RuntimeError: The router has failed.
    """
    shutil.rmtree(output, ignore_errors=True)
    os.sync()
    before, started = _counters(), time.perf_counter()
    if contender == ROUTER:
        arguments = ["route", "--quiet", "--json", "--input", str(source), "--lake", str(output)]
        with contextlib.redirect_stdout(io.StringIO()):
            code = router(arguments)
        if code:
            raise RuntimeError(f"the router exits with {code}")
    else:
        output.mkdir()
        list(CONTENDERS[contender](sorted(source.iterdir()), output))
    wall, after = time.perf_counter() - started, _counters()
    shutil.rmtree(output)
    return Usage(wall, after[0] - before[0], after[1] - before[1])


def _counters() -> tuple[float, int]:
    """Return CPU seconds and page faults of this process and its descendants, ended ones included."""
    ticks = faults = 0
    for pid in (os.getpid(), *(process.pid for process in processes.descendants())):
        with contextlib.suppress(OSError):  # it has ended
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            faults += int(fields[7]) + int(fields[8])  # proc(5): minflt, cminflt
            ticks += sum(map(int, fields[11:15]))  # utime, stime, cutime, cstime
    return ticks / processes.CLOCK_TICKS_PER_S, faults


def table(found: list[dict[str, Any]], syntaxes: list[str]) -> str:
    """Return medians as Markdown, in milliseconds per object, and ratios of the router."""

    def median(syntax: str, contender: str, metric: str) -> float:
        values = [
            run[metric]
            for run in found
            if run["syntax"] == syntax and run["contender"] == contender
        ]
        return float(statistics.median(values))

    rows = []
    contenders = dict.fromkeys(run["contender"] for run in found)
    for name in contenders:
        for metric, unit in (("cpu_s", 1000), ("wall_s", 1000), ("faults", 1)):
            label = f"{name}, {'page faults' if metric == 'faults' else metric[:-2] + ', ms'}"
            rows.append([label, *(f"{unit * median(s, name, metric):.1f}" for s in syntaxes)])
    for other, metric in ((WITHOUT_BEAM, "cpu_s"), (FLOOR, "cpu_s"), (FLOOR, "wall_s")):
        if not {ROUTER, other} <= contenders.keys():
            continue
        ratios = (median(s, ROUTER, metric) / median(s, other, metric) for s in syntaxes)
        rows.append([f"router / {other}, {metric[:-2]}", *(f"{ratio:.2f}" for ratio in ratios)])
    return markdown_table(["", *syntaxes], rows)


if __name__ == "__main__":
    sys.exit(main())
