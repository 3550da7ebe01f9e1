"""Measure reading and hashing alone, from a store near and far: python -m benchmarks.store_reads.

Compares three threads that each download an object through the client's stream (as decoders did), three
threads that read it at once, and `ReadAhead`. Nothing is decoded; see `benchmarks.stores` for whole runs.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

from benchmarks.profile_route import machine
from benchmarks.stores import FAR, NEAR, servers
from models.training.evaluation.markdown import markdown_table
from tests.stores import GS, Store
from transforms.core.object_ref import ObjectRef
from transforms.core.read_ahead import ReadAhead, Reservation
from transforms.core.read_object import read_ref
from transforms.core.shared_bytes import SharedBytes
from transforms.core.worker_resources import MAX_READS, default_read_ahead_bytes
from transforms.sandbox.object_read import ObjectRead
from transforms.storage.schemes import reset_clients, storage_of

SIZES: Final = {"0.4 MB": (400_000, 120), "13 MB": (13_000_000, 24)}
"""Bytes and number of objects."""
DECODERS: Final = 3
ROUND_TRIP_MS, MEGABITS_PER_S = 50.0, 400.0


def streamed(refs: Sequence[ObjectRef]) -> None:
    """Read as before: a thread for each decoder, in the blocks of the client."""

    def read(ref: ObjectRef) -> None:
        with SharedBytes() as data:
            storage_of(ref.uri).copy_to(ref.uri, ref.version, data.file)
            data.sha256()

    with ThreadPoolExecutor(DECODERS) as pool:
        list(pool.map(read, refs))


def at_once(refs: Sequence[ObjectRef]) -> None:
    """Read in one read from the connection, a thread for each decoder."""

    def read(ref: ObjectRef) -> None:
        with read_ref(ref) as data:
            data.sha256()

    with ThreadPoolExecutor(DECODERS) as pool:
        list(pool.map(read, refs))


def ahead(refs: Sequence[ObjectRef]) -> None:
    """Read ahead of decoders that always wait."""
    reads, left = ReadAhead(default_read_ahead_bytes(), MAX_READS), threading.Semaphore(0)

    def start(ref: ObjectRef) -> None:
        read = ObjectRead(ref, max_bytes=1 << 30, is_cached=False, folder=None)

        def done(error: BaseException | None, reservation: Reservation) -> None:
            read.finish(error).close()
            reservation.release()
            reads.grow()
            left.release()

        reads.submit(read, done)

    for ref in refs:
        start(ref)
    for _ in refs:
        left.acquire()


WAYS: Final[dict[str, Callable[[Sequence[ObjectRef]], None]]] = {
    "3 threads, streamed": streamed,
    "3 threads, at once": at_once,
    "read ahead": ahead,
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=3, help="number of repetitions")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/store_reads.json"))
    args = parser.parse_args()
    runs: list[dict[str, Any]] = []
    with servers(GS, ROUND_TRIP_MS, MEGABITS_PER_S) as started:
        refs: dict[tuple[str, str], list[ObjectRef]] = {}
        for place, (url, _) in started.items():
            os.environ["STORAGE_EMULATOR_HOST"] = url
            reset_clients()
            store = Store(GS, url)
            for size, (count_bytes, count) in SIZES.items():
                data = os.urandom(count_bytes)
                with ThreadPoolExecutor(16) as pool:
                    names = [f"{size}/{number}" for number in range(count)]
                    list(pool.map(lambda name: store.write(name, data), names))  # noqa: B023
            found = storage_of(store.root).list_below(store.root)
            for one in found:
                size = one.uri.split("/")[3]
                refs.setdefault((place, size), []).append(ObjectRef.of(one))
        for number in range(args.rounds):
            for size, (_, count) in SIZES.items():
                for way, read in WAYS.items():
                    for place, (url, _) in started.items():
                        os.environ["STORAGE_EMULATOR_HOST"] = url
                        reset_clients()
                        wall, cpu = time.perf_counter(), time.process_time()
                        read(refs[place, size])
                        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
                        runs.append({
                            "round": number, "size": size, "way": way, "place": place,
                            "wall_ms": 1e3 * wall / count, "cpu_ms": 1e3 * cpu / count,
                        })  # fmt: skip
    results = {
        "date": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "machine": machine(),
        "round_trip_ms": ROUND_TRIP_MS,
        "megabits_per_s": MEGABITS_PER_S,
        "runs": runs,
    }
    args.out.write_text(json.dumps(results, indent=1) + "\n")
    print(table(runs))
    return 0


def table(runs: Sequence[dict[str, Any]]) -> str:
    """Return the medians as Markdown."""

    def median(metric: str, size: str, way: str, place: str) -> float:
        key = (size, way, place)
        chosen = [r[metric] for r in runs if (r["size"], r["way"], r["place"]) == key]
        return float(statistics.median(chosen))

    return markdown_table(
        [
            "ms per object",
            *(f"{place}, {what}" for place in (NEAR, FAR) for what in ("wall", "CPU")),
        ],
        [
            [
                f"{size}, {way}",
                *(
                    f"{median(metric, size, way, place):.1f}"
                    for place in (NEAR, FAR)
                    for metric in ("wall_ms", "cpu_ms")
                ),
            ]
            for size in SIZES
            for way in WAYS
        ],
    )


if __name__ == "__main__":
    sys.exit(main())
