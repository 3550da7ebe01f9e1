"""Kills runs at random moments and runs again: python -m tests.soak --kills 20 --objects 300.

The lake must equal the baseline lake of an uninterrupted run: the same objects, byte for byte, and the
same rows except for run ids and times.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, JPEG2000Lossless, RLELossless

from tests.conftest import Lake
from tests.synthetic import dicom_bytes, image
from transforms.lake.layout import Layout
from transforms.lake.verify import verify_lake

SYNTAXES = (ExplicitVRLittleEndian, JPEG2000Lossless, RLELossless)
VOLATILE = {"run_id", "ingested_at", "decided_at", "source_state"}


@dataclass
class Trial:
    """The result for one lake whose runs were killed before one ran to completion.

    Attributes:
        kills: number of killed runs.
        placed: objects in the lake after the last kill.
        recovered: rows that the last run recovered.
        seconds: duration of the last run.
        lost: rows and objects that only the baseline lake has.
        duplicated: rows and objects that the baseline lake does not have.
        corrupted: rows and objects that differ, contract violations, and leftover temporary files.
    """

    kills: int
    placed: int
    recovered: int
    seconds: float
    lost: int
    duplicated: int
    corrupted: int

    @property
    def ok(self) -> bool:
        return not (self.lost or self.duplicated or self.corrupted)


def build(folder: Path, objects: int) -> None:
    """Write radiographs in several transfer syntaxes, duplicates, conflicts, CTs and truncated files."""
    folder.mkdir(parents=True)
    for number in range(objects):
        kind = number % 10
        name = str({4: number - 1, 5: number - 2}.get(kind, number))  # 4 and 5 repeat 3's UIDs
        pixels = image(number - 1 if kind == 4 else number, (160, 128))
        syntax = SYNTAXES[(number - 1 if kind == 4 else number) % len(SYNTAXES)]
        extra = {"SOPClassUID": CTImageStorage} if kind == 7 else {}
        data = dicom_bytes(pixels, name=name, syntax=syntax, **extra)
        if kind == 8:
            data = data[: len(data) // 2]
        (folder / f"{number:05d}.dcm").write_bytes(data)


def start(source: Path, lake: Path) -> subprocess.Popen[bytes]:
    """Start a run as the leader of a new process group."""
    command = [sys.executable, "-m", "pipeline", "route", "--input", str(source)]
    return subprocess.Popen(
        [*command, "--lake", str(lake), "--json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


def finish(source: Path, lake: Path) -> tuple[dict[str, Any], float]:
    """Run to completion; return the summary and the duration in seconds."""
    started = time.monotonic()
    out, _ = (run := start(source, lake)).communicate()
    if run.returncode:
        raise RuntimeError(f"the run exited with {run.returncode}: {out[-2000:]!r}")
    summary: dict[str, Any] = json.loads(out)
    return summary, time.monotonic() - started


def placed(lake: Path) -> int:
    """Return the number of objects in a lake."""
    return sum(1 for part in ("objects", "quarantine") for _ in (lake / part).rglob("*.dcm"))


def kill_at(source: Path, lake: Path, objects: int, delay_s: float) -> bool:
    """Start a run and kill its process group once `objects` are placed; False if it ended before."""
    run = start(source, lake)
    try:
        while run.poll() is None:
            if placed(lake) >= objects:
                time.sleep(delay_s)
                break
            time.sleep(0.01)
        ended = run.poll() is not None
        os.killpg(run.pid, signal.SIGKILL)
    except ProcessLookupError:
        ended = True
    run.communicate()
    return not ended


def rows_of(lake: Path) -> dict[str, dict[str, Any]]:
    """Return the rows by source URI, without the columns that differ between runs."""
    return {
        row["source_uri"]: {k: v for k, v in row.items() if k not in VOLATILE}
        for row in Lake(lake).rows()
    }


def objects_of(lake: Path) -> dict[str, str]:
    """Return the sha256 of each object by its name in the lake."""
    tree = Lake(lake).tree()
    return {name: sha for name, sha in tree.items() if name.startswith(("objects", "quarantine"))}


def compare(lake: Path, baseline_lake: Path) -> tuple[int, int, int]:
    """Return the numbers of lost, duplicated and corrupted rows and objects: see `Trial`."""
    lost = duplicated = corrupted = 0
    for actual, expected in (
        (rows_of(lake), rows_of(baseline_lake)),
        (objects_of(lake), objects_of(baseline_lake)),
    ):
        lost += len(expected.keys() - actual.keys())
        duplicated += len(actual.keys() - expected.keys())
        corrupted += sum(actual[key] != expected[key] for key in actual.keys() & expected.keys())
    duplicated += len(Lake(lake).rows()) - len(rows_of(lake))
    corrupted += len(verify_lake(Layout(str(lake)), deep=True).violations)
    leftover = [p for part in ("journal", ".tmp") for p in (lake / part).glob("*")]
    return lost, duplicated, corrupted + len(leftover)


def trial(source: Path, baseline_lake: Path, lake: Path, moments: list[tuple[int, float]]) -> Trial:
    """Kill a run at each moment (objects placed, then seconds), run to completion and compare."""
    kills = 0
    for objects, delay_s in moments:
        kills += kill_at(source, lake, objects, delay_s)
    placed_before = placed(lake)
    summary, seconds = finish(source, lake)
    return Trial(
        kills, placed_before, summary["counts"]["recovered"], seconds, *compare(lake, baseline_lake)
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--objects", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    rng = random.Random(args.seed)
    work = Path(tempfile.mkdtemp(prefix="soak-"))
    source, baseline_lake = work / "source", work / "baseline"
    build(source, args.objects)
    _, baseline_s = finish(source, baseline_lake)
    total = placed(baseline_lake)
    print(f"{args.objects} objects; the baseline run places {total} in {baseline_s:.1f} s")
    headings = [("kills", 6), ("placed", 8), ("recovered", 11), ("last run", 10)]
    headings += [("lost", 6), ("duplicated", 12), ("corrupted", 11), ("", 8)]
    print("".join(f"{heading:>{width}}" for heading, width in headings))
    trials: list[Trial] = []
    while sum(t.kills for t in trials) < args.kills:
        count = min(rng.randint(1, 3), args.kills - sum(t.kills for t in trials))
        moments = [(rng.randint(0, total), rng.uniform(0, 0.3)) for _ in range(count)]
        lake = work / f"lake{len(trials)}"
        trials.append(one := trial(source, baseline_lake, lake, sorted(moments)))
        print(
            f"{one.kills:>6}{one.placed:>8}{one.recovered:>11}{one.seconds:>9.1f}s"
            f"{one.lost:>6}{one.duplicated:>12}{one.corrupted:>11}{'OK' if one.ok else 'FAILED':>8}",
            flush=True,
        )
        if one.ok:
            shutil.rmtree(lake)
    kills = sum(t.kills for t in trials)
    sums = {
        name: sum(getattr(t, name) for t in trials) for name in ("lost", "duplicated", "corrupted")
    }
    print(f"{kills} kills: " + ", ".join(f"{name} {number}" for name, number in sums.items()))
    if any(sums.values()):
        print(f"FAILED: the lakes that differ are kept in {work}")
        return 1
    shutil.rmtree(work)
    return 0


if __name__ == "__main__":
    sys.exit(main())
