"""Compare object stores near and far with local files: python -m benchmarks.stores.

Generates small and large images in several transfer syntaxes and routes them from this machine's disk,
from a store on this machine, and from the same store behind a round trip and a bandwidth for each
connection (`tests/servers/storefake`). Places and checkouts are interleaved. Wall time per object is that
between placed objects in the middle of a run, and CPU time the difference of runs over many images and
over one, so that imports and start-up do not count; the CPU time of the store's server is measured apart.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from pydicom import dcmread
from pydicom.uid import ExplicitVRLittleEndian, JPEG2000Lossless, JPEGLSLossless

from benchmarks import processes
from benchmarks.ablation import slug
from benchmarks.profile_route import machine
from models.training.evaluation.markdown import markdown_table
from tests.stores import GS, S3, STOREFAKE, Store
from tests.synthetic import dicom_bytes, image
from transforms.storage.schemes import reset_clients, storage_of

SIZES: Final = {"0.4 MB": 0.4e6, "13 MB": 12.9e6}
SYNTAXES: Final = {
    "raw": ExplicitVRLittleEndian,
    "JPEG 2000": JPEG2000Lossless,
    "JPEG-LS": JPEGLSLossless,
}
BYTES_PER_PIXEL: Final = {"raw": 2.0, "JPEG 2000": 0.95, "JPEG-LS": 0.98}
"""Of the generated images, about."""
ASPECT: Final = 1.2
DISTINCT: Final = 4
"""Images of a kind with distinct pixels; the others are copies with other UIDs."""
LOCAL, NEAR, FAR = "local", "near", "far"
PLACES: Final = (LOCAL, NEAR, FAR)
UPLOADS: Final = 16
SAMPLE_EVERY_S: Final = 1.0
MIDDLE: Final = (0.25, 0.95)
"""Part of a run, by placed objects, in which the wall time per object is measured."""
CLOCK_TICKS_PER_S: Final = os.sysconf("SC_CLK_TCK")
MB: Final = 1e6


@dataclass(frozen=True)
class Server:
    """A store on this machine.

    Attributes:
        url: its address.
        store: a bucket of it, with the images.
        processes: ids of its processes.
        scheme: gs or s3.
    """

    url: str
    store: Store
    processes: tuple[int, ...]
    scheme: str

    @property
    def environment(self) -> dict[str, str]:
        """Variables with which clients find it."""
        if self.scheme == GS:
            return {"STORAGE_EMULATOR_HOST": self.url}
        return {"AWS_ENDPOINT_URL_S3": self.url}

    def cpu_s(self) -> float:
        """CPU time of its processes in seconds."""
        return sum(_ticks(pid) for pid in self.processes) / CLOCK_TICKS_PER_S


def _ticks(pid: int) -> int:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])  # proc(5): utime, stime


def build(folder: Path, images: int, kinds: Sequence[str]) -> None:
    """Write a folder of images for each kind; existing images are kept."""
    for size, size_bytes in SIZES.items():
        for name, syntax in SYNTAXES.items():
            if kind_of(size, name) not in kinds:
                continue
            subfolder = folder / kind_of(size, name)
            subfolder.mkdir(parents=True, exist_ok=True)
            columns = round((size_bytes / BYTES_PER_PIXEL[name] / ASPECT) ** 0.5)
            shape = (round(columns * ASPECT), columns)
            for number in range(images):
                path = subfolder / f"{number:04d}.dcm"
                if path.exists():
                    continue
                scratch = path.with_suffix(".tmp")
                if number < DISTINCT:
                    uid = f"{list(SIZES).index(size) + 1}{list(SYNTAXES).index(name)}{number}"
                    pixels = image(number, shape)
                    scratch.write_bytes(dicom_bytes(pixels, name=uid, syntax=syntax))
                else:
                    copy = dcmread(subfolder / f"{number % DISTINCT:04d}.dcm")
                    copy.SOPInstanceUID = f"{copy.SOPInstanceUID}.{number}"
                    copy.file_meta.MediaStorageSOPInstanceUID = copy.SOPInstanceUID
                    copy.save_as(scratch)
                scratch.rename(path)


def kind_of(size: str, syntax: str) -> str:
    """Return the name of the folder of a size and a syntax."""
    return f"{slug(size)}-{slug(syntax)}"


@contextlib.contextmanager
def servers(
    scheme: str, round_trip_ms: float, megabits: float
) -> Iterator[dict[str, tuple[str, tuple[int, ...]]]]:
    """Start a store twice, near and far; yield address and process ids by place."""
    distance = ["-rtt", f"{round_trip_ms}ms", "-rate", f"{megabits * 1e6:.0f}"]
    with contextlib.ExitStack() as stack:
        found = {}
        for place, options in ((NEAR, []), (FAR, distance)):
            upstream, pids = [], []
            if scheme == S3:
                url, pid = stack.enter_context(_moto())
                upstream, pids = ["-upstream", url], [pid]
            url, pid = stack.enter_context(
                _started([str(STOREFAKE), "-addr", "127.0.0.1:0", *upstream, *options])
            )
            found[place] = url, (*pids, pid)
        yield found


@contextlib.contextmanager
def _started(command: Sequence[str]) -> Iterator[tuple[str, int]]:
    """Run a server whose first line is its address."""
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield process.stdout.readline().strip(), process.pid
        finally:
            process.kill()


@contextlib.contextmanager
def _moto() -> Iterator[tuple[str, int]]:
    code = (
        "import time; from moto.server import ThreadedMotoServer as Server; "
        "server = Server('127.0.0.1', 0, verbose=False); server.start(); "
        "print('http://%s:%s' % server.get_host_and_port(), flush=True); time.sleep(1e6)"
    )
    with _started([sys.executable, "-c", code]) as started:
        yield started


def upload(store: Store, corpus: Path, kinds: Sequence[str]) -> None:
    """Write images of the corpus into a bucket."""
    files = [path for kind in kinds for path in sorted((corpus / kind).glob("*.dcm"))]
    with ThreadPoolExecutor(UPLOADS) as pool:
        list(pool.map(lambda p: store.write(str(p.relative_to(corpus)), p.read_bytes()), files))


def measure(
    checkout: Path, inputs: Sequence[str], lake: str, server: Server | None, work: Path
) -> dict[str, Any]:
    """Route once; return the resource usage."""
    command = [sys.executable, "-m", "pipeline", "route", "--json", "--lake", lake]
    for one in inputs:
        command += ["--input", one]
    environment = {**os.environ, "PYTHONPATH": str(checkout)}
    if server is not None:
        environment |= server.environment
    command = ["env", "-C", str(checkout), *(f"{n}={v}" for n, v in environment.items()), *command]
    before = server.cpu_s() if server else 0.0
    usage = processes.watch(
        command, every_s=SAMPLE_EVERY_S, stdout=work / "out", stderr=work / "err",
        kept=processes.children(),
    )  # fmt: skip
    server_cpu = server.cpu_s() - before if server else 0.0
    if usage.code:
        raise RuntimeError((work / "err").read_text()[-2000:])
    return {
        "wall": usage.wall_s,
        "interval": _interval(_placed_times(lake)),
        "cpu": usage.cpu_s - server_cpu,
        "server_cpu": server_cpu,
        "peak": usage.pss.get("route", 0),
    }


def _placed_times(lake: str) -> list[float]:
    """Return when each object was placed, in order."""
    if "://" not in lake:
        return sorted(path.stat().st_ctime for path in Path(lake).rglob("*.dcm"))
    found = storage_of(lake).list_below(f"{lake}/objects")
    return sorted(one.modified or 0.0 for one in found)


def _interval(times: Sequence[float]) -> float:
    """Return the mean time between two placed objects in the middle of a run, in seconds."""
    first, last = (round(share * (len(times) - 1)) for share in MIDDLE)
    return (times[last] - times[first]) / max(1, last - first)


def measure_all(args: argparse.Namespace) -> dict[str, Any]:
    """Measure everything; the results are written after every run."""
    processes.adopt_orphans()
    corpus = args.work / "corpus"
    build(corpus, args.images, args.kinds)
    checkouts = dict(one.split("=", 1) for one in args.checkout)
    results: dict[str, Any] = {
        "date": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "machine": machine(),
        "commits": {name: _commit(path) for name, path in checkouts.items()},
        "round_trip_ms": args.round_trip_ms,
        "megabits_per_s": args.megabits_per_s,
        "images": args.images,
        "bytes": {
            kind: int(statistics.mean(p.stat().st_size for p in (corpus / kind).iterdir()))
            for kind in args.kinds
        },
        "runs": [],
    }
    os.environ |= {
        "AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
    }  # fmt: skip
    for scheme in args.stores:
        with servers(scheme, args.round_trip_ms, args.megabits_per_s) as started:
            stores: dict[str, Server] = {}
            for place, (url, pids) in started.items():
                os.environ["STORAGE_EMULATOR_HOST"] = url
                stores[place] = Server(url, Store(scheme, url), pids, scheme)
                upload(stores[place].store, corpus, args.kinds)
            for number in range(args.rounds):
                for lake in args.lakes:
                    for kind in (*(() if number else (None,)), *args.kinds):
                        _round(args, results, checkouts, stores, scheme, lake, kind, number)
    return results


def _round(
    args: argparse.Namespace,
    results: dict[str, Any],
    checkouts: dict[str, str],
    stores: dict[str, Server],
    scheme: str,
    lake_in: str,
    kind: str | None,
    number: int,
) -> None:
    """Measure every place and checkout once, with one kind of images; None: with one image."""
    for place in PLACES:
        for name, checkout in checkouts.items():
            server = stores.get(place)
            folder = kind or args.kinds[0]
            names = [f"{folder}/{'' if kind else '0000.dcm'}"]
            root = server.store.root if server else str((args.work / "corpus").resolve())
            in_store = lake_in == "store" and server is not None
            base = root if in_store else str(args.work.resolve())
            lake = f"{base}/lakes/{time.time_ns()}"
            if server:
                os.environ |= server.environment
                reset_clients()
            usage = measure(
                Path(checkout).resolve(), [f"{root}/{n}" for n in names], lake, server, args.work
            )
            _clean(lake, server)
            run = {
                "round": number, "store": scheme, "lake": lake_in, "place": place,
                "checkout": name, "kind": kind, "images": args.images if kind else 1,
            }  # fmt: skip
            results["runs"].append({**run, **usage})
            args.out.parent.mkdir(parents=True, exist_ok=True)
            args.out.write_text(json.dumps(results, indent=1) + "\n")
            shown = (
                f"{usage['wall']:.1f} s, CPU {usage['cpu']:.1f} s, {1e3 * usage['interval']:.1f} ms"
            )
            print(*run.values(), shown, file=sys.stderr, flush=True)


def _clean(lake: str, server: Server | None) -> None:
    if "://" not in lake:
        subprocess.run(["rm", "-rf", lake], check=True)


def _commit(path: str) -> str:
    command = ["git", "-C", path, "describe", "--always", "--dirty", "--abbrev=12"]
    return subprocess.check_output(command, text=True).strip()


def cost(results: dict[str, Any], metric: str, number: int | None = None, **of: str) -> float:
    """Return the cost per object without start-up, in the unit of the metric; the median of all rounds.

    The processor time of a start is the median of all places: it varies by more from run to run than from
    place to place, and the imports of a store's client belong to the cost of that store.

    Args:
        results: as `measure_all` returns them.
        metric: interval (wall time), cpu or server_cpu.
        number: number of one round; None for all.
        **of: store, lake, place, checkout and kind.
    """
    kind = of.pop("kind")
    runs = _matching(results["runs"], of)
    chosen = [r for r in runs if r["kind"] == kind and number in (None, r["round"])]
    if metric == "interval":
        return float(statistics.median(r[metric] for r in chosen))
    if metric == "cpu":
        of.pop("place")
    starts = [r for r in _matching(results["runs"], of) if r["kind"] is None]
    start_up = statistics.median(r[metric] for r in starts)
    costs = [(r[metric] - start_up) / (r["images"] - 1) for r in chosen]
    return float(statistics.median(costs))


def _matching(runs: Sequence[dict[str, Any]], of: dict[str, str]) -> list[dict[str, Any]]:
    return [run for run in runs if all(run[name] == value for name, value in of.items())]


def ratio(results: dict[str, Any], metric: str, places: tuple[str, str], **of: str) -> float:
    """Return the median over the rounds of the ratio of two places' costs."""
    rounds = sorted({r["round"] for r in results["runs"]})
    above, below = (
        [cost(results, metric, number, place=place, **of) for number in rounds] for place in places
    )
    return float(statistics.median(a / b for a, b in zip(above, below, strict=True)))


def tables(results: dict[str, Any]) -> str:
    """Return the results as Markdown."""
    return "\n\n".join(_tables(results))


def _tables(results: dict[str, Any]) -> Iterator[str]:
    runs = results["runs"]
    for scheme, lake in dict.fromkeys((r["store"], r["lake"]) for r in runs):
        yield f"{scheme}://, lake: {lake}. Milliseconds per object, wall / CPU; ratios"
        rows = []
        for kind, size in results["bytes"].items():
            for checkout in results["commits"]:
                of = {"store": scheme, "lake": lake, "checkout": checkout, "kind": kind}
                both = (
                    [cost(results, metric, place=place, **of) for metric in ("interval", "cpu")]
                    for place in PLACES
                )
                rows.append([
                    f"{kind} ({size / MB:.1f} MB)", checkout,
                    *(f"{1e3 * wall:.1f} / {1e3 * cpu:.1f}" for wall, cpu in both),
                    f"{ratio(results, 'interval', (FAR, NEAR), **of):.2f}",
                    f"{ratio(results, 'cpu', (NEAR, LOCAL), **of):.2f}",
                ])  # fmt: skip
        yield markdown_table(
            ["", "checkout", *PLACES, "far / near, wall", "near / local, CPU"], rows
        )
    yield "Start-up: a run over one image, s; peak memory of the main process, MB (PSS)"
    yield markdown_table(
        ["", "checkout", *PLACES, *(f"{place}, MB" for place in PLACES)],
        [
            [
                f"{scheme}, lake: {lake}",
                checkout,
                *_of_places(runs, scheme, lake, checkout, "wall", statistics.median, 1),
                *_of_places(runs, scheme, lake, checkout, "peak", max, MB),
            ]
            for scheme, lake in dict.fromkeys((r["store"], r["lake"]) for r in runs)
            for checkout in results["commits"]
        ],
    )


def _of_places(
    runs: Sequence[dict[str, Any]],
    scheme: str,
    lake: str,
    checkout: str,
    metric: str,
    of: Callable[[Iterator[float]], float],
    unit: float,
) -> list[str]:
    chosen = _matching(runs, {"store": scheme, "lake": lake, "checkout": checkout})
    if metric == "wall":
        chosen = [r for r in chosen if r["kind"] is None]
    return [
        f"{of(r[metric] for r in chosen if r['place'] == place) / unit:,.1f}" for place in PLACES
    ]


def main() -> int:
    kinds = [kind_of(size, syntax) for size in SIZES for syntax in SYNTAXES]
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--images", type=int, default=60, help="number of images of a kind")
    parser.add_argument("--rounds", type=int, default=3, help="number of repetitions")
    parser.add_argument("--kinds", nargs="+", default=kinds, choices=kinds)
    parser.add_argument("--stores", nargs="+", default=[GS, S3], choices=[GS, S3])
    parser.add_argument(
        "--lakes", nargs="+", default=[LOCAL, "store"], choices=[LOCAL, "store"],
        help="where the lake is: on this machine's disk, or in the store of the images",
    )  # fmt: skip
    parser.add_argument("--round_trip_ms", type=float, default=50.0)
    parser.add_argument("--megabits_per_s", type=float, default=400.0, help="per connection")
    parser.add_argument(
        "--checkout", nargs="+", default=["this=."], metavar="NAME=PATH",
        help="working trees to measure, in turn",
    )  # fmt: skip
    parser.add_argument("--work", type=Path, default=Path("build/stores"), help="working folder")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/stores.json"))
    parser.add_argument("--tables-only", action="store_true", help="print an existing JSON file")
    args = parser.parse_args()
    results = json.loads(args.out.read_text()) if args.tables_only else measure_all(args)
    print(tables(results))
    return 0


if __name__ == "__main__":
    sys.exit(main())
