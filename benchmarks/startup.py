"""Measure start-up: help, usage errors, `inspect` of a file, and the first placed object of `route`.

Each command is a process of its own, interleaved with the others and repeated. Medians are printed, of
wall time and of the processor time of the process and its decoders, and their ratio to the bare imports
of PyTorch and Beam. Files are in the page cache after the first round, which does not count.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Final, NamedTuple

from pydicom.data import get_testdata_file

from benchmarks.profile_route import machine

PYTHON: Final = [sys.executable]
ROUTER: Final = [sys.executable, "-m", "pipeline"]
IMPORTS: Final = "import torch, apache_beam"
POLL_S: Final = 0.005


class Measured(NamedTuple):
    """Seconds of a process.

    Attributes:
        wall: until it ended, or until the first object was placed.
        cpu: user and system time of it and its children.
    """

    wall: float
    cpu: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path, help="JSON file of the results")
    args = parser.parse_args()
    image = str(get_testdata_file("RG1_UNCR.dcm"))
    commands = {
        "python -c pass": [*PYTHON, "-c", "pass"],
        IMPORTS: [*PYTHON, "-c", IMPORTS],
        "--help": [*ROUTER, "--help"],
        "route --help": [*ROUTER, "route", "--help"],
        "route --inp x (usage error)": [*ROUTER, "route", "--inp", "x"],
        "inspect FILE": [*ROUTER, "inspect", image],
        "route FILE, to the first placed object": [*ROUTER, "route", "--input", image, "--quiet"],
    }
    found: dict[str, list[Measured]] = {name: [] for name in commands}
    for number in range(args.rounds + 1):
        for name, command in commands.items():
            measured = run(command)
            if number:
                found[name].append(measured)
    results = summary(found)
    print(table(results))
    if args.out:
        args.out.write_text(json.dumps(results, indent=1) + "\n")


def run(command: list[str]) -> Measured:
    """Run a command; of `route`, take the wall time to the first placed object."""
    with tempfile.TemporaryDirectory() as folder:
        lake = Path(folder, "lake")
        is_route = "--input" in command
        before = _cpu_of_children()
        started = time.perf_counter()
        process = subprocess.Popen(
            [*command, "--lake", str(lake)] if is_route else command,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        wall = None
        while is_route and wall is None and process.poll() is None:
            time.sleep(POLL_S)
            if any(lake.glob("adult_chest/**/*.dcm")):
                wall = time.perf_counter() - started
        process.wait()
        wall = wall or time.perf_counter() - started
        return Measured(wall, _cpu_of_children() - before)


def summary(found: dict[str, list[Measured]]) -> dict[str, Any]:
    """Return medians, and ratios to the bare imports of the same round."""
    rows = {}
    for name, all_of in found.items():
        rows[name] = {
            "wall_s": statistics.median(one.wall for one in all_of),
            "cpu_s": statistics.median(one.cpu for one in all_of),
            "wall_ratio": statistics.median(
                one.wall / bare.wall for one, bare in zip(all_of, found[IMPORTS], strict=True)
            ),
            "cpu_ratio": statistics.median(
                one.cpu / bare.cpu for one, bare in zip(all_of, found[IMPORTS], strict=True)
            ),
        }
    return {"machine": machine(), "load": os.getloadavg(), "commands": rows}


def table(results: dict[str, Any]) -> str:
    """Return the results as Markdown."""
    lines = [
        json.dumps(results["machine"]),
        "",
        f"| | wall, s | CPU, s | wall / `{IMPORTS}` | CPU / the same |",
        "| --- | ---: | ---: | ---: | ---: |",
    ]
    for name, row in results["commands"].items():
        values = "{wall_s:.2f} | {cpu_s:.2f} | {wall_ratio:.2f} | {cpu_ratio:.2f}".format(**row)
        lines.append(f"| `{name}` | {values} |")
    return "\n".join(lines)


def _cpu_of_children() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


if __name__ == "__main__":
    main()
