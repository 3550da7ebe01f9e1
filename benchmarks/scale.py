"""Measure cost per object and peak memory by run size: python -m benchmarks.scale.

Routes the first 1,000, 10,000, … objects of one corpus of small objects with large headers, each into a
new lake by the command line, and measures all processes involved. The cost of a run over one object, its
start-up, is subtracted. The cost per object should not depend on the size.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pyarrow.dataset as ds
from pydicom.dataset import Dataset

from benchmarks import processes
from benchmarks.chart import Panel, draw
from benchmarks.profile_route import machine
from models.training.evaluation.markdown import markdown_table
from tests.engines.flink import HOME, LIBS, READY, flink_cluster
from tests.synthetic import dicom_bytes, image
from transforms.lake.layout import Layout
from transforms.lake.verify import verify_lake

IN_PROCESS, FLINK = "in-process", "flink"
SHAPE = (64, 48)
FIRST = 10_000_000
"""Number of the first object; all numbers have as many digits, so that a template can be filled in."""
TEMPLATES = 16
OBJECTS_PER_FOLDER = 1_000
MAX_VERIFIED = 10_000
MB = 1e6


def template(seed: int) -> list[bytes]:
    """Return the parts of an object between the occurrences of its number, in UIDs and other values."""
    code = Dataset()
    code.CodeValue, code.CodingSchemeDesignator, code.CodeMeaning = "36643-5", "LN", "XR Chest 2V"
    step = Dataset()
    step.ScheduledProcedureStepDescription = "Chest, two views"
    step.ScheduledProcedureStepID, step.RequestedProcedureID = "SPS1", "RP1"
    step.ScheduledProtocolCodeSequence = [code, code]
    number = str(FIRST)
    data = dicom_bytes(
        image(seed, SHAPE),
        name=number,
        PatientID=f"P{number}",
        AccessionNumber=number,
        PatientBirthDate="19700101",
        PatientSex="F",
        PatientAge="050Y",
        PatientWeight="70",
        PatientSize="1.72",
        EthnicGroup="unknown",
        PatientComments="none " * 40,
        AdditionalPatientHistory="cough for three weeks " * 20,
        ImageType=["ORIGINAL", "PRIMARY", ""],
        StudyDate="20200102",
        SeriesDate="20200102",
        AcquisitionDate="20200102",
        ContentDate="20200102",
        StudyTime="101112.131",
        SeriesTime="101113.131",
        AcquisitionTime="101114.131",
        ContentTime="101115.131",
        Manufacturer="MAKER",
        ManufacturerModelName="MODEL 1",
        InstitutionName="INSTITUTION",
        InstitutionAddress="ADDRESS " * 8,
        InstitutionalDepartmentName="RADIOLOGY",
        StationName="ROOM1",
        ReferringPhysicianName="SECRET^REFERRER",
        PerformingPhysicianName="SECRET^PERFORMER",
        OperatorsName="SECRET^OPERATOR",
        StudyDescription="Chest, two views",
        SeriesDescription="Chest, frontal",
        ProtocolName="CHEST PA",
        BodyPartExamined="CHEST",
        ViewPosition="PA",
        ImageLaterality="U",
        PatientOrientation=["L", "F"],
        StudyID="S1",
        SeriesNumber="1",
        AcquisitionNumber="1",
        InstanceNumber="1",
        KVP="125",
        ExposureTime="8",
        XRayTubeCurrent="250",
        Exposure="2",
        ExposureInuAs="2000",
        DistanceSourceToDetector="1800",
        DistanceSourceToPatient="1700",
        FilterType="NONE",
        Grid="FOCUSED",
        FocalSpots="1.2",
        DetectorType="DIRECT",
        DetectorConfiguration="AREA",
        DetectorID="D1",
        DeviceSerialNumber="1234",
        SoftwareVersions=["1.0", "2.0"],
        ImagerPixelSpacing=["0.15", "0.15"],
        PixelSpacing=["0.14", "0.14"],
        WindowCenter="2048",
        WindowWidth="4096",
        RescaleIntercept="0",
        RescaleSlope="1",
        RescaleType="US",
        PixelIntensityRelationship="LOG",
        PixelIntensityRelationshipSign=1,
        PresentationLUTShape="IDENTITY",
        LossyImageCompression="00",
        BurnedInAnnotation="NO",
        ProcedureCodeSequence=[code],
        AnatomicRegionSequence=[code],
        ViewCodeSequence=[code],
        RequestAttributesSequence=[step],
    )
    parts = data.split(number.encode())
    assert len(parts) == 7, "SOP Instance UID twice, two other UIDs, Patient ID, Accession Number"
    return parts


def build(folder: Path, objects: int) -> None:
    """Write the corpus: objects with distinct UIDs, a thousand per folder."""
    templates = [template(seed) for seed in range(TEMPLATES)]
    for number in range(objects):
        path = _path(folder, number)
        if not number % OBJECTS_PER_FOLDER:
            path.parent.mkdir(parents=True)
        path.write_bytes(str(FIRST + number).encode().join(templates[number % TEMPLATES]))


def link(corpus: Path, folder: Path, objects: int) -> None:
    """Create a folder with hard links to the first objects of the corpus."""
    for number in range(objects):
        path = _path(folder, number)
        if not number % OBJECTS_PER_FOLDER:
            path.parent.mkdir(parents=True)
        path.hardlink_to(_path(corpus, number))


def _path(folder: Path, number: int) -> Path:
    return folder / f"{number // OBJECTS_PER_FOLDER:03d}" / f"{number:06d}.dcm"


@contextlib.contextmanager
def engine_options(engine: str, work: Path, flink_options: Sequence[str]) -> Iterator[list[str]]:
    """Start the engine for one run; yield the options of `route`."""
    if engine == IN_PROCESS:
        yield []
        return
    with flink_cluster(work / "cluster") as cluster:
        yield [
            "--runner=PortableRunner", f"--job_endpoint={cluster.jobs}", "--parallelism=2",
            "--environment_type=EXTERNAL", f"--environment_config={cluster.workers}",
            *flink_options,
        ]  # fmt: skip
    processes.reap()  # orphans of the cluster
    shutil.rmtree(work / "cluster")


def measure(
    engine: str, source: Path, work: Path, objects: int, args: argparse.Namespace
) -> dict[str, Any]:
    """Route a folder into a new lake, check the lake and delete it."""
    lake, out, err = work / "lake", work / "out", work / "err"
    command = [sys.executable, "-m", "pipeline", "route", "--json"]
    command += ["--input", str(source), "--lake", str(lake)]
    with engine_options(engine, work, args.flink_option) as options:
        usage = processes.watch(
            [*command, *options], every_s=args.every, stdout=out, stderr=err,
            kept=processes.children(),
        )  # fmt: skip
    problems, summary = check(lake, out, usage.code, objects)
    if problems:
        print(err.read_text(errors="replace")[-2000:], file=sys.stderr)
    shutil.rmtree(lake, ignore_errors=True)
    return {
        "engine": engine,
        "objects": objects,
        "problems": problems,
        "verified": objects <= MAX_VERIFIED,
        **asdict(usage),
        "counts": summary.get("counts"),
        "metrics": summary.get("metrics"),
    }


def check(lake: Path, out: Path, code: int, objects: int) -> tuple[list[str], dict[str, Any]]:
    """Return the problems of a run, and its summary."""
    if code:
        return [f"exit code {code}"], {}
    summary: dict[str, Any] = json.loads(out.read_bytes())
    counts = summary["counts"]
    rows = ds.dataset(lake / "index", format="parquet", partitioning="hive").count_rows()
    checks = {
        "incomplete": not summary["complete"],
        f"{counts['discovered']} discovered": counts["discovered"] != objects,
        f"{rows} rows": rows != objects,
        "some objects are neither routed nor in review": counts["routed"] + counts["review"]
        != objects,
    }
    if objects <= MAX_VERIFIED:
        violations = verify_lake(Layout(str(lake))).violations
        checks[f"{len(violations)} violations of the contract"] = bool(violations)
    return [problem for problem, is_present in checks.items() if is_present], summary


def add_cost_per_object(runs: Sequence[dict[str, Any]]) -> None:
    """Add the cost per object without start-up, in ms, to each successful run."""
    for run in runs:
        starts = [r for r in runs if r["engine"] == run["engine"] and r["objects"] == 1]
        if run["objects"] == 1 or run["problems"] or any(s["problems"] for s in starts):
            continue
        for metric in ("wall", "cpu"):
            start = statistics.median(s[f"{metric}_s"] for s in starts)
            cost = (run[f"{metric}_s"] - start) / (run["objects"] - 1)
            run[f"{metric}_ms_per_object"] = round(1000 * cost, 3)


def tables(results: dict[str, Any]) -> str:
    """Return the results as Markdown."""
    succeeded = [run for run in results["runs"] if not run["problems"]]
    heads = ["engine", "objects", "wall, s", "CPU, s", "wall, ms per object", "CPU, ms per object"]
    heads += ["peak RSS, MB", "peak PSS, MB"]
    lines = [
        [
            run["engine"], f"{run['objects']:,}", f"{run['wall_s']:.1f}", f"{run['cpu_s']:.1f}",
            _number(run.get("wall_ms_per_object")), _number(run.get("cpu_ms_per_object")),
            f"{run['rss'][processes.TOTAL] / MB:,.0f}", f"{run['pss'][processes.TOTAL] / MB:,.0f}",
        ]
        for run in succeeded
    ]  # fmt: skip
    parts = [markdown_table(heads, lines)]
    growth, memory = [], []
    for engine in dict.fromkeys(run["engine"] for run in succeeded):
        by_size = {run["objects"]: run for run in succeeded if run["engine"] == engine}
        sized = [by_size[size] for size in sorted(by_size) if "wall_ms_per_object" in by_size[size]]
        if len(sized) > 1:
            small, large = sized[0], sized[-1]
            growth.append([
                engine, f"{large['objects']:,} vs. {small['objects']:,}",
                *(_change(large[f"{m}_ms_per_object"], small[f"{m}_ms_per_object"])
                  for m in ("wall", "cpu")),
                *(_change(large[m][processes.TOTAL], small[m][processes.TOTAL])
                  for m in ("rss", "pss")),
            ])  # fmt: skip
        for kind in kinds_of(by_size.values()):
            cells = [_pair(by_size.get(size), kind) for size in sizes_of(succeeded)]
            memory.append([engine, kind, *cells])
    heads = ["engine", "objects", "wall per object", "CPU per object", "peak RSS", "peak PSS"]
    parts += ["Growth: the largest size compared with the smallest", markdown_table(heads, growth)]
    heads = ["engine", "processes", *(f"{size:,}" for size in sizes_of(succeeded))]
    parts += [
        "Peak RSS / PSS in MB by kind of process and number of objects",
        markdown_table(heads, memory),
    ]
    parts += [
        f"FAILED: {run['engine']}, {run['objects']:,} objects: {'; '.join(run['problems'])}"
        for run in results["runs"]
        if run["problems"]
    ]
    return "\n\n".join(parts)


def sizes_of(runs: Sequence[dict[str, Any]]) -> list[int]:
    """Return the sizes of runs in ascending order."""
    return sorted({run["objects"] for run in runs})


def kinds_of(runs: Any) -> list[str]:
    """Return the kinds of processes of runs; the total is last."""
    kinds = {kind for run in runs for kind in run["rss"]} - {processes.TOTAL}
    return [*sorted(kinds, key=str.lower), processes.TOTAL]


def chart(results: dict[str, Any]) -> str:
    """Return charts of cost per object, and of peak memory by kind and engine, by run size, as SVG."""
    succeeded = sorted(
        (r for r in results["runs"] if not r["problems"]), key=lambda run: run["objects"]
    )
    engines = list(dict.fromkeys(run["engine"] for run in succeeded))
    costs = {
        f"{engine}, {name}": [
            (run["objects"], run[key])
            for run in succeeded
            if run["engine"] == engine and run.get(key, 0) > 0
        ]
        for engine in engines
        for name, key in (("wall", "wall_ms_per_object"), ("CPU", "cpu_ms_per_object"))
    }
    panels = [Panel("Cost per object, without start-up", "ms", costs, dashed_suffix="CPU")]
    for engine in engines:
        by_size = {run["objects"]: run for run in succeeded if run["engine"] == engine}
        lines = {
            kind: [(n, run["pss"][kind] / MB) for n, run in by_size.items() if kind in run["pss"]]
            for kind in kinds_of(by_size.values())
        }
        panels.append(Panel(f"Peak memory, {engine}", "MB (PSS)", lines))
    return draw(panels, "objects")


def _pair(run: dict[str, Any] | None, kind: str) -> str:
    if run is None or kind not in run["rss"]:
        return ""
    return f"{run['rss'][kind] / MB:,.0f} / {run['pss'][kind] / MB:,.0f}"


def _change(large: float, small: float) -> str:
    return f"{100 * (large / small - 1):+.1f} %" if small > 0 else "noise"


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


def environment(args: argparse.Namespace) -> dict[str, Any]:
    """Return the machine, versions and options of the measurement."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    versions = {"router": version("dicom-imaging-router")}
    if FLINK in args.engines:
        (dist,) = (HOME / "lib").glob("flink-dist-*.jar")
        (runner,) = LIBS.glob("beam-runners-flink-*.jar")
        versions |= {"flink": dist.stem.rpartition("-")[2], "flink runner": runner.stem}
    return {
        "date": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "machine": {**machine(), "memory_gb": round(memory / 1e9, 1), **versions},
        "shape": SHAPE,
        "sample_every_s": args.every,
        "flink_options": args.flink_option,
    }


def measure_all(args: argparse.Namespace) -> dict[str, Any]:
    """Measure everything; the results are written after every run."""
    processes.adopt_orphans()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # leaves the context of the cluster
    results: dict[str, Any] = {**environment(args), "runs": []}
    sizes = sorted({1, *args.sizes})
    with tempfile.TemporaryDirectory(prefix="scale-", dir=args.work) as folder:
        work = Path(folder)
        build(work / "corpus", max(sizes))
        results["object_bytes"] = _path(work / "corpus", 0).stat().st_size
        for size in sizes:
            link(work / "corpus", work / str(size), size)
        for engine in args.engines:
            for size in [1] * args.starts + sizes[1:]:
                run = measure(engine, work / str(size), work, size, args)
                results["runs"].append(run)
                add_cost_per_object(results["runs"])
                write(results, args.out)
                print(
                    f"{time.strftime('%H:%M:%S')} {engine}, {size:,} objects: {run['wall_s']:.1f} s",
                    *run["problems"], sep="; ", file=sys.stderr, flush=True,
                )  # fmt: skip
    return results


def write(results: dict[str, Any], out: Path) -> None:
    """Write results as JSON."""
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(results, indent=1) + "\n")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--sizes", type=int, nargs="+", default=[1_000, 10_000, 50_000])
    parser.add_argument(
        "--engines", nargs="+", choices=(IN_PROCESS, FLINK), default=[IN_PROCESS, FLINK]
    )
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/scale.json"))
    parser.add_argument(
        "--starts",
        type=int,
        default=3,
        help="number of runs over one object, of which the median counts",
    )
    parser.add_argument(
        "--every", type=float, default=0.5, help="interval of memory samples in seconds"
    )
    parser.add_argument("--work", type=Path, help="folder for the corpus and the lakes")
    parser.add_argument(
        "--flink-option", action="append", default=[], metavar="OPTION",
        help="Beam option for runs on Flink; can be repeated",
    )  # fmt: skip
    parser.add_argument(
        "--plot-only", action="store_true", help="draw the chart from an existing JSON file"
    )
    args = parser.parse_args()
    if args.starts < 1 or min(args.sizes) < 1:
        parser.error("--starts and --sizes must be at least 1")
    if FLINK in args.engines and not args.plot_only and not READY.exists():
        parser.error("Flink is not installed: install Java and Maven, then run 'make flink'")
    results = json.loads(args.out.read_text()) if args.plot_only else measure_all(args)
    args.out.with_suffix(".svg").write_text(chart(results))
    print(tables(results))
    return int(any(run["problems"] for run in results["runs"]))


if __name__ == "__main__":
    sys.exit(main())
