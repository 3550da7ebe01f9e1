"""Forget a patient in a large lake, in processes that are killed: python -m tests.forget_soak --kills 20.

The lake has a patient with 40 objects among 20,000: routed with thumbnails, structured reports and
answers, decided again, quarantined. Each process is killed at another step and the command is repeated.
No file may have a trace, by a search that uses nothing of the router, and all else must be as before.
"""

from __future__ import annotations

import argparse
import functools
import hashlib
import os
import resource
import shutil
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from pipeline.cli import main as run_command
from tests.conftest import Lake, route_into
from tests.erasures import Hospital, content_of, files_with, hospital, identifiers
from tests.lake.rows import index_row, replica_of
from tests.sigkill import run_killed
from tests.synthetic import ROOT, dicom_bytes, image
from transforms.lake.append import append
from transforms.lake.append_log import LogShard
from transforms.lake.index_files import shard_of
from transforms.lake.layout import Layout
from transforms.lake.schema import IndexRow
from transforms.lake.verify import verify_lake

SHARDS = 4
STUDY_OBJECTS = 20
STEPS_BETWEEN = 9
PATIENT_IMAGES = 36


def fill(layout: Layout, objects: int) -> None:
    """Add objects of other patients to a lake: small, valid, with rows in the index."""
    width = len(str(objects)) + 1
    template = dicom_bytes(image(1, (16, 16)), name="9" * width, StudyInstanceUID="2.25.7")
    rows: dict[int, list[IndexRow]] = {shard: [] for shard in range(SHARDS)}
    for number in range(objects):
        name = f"{2 * 10 ** (width - 1) + number}"
        data = template.replace(f"{ROOT}.3.{'9' * width}".encode(), f"{ROOT}.3.{name}".encode())
        sha256 = hashlib.sha256(data).hexdigest()
        series = f"{ROOT}.2.{'9' * width}"
        uid, group = f"{ROOT}.3.{name}", f"2.25.{number // STUDY_OBJECTS}"
        target = layout.object_uri("spine", group, series, uid, sha256)
        path = Path(target)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        row = index_row(f"/archive/{name}.dcm", sha256, sop_instance_uid=uid)
        row = replace(
            row,
            source_size_bytes=len(data),
            object_uri=layout.relative(target),
            study_instance_uid=group,
            series_instance_uid=series,
            patient_key=hashlib.sha256(group.encode()).hexdigest(),
            prob_abdominal=0.0,
            prob_adult_chest=0.0,
            prob_pediatric_chest=0.0,
            prob_others=0.0,
            prob_spine=1.0,
            confidence=1.0,
        )
        rows[shard_of(row.identity, SHARDS)].append(row)
    with replica_of(layout) as replica:
        for shard, of_shard in rows.items():
            append(layout, replica, LogShard(SHARDS, shard), of_shard)


def link(lake: Hospital, root: Path) -> Hospital:
    """Return a copy of a lake whose files are hard links, but for its locks."""
    locks = shutil.ignore_patterns(".lock", ".writer.lock")
    shutil.copytree(lake.lake, root, copy_function=os.link, ignore=locks)
    return replace(lake, lake=root)


def trial(lake: Hospital, root: Path, step: int, before: dict[str, Any], names: set[str]) -> str:
    """Kill a process at a step, repeat its command, and return what is wrong, or how it went."""
    copy = link(lake, root)
    command = ["forget", str(root), "--patient_key", copy.patient_key, "--apply"]
    command += ["--ordered_by", "soak", "--json"]
    killed = run_killed(functools.partial(run_command, command), step)
    started = time.monotonic()
    if copy.apply("--json") != 0:
        return "failed"
    seconds = time.monotonic() - started
    if found := files_with(root, names):
        return f"traces in {found[:3]}"
    after = content_of(root)
    if after != {name: before[name] for name in after}:
        return "something else has changed"
    lost = [n for n in before.keys() - after.keys() if not n.startswith("structured_reports/")]
    if lost:
        return f"lost {lost[:3]}"
    if violations := verify_lake(Layout(str(root))).violations:
        return f"violations {violations[:3]}"
    return f"{'killed' if killed else 'not reached'}, completed in {seconds:.1f} s"


def main() -> None:
    """Build the lake, run the trials, and print the numbers."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--objects", type=int, default=20_000)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--folder", type=Path, help="for the lakes [default: a temporary one]")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=args.folder) as name:
        folder = Path(name)
        lake = hospital(folder, images=PATIENT_IMAGES)
        fill(Layout(str(lake.lake)), args.objects - 2 * (PATIENT_IMAGES + 4))
        names, before = identifiers(lake.lake), content_of(lake.lake)
        files = sum(path.is_file() for path in lake.lake.rglob("*"))
        print(f"{files} files, {len(names)} identifiers of the patient", flush=True)
        once = link(lake, folder / "once")
        started, used = time.monotonic(), resource.getrusage(resource.RUSAGE_SELF)
        assert once.apply("--deep") == 0
        now = resource.getrusage(resource.RUSAGE_SELF)
        cpu = now.ru_utime + now.ru_stime - used.ru_utime - used.ru_stime
        print(f"forget --deep: {time.monotonic() - started:.1f} s, {cpu:.1f} s of processor time")
        started = time.monotonic()
        assert verify_lake(Layout(str(once.lake)), deep=True).violations == []
        print(f"verify --deep: {time.monotonic() - started:.1f} s")
        again = route_into(Lake(once.lake), *once.options, inputs=(str(once.source),))
        print(f"routed again: {again['equation']}", flush=True)
        assert again["counts"]["forgotten"] == PATIENT_IMAGES + 4
        shutil.rmtree(once.lake)
        for number in range(args.kills):
            step = 1 + number * STEPS_BETWEEN
            root = folder / f"killed-{step}"
            result = trial(lake, root, step, before, names)
            shutil.rmtree(root)
            print(f"step {step}: {result}", flush=True)
            if "completed" not in result:
                raise SystemExit(1)


if __name__ == "__main__":
    main()
