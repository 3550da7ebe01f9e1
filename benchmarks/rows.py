"""Measure commands on a lake of many million rows: `python -m benchmarks.rows --rows 10000000`.

Each command is a new process; wall and processor time and peak memory are those of all its processes.
The lake has no objects, except with `--objects`, which `verify` needs: without them it would only report
that they are missing.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import duckdb

from benchmarks import processes
from benchmarks.profile_route import machine
from benchmarks.row_lake import NONE, SEGMENTS, SHARED, RowLake
from benchmarks.scale import build
from transforms.lake.index_files import list_index
from transforms.lake.index_replica import IndexReplica
from transforms.lake.layout import Layout

RESULTS: Final = Path(__file__).parent / "results" / "rows.json"
ROWS_PER_DAY: Final = 200_000
MIN_DAYS: Final = 10
LOOKED_UP: Final = 1_000
"""Objects of a poll, of which half are in the lake."""
MB: Final = 1e6
POLICY: Final = """\
thresholds: {abdominal: 0.8, adult_chest: 0.95, pediatric_chest: 0.8, spine: 0.8, others: 0.8}
ood_threshold: 1000
"""
REPLICA: Final = "replica"
STREAM: Final = "stream"
WAIT_S: Final = 0.2
SAMPLE_S: Final = 1.0
"""Reading the memory of a large process takes time of its own."""
PRISM: Final = Path(__file__).parent.parent / "build" / "bin" / "prism"
"""Runs the stream; `make servers` builds it."""


def main() -> None:
    """Write the lake, measure the commands, and print and store the results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--objects", action="store_true", help="write a name for each object")
    parser.add_argument("--only", nargs="*", help="commands to measure [default: all]")
    parser.add_argument("--lake", type=Path, help="lake of an earlier call; is kept")
    parser.add_argument("--work", type=Path, help="folder for the lake [default: temporary]")
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        kind, root = args.child
        print(json.dumps(measure_replica(root) if kind == REPLICA else measure_stream(root)))
        return
    processes.adopt_orphans()
    with tempfile.TemporaryDirectory(prefix="rows-", dir=args.work) as folder:
        work = Path(folder)
        lake = args.lake or work / "lake"
        if not lake.exists():
            days = max(MIN_DAYS, args.rows // ROWS_PER_DAY)
            RowLake(lake, objects=SHARED if args.objects else NONE).write(args.rows, days)
        results: dict[str, Any] = {
            "date": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "machine": machine(),
            "rows": args.rows,
            "objects": args.objects,
            "index_bytes": sum(f.stat().st_size for f in (lake / "index").rglob("*.parquet")),
            "index_files": sum(1 for _ in (lake / "index").rglob("*.parquet")),
            "commands": {},
        }
        for name, command in commands(lake, work).items():
            if not args.only or name in args.only:
                results["commands"][name] = measure(name, command, work)
                args.out.write_text(json.dumps(results, indent=2) + "\n")


def commands(lake: Path, work: Path) -> dict[str, list[str]]:
    """Return the commands to measure, by name, after what they read has been written."""
    for name, objects in (("3", 3), ("1000", 1_000)):
        build(work / name, objects)
    policy = work / "policy.yaml"
    policy.write_text(POLICY)
    router = [sys.executable, "-m", "pipeline"]
    child = [sys.executable, "-m", "benchmarks.rows", "--child"]
    route = [*router, "route", "--json", "--lake", str(lake), "--input"]
    return {
        REPLICA: [*child, REPLICA, str(lake)],
        "batch of 3": [*route, str(work / "3")],  # counts what headers claim, too
        "the same batch again": [*route, str(work / "3")],
        "batch of 1000": [*route, str(work / "1000")],
        "batch of 1000, empty lake": [
            *router,
            "route",
            "--json",
            "--lake",
            str(work / "empty"),
            "--input",
            str(work / "1000"),
        ],
        STREAM: [*child, STREAM, str(lake)],
        "report": [
            *router,
            "report",
            str(lake),
            "--out",
            str(work / "report.html"),
            "--images",
            "0",
        ],
        "reroute": [*router, "reroute", str(lake), "--policy", str(policy), "--json"],
        "verify": [*router, "verify", str(lake), "--json"],
        "compact": [*router, "compact", str(lake)],
    }


def measure(name: str, command: list[str], work: Path) -> dict[str, Any]:
    """Run a command and return its usage, and what a child of this module has measured."""
    out, err = work / "out", work / "err"
    usage = processes.watch(
        command, every_s=SAMPLE_S, stdout=out, stderr=err, kept=processes.children()
    )
    found: dict[str, Any] = {
        "code": usage.code,
        "wall_s": round(usage.wall_s, 1),
        "cpu_s": round(usage.cpu_s, 1),
        "rss_mb": round(usage.rss[processes.TOTAL] / MB),
        "pss_mb": round(usage.pss[processes.TOTAL] / MB),
    }
    if "--child" in command and not usage.code:
        found |= json.loads(out.read_bytes())
    print(name, json.dumps(found), flush=True)
    if usage.code:
        print(err.read_text()[-2000:], flush=True)
    return found


def measure_replica(root: str) -> dict[str, Any]:
    """Measure a stream's replica of the index: load, size, refresh and look-up."""
    layout = Layout(root)
    with _timed() as load:
        replica = IndexReplica(layout)
        replica.refresh()
        replica.rows_of([])
    disk = sum(f.stat().st_size for f in replica._folder.rglob("*") if f.is_file())
    query = "SELECT source_uri, source_version, sop_instance_uid FROM read_parquet($files)"
    query += " WHERE sop_instance_uid IS NOT NULL USING SAMPLE"
    files = list_index(layout)
    found, latest = (
        duckdb.execute(f"{query} {LOOKED_UP // 2} ROWS", {"files": some}).fetchall()
        for some in (files, files[-SEGMENTS:])
    )
    scattered, recent = ([(uri, version) for uri, version, _ in some] for some in (found, latest))
    new = [(f"{uri}.new", version) for uri, version in scattered]
    with _timed() as poll:
        replica.refresh()
        assert replica.existing([*recent, *new]) == set(recent)
    with _timed() as lookup_new:
        replica.rows_of(f"{uid}.1" for _, _, uid in found)
    with _timed() as lookup_known:
        replica.rows_of(str(uid) for _, _, uid in random.Random(1).sample(latest, 20))
    with _timed() as first:
        assert replica.existing([*scattered, *new]) == set(scattered)
    with _timed() as again:
        assert replica.existing([*scattered, *new]) == set(scattered)
    whole = sum(f.stat().st_size for f in replica._folder.rglob("*") if f.is_file())
    replica.close()
    return {
        "load": load,
        "disk_mb": round(disk / MB),
        "poll": poll,
        "look up 500 new identities": lookup_new,
        "look up 20 known identities": lookup_known,
        "find versions anywhere": first,
        "find them again": again,
        "disk_mb with versions": round(whole / MB),
    }


def measure_stream(root: str) -> dict[str, Any]:
    """Measure a stream: the time until it has written the rows of three objects, and the drain."""
    with tempfile.TemporaryDirectory() as folder:
        build(Path(folder, "input"), 3)
        router = [sys.executable, "-m", "pipeline"]
        command = [*router, "route", "--source", "watch", "--input", f"{folder}/input"]
        command += [
            "--prism_location",
            str(PRISM),
            "--lake",
            root,
            "--stable_for",
            "0.1",
            "--poll_interval",
            "1",
            "--quiet",
        ]
        before = set(Path(root, "index").rglob("*.parquet"))
        started = time.monotonic()
        stream = subprocess.Popen([*command, "--index_interval", "1"], stdout=subprocess.DEVNULL)
        rows: set[Path] = set()
        while stream.poll() is None and not rows:
            time.sleep(WAIT_S)
            rows = set(Path(root, "index").rglob("*.parquet")) - before
        first_row = time.monotonic() - started
        if not rows:
            raise SystemExit(f"the stream ended with {stream.returncode}")
        started = time.monotonic()
        subprocess.run([*router, "stop", root], check=True, stdout=subprocess.DEVNULL)
        code = stream.wait()
    return {
        "first_row_s": round(first_row, 1),
        "stop_s": round(time.monotonic() - started, 1),
        "stream_code": code,
    }


@contextlib.contextmanager
def _timed() -> Iterator[dict[str, float]]:
    """Measure wall and processor time of this process, in seconds."""
    measured: dict[str, float] = {}
    wall, cpu = time.monotonic(), _cpu()
    yield measured
    measured |= {"wall_s": round(time.monotonic() - wall, 2), "cpu_s": round(_cpu() - cpu, 2)}


def _cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


if __name__ == "__main__":
    main()
