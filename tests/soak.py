"""Kills runs at random moments and runs again: python -m tests.soak --kills 20 --objects 300.

A lake that was killed over must equal one that was not: the same objects with the same bytes, and
the same rows but for run ids and times.
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
VOLATILE = {"run_id", "ingested_at", "object_uri"}


@dataclass
class Trial:
    """One lake: killed some times, then run to its end.

    Attributes:
        kills: runs that were killed.
        placed: objects that stood in the lake at the last kill.
        recovered: rows that the last run took over.
        seconds: of the last run.
        lost: rows or objects of the undisturbed lake that are missing.
        doubled: rows or objects too many.
        corrupted: objects or rows that differ, and breaches of the audit.
    """

    kills: int
    placed: int
    recovered: int
    seconds: float
    lost: int
    doubled: int
    corrupted: int

    @property
    def sound(self) -> bool:
        return not (self.lost or self.doubled or self.corrupted)


def build(folder: Path, objects: int) -> None:
    """Write films in several syntaxes, duplicates, conflicts, a CT and broken files."""
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
    """Start a run in a process group of its own."""
    command = [sys.executable, "-m", "pipeline", "route", "--input", str(source)]
    return subprocess.Popen(
        [*command, "--lake", str(lake), "--json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


def finish(source: Path, lake: Path) -> tuple[dict[str, Any], float]:
    """Run to the end; give back the summary and the seconds it took."""
    started = time.monotonic()
    out, _ = (run := start(source, lake)).communicate()
    if run.returncode:
        raise RuntimeError(f"the run ended with {run.returncode}: {out[-2000:]!r}")
    summary: dict[str, Any] = json.loads(out)
    return summary, time.monotonic() - started


def placed(lake: Path) -> int:
    """Objects that stand in a lake."""
    return sum(1 for part in ("objects", "quarantine") for _ in (lake / part).rglob("*.dcm"))


def kill_at(source: Path, lake: Path, objects: int, delay_s: float) -> bool:
    """Start a run and kill its group once so many objects stand; False if it ended before."""
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
    """Rows by source, less what differs between two runs."""
    return {
        row["source_uri"]: {k: v for k, v in row.items() if k not in VOLATILE}
        for row in Lake(lake).rows()
    }


def objects_of(lake: Path) -> dict[str, str]:
    """sha256 of each object by its name in the lake."""
    tree = Lake(lake).tree()
    return {name: sha for name, sha in tree.items() if name.startswith(("objects", "quarantine"))}


def compare(lake: Path, baseline_lake: Path) -> tuple[int, int, int]:
    """Return what is lost, doubled and corrupted in a lake against an undisturbed one."""
    lost = doubled = corrupted = 0
    for mine, theirs in (
        (rows_of(lake), rows_of(baseline_lake)),
        (objects_of(lake), objects_of(baseline_lake)),
    ):
        lost += len(theirs.keys() - mine.keys())
        doubled += len(mine.keys() - theirs.keys())
        corrupted += sum(mine[key] != theirs[key] for key in mine.keys() & theirs.keys())
    doubled += len(Lake(lake).rows()) - len(rows_of(lake))
    corrupted += len(verify_lake(Layout(str(lake)), deep=True).violations)
    left = [p for part in ("journal", ".tmp") for p in (lake / part).glob("*")]
    return lost, doubled, corrupted + len(left)


def trial(source: Path, baseline_lake: Path, lake: Path, moments: list[tuple[int, float]]) -> Trial:
    """Kill a run at each moment (objects placed, then seconds), run to the end and compare."""
    kills = 0
    for objects, delay_s in moments:
        kills += kill_at(source, lake, objects, delay_s)
    stood = placed(lake)
    summary, seconds = finish(source, lake)
    return Trial(
        kills, stood, summary["counts"]["recovered"], seconds, *compare(lake, baseline_lake)
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--objects", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    rng = random.Random(args.seed)
    work = Path(tempfile.mkdtemp(prefix="soak-"))
    source, baseline_lake = work / "source", work / "calm"
    build(source, args.objects)
    _, calm_s = finish(source, baseline_lake)
    whole = placed(baseline_lake)
    print(f"{args.objects} objects; an undisturbed run takes {calm_s:.1f} s and places {whole}")
    heads = (("kills", 6), ("placed", 8), ("recovered", 11), ("last run", 10))
    heads += (("lost", 6), ("doubled", 9), ("corrupted", 11))
    print("".join(f"{head:>{width}}" for head, width in heads))
    trials: list[Trial] = []
    while sum(t.kills for t in trials) < args.kills:
        count = min(rng.randint(1, 3), args.kills - sum(t.kills for t in trials))
        moments = [(rng.randint(0, whole), rng.uniform(0, 0.3)) for _ in range(count)]
        lake = work / f"lake{len(trials)}"
        trials.append(one := trial(source, baseline_lake, lake, sorted(moments)))
        print(
            f"{one.kills:>6}{one.placed:>8}{one.recovered:>11}{one.seconds:>9.1f}s"
            f"{one.lost:>6}{one.doubled:>9}{one.corrupted:>11}",
            flush=True,
        )
        if one.sound:
            shutil.rmtree(lake)
    kills = sum(t.kills for t in trials)
    sums = {
        name: sum(getattr(t, name) for t in trials) for name in ("lost", "doubled", "corrupted")
    }
    print(f"{kills} kills: " + ", ".join(f"{name} {number}" for name, number in sums.items()))
    if any(sums.values()):
        print(f"the lakes that differ are kept under {work}")
        return 1
    shutil.rmtree(work)
    return 0


if __name__ == "__main__":
    sys.exit(main())
