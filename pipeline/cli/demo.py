"""`dicom-router demo`: real DICOM files through the whole pipeline."""

from __future__ import annotations

import argparse
import importlib.util
import os
from pathlib import Path
from typing import Any, Final

import pyarrow.dataset as ds

from models.handler import choose_device
from pipeline.cli.arguments import add_model_argument, add_object_arguments
from pipeline.cli.config import object_config
from pipeline.cli.route import announce, exit_code
from pipeline.run_batch import run as run_pipeline
from pipeline.summary import render
from transforms.config.route_config import ConfigError
from transforms.storage.local import uri_to_path

RUNNER: Final = "DirectRunner"
PACKAGES: Final = {"pydicom-data": "data_store/data", "pydicom": "pydicom/data/test_files"}
FILES: Final = (
    ("pydicom-data", "RG1_UNCR.dcm", "chest, frontal"),
    ("pydicom-data", "RG1_J2KR.dcm", "the same chest in JPEG 2000"),
    ("pydicom-data", "RG3_UNCR.dcm", "lower leg"),
    ("pydicom-data", "RG3_J2KI.dcm", "the same leg in lossy JPEG 2000"),
    ("pydicom-data", "693_UNCR.dcm", "CT slice"),
    ("pydicom", "CT_small.dcm", "CT slice, cropped"),
    ("pydicom", "MR_small.dcm", "MR slice"),
    ("pydicom", "MR_small_padded.dcm", "MR slice, padded file"),
    ("pydicom-data", "US1_UNCR.dcm", "ultrasound"),
    ("pydicom", "rtplan.dcm", "radiotherapy plan, no image"),
    ("pydicom", "MR_truncated.dcm", "MR slice, cut off"),
    ("pydicom", "no_meta.dcm", "damaged header"),
    ("pydicom", "README.txt", "no DICOM at all"),
)
QUERY: Final = "select destination, count(*) from '{lake}/index/**/*.parquet' group by 1"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `demo`."""
    parser.epilog = "Needs the 'demo' extra: pip install 'dicom-imaging-router[demo]'."
    parser.add_argument("--lake", default="demo-lake", metavar="ROOT", help="folder of the lake")
    add_model_argument(parser)
    add_object_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Route the files and print a table of what became of each."""
    sources = {str(path): text for path, text in _sources()}
    config = object_config(args, list(sources), args.lake)
    announce(config, choose_device(args.device), RUNNER)
    summary = run_pipeline(config, runner=RUNNER, beam_options=args.beam_options, quiet=False)
    print(_table(sources, _rows(Path(config.layout.root))))
    print(render(summary, config.layout.root))
    print("\nGo on with:\n")
    query = QUERY.format(lake=args.lake)
    print(f'  .venv/bin/python -c "import duckdb; print(duckdb.sql(\\"{query}\\"))"')
    print(f"  .venv/bin/dicom-router verify {args.lake} --deep\n")
    return exit_code(summary)


def _sources() -> list[tuple[Path, str]]:
    found = []
    for package, name, text in FILES:
        folder = PACKAGES[package]
        spec = importlib.util.find_spec(folder.split("/")[0])
        if spec is None or spec.origin is None:
            raise ConfigError(
                f"the package {package} is missing; pip install 'dicom-imaging-router[demo]'"
            )
        found.append((Path(spec.origin).parents[1] / folder / name, text))
    return found


def _rows(lake: Path) -> dict[str, dict[str, Any]]:
    table = ds.dataset(lake / "index", format="parquet", partitioning="hive").to_table()
    return {os.path.realpath(uri_to_path(row["source_uri"])): row for row in table.to_pylist()}


def _table(sources: dict[str, str], rows: dict[str, dict[str, Any]]) -> str:
    lines = ["", f"{'file':<22}{'what it is':<32}{'status':<13}{'destination':<17}{'why'}"]
    for path, text in sources.items():
        row = rows.get(os.path.realpath(path), {})
        why = str(row.get("reason")).replace("_", " ")
        if row.get("confidence") is not None:
            why += f", {row['confidence']:.0%} sure"
        lines.append(
            f"{Path(path).name:<22}{text:<32}{row.get('status')!s:<13}{row.get('destination')!s:<17}{why}"
        )
    return "\n".join(lines)
